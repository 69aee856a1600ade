"""Files of films and sounds as FFmpeg sees them, through PyAV, without ever following what they name.

A playlist is a file that names others, on the disk or in the net. Only containers that hold their own
contents are opened, and nothing but the bytes given is read.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from omnimix.errors import MediaError
from omnimix.media.ends import cut_off, mp3_frame
from omnimix.media.opening import needed

_CONTAINERS = (
    "mov,matroska,webm,avi,flv,mpeg,mpegts,mpegvideo,ogg,asf,gif,webp_pipe,png_pipe,jpeg_pipe,"
    "wav,mp3,flac,aac,aiff,amr,au,caf,w64,ac3,eac3,m4v,h264,hevc,ivf,dv,wv,opus"
)


@contextmanager
def opened(
    source: bytes | BinaryIO, track: str, where: str, formats: str, format: str | None = None
) -> Iterator[tuple[Any, Any]]:
    """The container and its first track of a kind.

    Args:
        source: the bytes, or a file open for reading.
        track: `audio` or `video`.
        where: its name in messages.
        formats: the way out where it is nothing that can be opened.
        format: the container, where it is known.

    Raises:
        MediaError: nothing that can be opened, no such track, or damage found while it is read.
    """
    av = needed("av", "videos and sounds of this format")
    what = "sound" if track == "audio" else "video"
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        container = av.open(
            file, mode="r", format=format, options=options, metadata_errors="replace"
        )
    except (av.FFmpegError, ValueError, OSError, EOFError) as error:
        raise MediaError(
            f"this is no {what} that can be opened ({reason(error)})", where=where, hint=formats
        ) from None
    try:
        with container:
            stream = next((s for s in container.streams if s.type == track), None)
            if stream is None or stream.codec_context is None:
                raise MediaError(f"the file holds no {what}", where=where, hint=formats)
            yield container, stream
    except (av.FFmpegError, EOFError) as error:
        raise MediaError(
            f"the {what} is damaged and cannot be decoded ({reason(error)})",
            where=where,
            hint="export it again",
        ) from None


def packets(container: Any, stream: Any, what: str, where: str) -> Iterator[Any]:
    """The packets of a track that hold something, and the empty one that ends it.

    Raises:
        MediaError: the file is cut off: its last packet is no whole one.
    """
    corrupt = False
    for packet in container.demux(stream):
        if packet.size:
            corrupt = packet.is_corrupt
        elif packet.pts is not None or packet.dts is not None:
            continue  # a frame that was dropped; a decoder would take it for the end
        yield packet
    if corrupt:
        raise cut_off(what, where)


def decoded(
    container: Any, stream: Any, what: str, where: str, loose: bool = False
) -> Iterator[Any]:
    """The frames of a track in the order in which they are shown.

    Args:
        loose: it is MP3: notes between frames, as joined files hold them, are passed over. Such a file is cut off
            where it states a length that it has not, and ends inside a frame.

    Raises:
        MediaError: as `packets`.
    """
    av = needed("av", "videos and sounds of this format")
    seconds, last = 0.0, b""
    for packet in packets(container, stream, what, where):
        last = bytes(packet) if loose and packet.size else last
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            if not loose:
                raise
            continue
        for frame in frames:
            seconds = float(frame.time or 0)
            yield frame
    stated = float(stream.duration * stream.time_base) if loose and stream.duration else 0.0
    if stated > seconds * 1.02 + 0.2 and len(last) < mp3_frame(last):
        raise cut_off(what, where)


def reason(error: Exception) -> str:
    """What FFmpeg says, in short."""
    text = getattr(error, "strerror", None) or str(error)
    return text.strip().splitlines()[0][:120].rstrip(".") if text.strip() else type(error).__name__
