"""Where a file ends by its own words, which is all of its header that is believed.

Lengths that headers state are wrong too often: what is written to a pipe has none or a placeholder, what was
trimmed still has the old one. So what a file holds is decoded and counted, and a file is cut off only where its
container reaches beyond the last byte, or where the decoder says so.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import BinaryIO, Literal, TypeAlias

from omnimix.errors import MediaError

_OPEN = 0x7FFF_0000
"""From here on a size of 32 bits is what writers put who cannot go back: sox, FFmpeg, services for speech."""

_Order: TypeAlias = Literal["little", "big"]
_FORMS: dict[bytes, _Order] = {
    b"RIFF": "little",
    b"RIFX": "big",
    b"FORM": "big",
    b"RF64": "little",
    b"BW64": "little",
}
_KINDS = {b"WAVE", b"AVI ", b"AIFF", b"AIFC"}
_HEADER = 128  # bytes of the header of such a file, at most
_CONTENT = {b"data", b"SSND", b"BODY", b"LIST", b"RIFF"}
_NOTES = {b"LIST", b"id3 ", b"ID3 ", b"bext", b"fact", b"PEAK", b"cue ", b"JUNK", b"smpl"}
_LINK = {
    b"OggS": re.compile(rb"OggS\0[\x02\x03\x06\x07]"),  # a first page
    b"fLaC": re.compile(rb"fLaC[\0\x80]\0\0\x22"),
}
_KILOBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_PAGE = 65_307  # bytes of the largest page of Ogg


def check_end(file: BinaryIO, what: str, where: str) -> None:
    """That a file is there up to the end that its container states.

    Args:
        what: `sound` or `video`.
        where: its name in messages.

    Raises:
        MediaError: it is cut off.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(12)
    magic = b"ftyp" if head[4:8] == b"ftyp" else head[:4]
    ends = _ENDS.get(b"FLV" if magic[:3] == b"FLV" else magic)
    if ends is not None and not ends(file, size):
        raise cut_off(what, where)
    file.seek(0)


def cut_off(what: str, where: str) -> MediaError:
    return MediaError(f"the {what} is cut off", where=where, hint="copy or download it again")


def _chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and stated size of the outer chunks of RIFF and FORM, or of RF64 with its long sizes."""
    order, at, long = _FORMS[_read(file, 0, 4)], 12, None
    while at + 8 <= size:
        head = _read(file, at, 8)
        stated = int.from_bytes(head[4:], order)
        if head[:4] == b"ds64":
            long = int.from_bytes(_read(file, at + 16, 8), order)
        elif head[:4] == b"data" and long is not None:
            stated = long if long < 1 << 62 else _OPEN
        yield head[:4], at + 8, stated
        at += 8 + stated + stated % 2


def _form_ends(file: BinaryIO, size: int) -> bool:
    """The chunks with the content; some writers count the header in its size."""
    if _read(file, 8, 4) not in _KINDS:
        return True
    held = [(start, stated) for name, start, stated in _chunks(file, size) if name in _CONTENT]
    return bool(held) and all(
        stated >= _OPEN or start + stated <= size + min(start, _HEADER) for start, stated in held
    )


def _pages_end(file: BinaryIO, size: int) -> bool:
    """The last page of Ogg; behind one that says it is the last may stand what is no page."""
    tail = _read(file, max(0, size - _PAGE - 27), size)
    page = tail[max(0, tail.rfind(b"OggS\0")) :]
    if len(page) < 27 or not page[26]:
        return False
    length = 27 + page[26] + sum(page[27 : 27 + page[26]])
    return len(page) == length or (len(page) > length and bool(page[5] & 4))


def _segment_ends(file: BinaryIO, size: int) -> bool:
    """The segment of Matroska and WebM, where its size is known."""
    start, stated = _element(_read(file, 4, 8), 4)
    start, stated = _element(_read(file, start + stated + 4, 8), start + stated + 4)
    return stated < 0 or start + stated <= size


def _element(head: bytes, at: int) -> tuple[int, int]:
    """Where an element's content starts whose size stands at a place, and that size; -1 is unknown."""
    length = 9 - head[:1].ljust(1)[0].bit_length() if head[:1] > b"\0" else 8
    stated = int.from_bytes(head[:length], "big") & ((1 << 7 * length) - 1)
    return at + length, -1 if stated == (1 << 7 * length) - 1 else stated


