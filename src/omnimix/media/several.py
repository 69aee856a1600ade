"""Several kinds of media in one modality, each with its own opener and steps (ImageBind)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field, SerializeAsAny

from omnimix.config import Spec, part
from omnimix.errors import MediaError
from omnimix.media.opening import MediaOpener, Opener, is_address, name_of
from omnimix.media.tiles import Step, Tiles
from omnimix.registry import OPENERS, STEPS
from omnimix.types import Media


class OneKind(Spec):
    """How one kind of media is opened, and the steps that are its own.

    Attributes:
        opens: the opener.
        steps: they come before those of the modality.
    """

    opens: Annotated[SerializeAsAny[Opener], part(OPENERS)]
    steps: tuple[Annotated[SerializeAsAny[Step], part(STEPS)], ...] = ()


class Several(MediaOpener):
    """Media of several kinds; what an item is, its kind or else its content says.

    Attributes:
        kinds: by kind of media.
    """

    kind: Literal["several"] = "several"
    kinds: Annotated[dict[str, OneKind], Field(min_length=1)]

    def takes(self) -> tuple[str, ...]:
        return tuple(self.kinds)

    def every(self) -> tuple[Step, ...]:
        return tuple(step for row in self.kinds.values() for step in row.steps)

    def open(self, media: Media) -> tuple[str, Any]:
        """The kind and what its own opener makes of the item.

        Raises:
            MediaError: a kind that has no row here, or what its opener refuses.
        """
        kind = media.kind if media.kind in self.kinds else kind_of(media)
        if kind == "document" and is_address(media.data) and len(media.data.split()) == 1:
            raise MediaError(
                "this is an address, and omnimix never fetches items",
                where=name_of(media, "item"),
                hint="download it first and give the path of the file",
            )
        if kind not in self.kinds:
            raise MediaError(
                f"this is an item of kind {kind!r}",
                where=name_of(media, "item"),
                hint=f"it takes {', '.join(self.kinds)}",
            )
        return kind, _opener(self.kinds[kind]).open(media)

    def tiles(self, opened: tuple[str, Any]) -> Tiles:
        kind, thing = opened
        row = self.kinds[kind]
        tiles = _opener(row).tiles(thing)
        for step in row.steps:
            tiles = step(tiles)
        return tiles


def _opener(row: OneKind) -> MediaOpener:
    assert isinstance(row.opens, MediaOpener), "only what stands for itself"
    return row.opens


_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"GIF8", "image"),
    (b"BM", "image"),
    (b"II*\x00", "image"),
    (b"MM\x00*", "image"),
    (b"fLaC", "audio"),
    (b"OggS", "audio"),
    (b"ID3", "audio"),
    (b"\xff\xfb", "audio"),
    (b"\xff\xf3", "audio"),
    (b"\x1aE\xdf\xa3", "video"),
    (b"\x00\x00\x01\xba", "video"),
)
"""How files of a kind begin; RIFF and ISO containers say it further on."""


def kind_of(media: Media) -> str:
    """What an item is by its content; whatever is nothing else is a document.

    A `str` that names no file is a text.
    """
    data = media.data
    if isinstance(data, Image.Image):
        return "image"
    if isinstance(data, np.ndarray):
        return "image" if data.dtype == np.uint8 and data.ndim > 1 else "audio"
    if isinstance(data, dict) and "frames" in data:
        return "video"
    if isinstance(data, tuple | dict):
        return "audio"
    if isinstance(data, list):
        return "video"
    return _of_bytes(_head(data))


def _head(data: Any) -> bytes:
    """The first bytes of a file or of bytes given; none for a text."""
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data[:16])
    try:
        if Path(data).is_file():
            with Path(data).open("rb") as file:
                return file.read(16)
    except (OSError, ValueError, TypeError):
        pass  # a long text is no path either
    return b""


def _of_bytes(head: bytes) -> str:
    if head[:4] == b"RIFF":
        return {b"WAVE": "audio", b"WEBP": "image", b"AVI ": "video"}.get(head[8:12], "document")
    if head[4:8] == b"ftyp":
        return "audio" if head[8:11] == b"M4A" else "video"
    return next((kind for start, kind in _STARTS if head.startswith(start)), "document")
