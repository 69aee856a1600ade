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
from omnimix.media.opening import needed

_CONTAINERS = (
    "mov,matroska,webm,avi,flv,mpeg,mpegts,mpegvideo,ogg,asf,gif,webp_pipe,png_pipe,jpeg_pipe,"
    "wav,mp3,flac,aac,aiff,amr,au,caf,w64,ac3,eac3,m4v,h264,hevc,ivf,dv,wv,opus"
)


@contextmanager
def opened(
    source: bytes | BinaryIO, track: str, where: str, formats: str
) -> Iterator[tuple[Any, Any]]:
    """The container and its first track of a kind.

    Args:
        source: the bytes, or a file open for reading.
        track: `audio` or `video`.
        where: its name in messages.
        formats: the way out where it is nothing that can be opened.

    Raises:
        MediaError: nothing that can be opened, no such track, or damage found while it is read.
    """
    av = needed("av", "videos and sounds of this format")
    what = "sound" if track == "audio" else "video"
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        container = av.open(file, mode="r", options=options, metadata_errors="replace")
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


def reason(error: Exception) -> str:
    """What FFmpeg says, in short."""
    text = getattr(error, "strerror", None) or str(error)
    return text.strip().splitlines()[0][:120].rstrip(".") if text.strip() else type(error).__name__