def _boxes_end(file: BinaryIO, size: int) -> bool:
    """The outer boxes of MP4 and MOV; the size 0 reaches to the end."""
    at = 0
    while at + 8 <= size:
        head = _read(file, at, 16)
        stated = int.from_bytes(head[:4], "big")
        stated = int.from_bytes(head[8:], "big") if stated == 1 else stated or size - at
        if stated < 8:
            return True  # no box: what is wrong here, the decoder says
        at += stated
    return at <= size


def _tag_ends(file: BinaryIO, size: int) -> bool:
    """The last tag of FLV, whose size stands behind it."""
    before = int.from_bytes(_read(file, size - 4, 4), "big")
    if not 11 <= before <= size - 17:
        return False
    return int.from_bytes(_read(file, size - before - 3, 3), "big") + 11 == before


def _snd_ends(file: BinaryIO, size: int) -> bool:
    head = _read(file, 4, 8)
    stated = int.from_bytes(head[4:], "big")
    return stated >= _OPEN or int.from_bytes(head[:4], "big") + stated <= size


def _trailer_ends(file: BinaryIO, size: int) -> bool:
    return _read(file, max(0, size - 64), 64).rstrip(b"\0")[-1:] == b";"


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


_ENDS = {
    **dict.fromkeys(_FORMS, _form_ends),
    b"OggS": _pages_end,
    b"\x1a\x45\xdf\xa3": _segment_ends,
    b"ftyp": _boxes_end,
    b"FLV": _tag_ends,
    b".snd": _snd_ends,
    b"GIF8": _trailer_ends,
}


def links(content: bytes) -> list[bytes]:
    """The sounds that were joined to one file of Ogg or FLAC, each as a file; another file as it is."""
    first = _LINK.get(content[:4])
    if first is None:
        return [content]
    starts = [found.start() for found in first.finditer(content)]
    # First pages of streams that sound together follow one another.
    starts = [
        at for i, at in enumerate(starts) if i == 0 or not _follows(content, starts[i - 1], at)
    ]
    return [content[a:b] for a, b in zip(starts, [*starts[1:], len(content)], strict=True)]


def _follows(content: bytes, before: int, at: int) -> bool:
    """Whether between two first pages there is no other page."""
    return content[at : at + 4] == b"OggS" and content.find(b"OggS\0", before + 5, at) < 0


def unstated(content: bytes) -> bytes:
    """A WAV file with the size that its samples have, a FLAC file that leaves the length to its decoder."""
    if content[:8] == b"fLaC\0\0\0\x22":  # the low four bits of byte 21 and four more bytes
        return content[:21] + bytes([content[21] & 0xF0]) + bytes(4) + content[26:]
    order = _FORMS.get(content[:4])
    if order is None or content[8:12] != b"WAVE":
        return content
    for name, start, stated in _chunks(io.BytesIO(content), len(content)):
        left = len(content) - start
        nothing = stated == 0 and content[start : start + 4] not in _NOTES
        if name == b"data" and (nothing or stated > left):
            form, data = (size.to_bytes(4, order) for size in (len(content) - 8, left))
            magic = content[:4] if order == "big" else b"RIFF"
            return magic + form + content[8 : start - 4] + data + content[start:]
    return content


def mp3_frame(head: bytes) -> int:
    """Bytes of the frame of MP3 that begins so; 0 where none does."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    first = head[1] & 0x18 == 0x18  # MPEG-1; MPEG-2 halves the rate of samples, MPEG-2.5 once more
    kilobits = _KILOBITS[first][min(head[2] >> 4, 14)]
    rate = (44_100, 48_000, 32_000, 32_000)[head[2] >> 2 & 3]
    rate //= 1 if first else 2 if head[1] & 0x10 else 4
    return (144_000 if first else 72_000) * kilobits // rate + (head[2] >> 1 & 1)
