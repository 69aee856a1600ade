"""Openers: whatever a user has becomes an opened thing, and an opened thing becomes tiles.

`open(media)` reads and checks, `tiles(opened)` makes the `Tiles` that the steps go on with: pictures, or
something raw (a sound, a text, an array). Limits are checked before anything is decoded, and nothing is ever
fetched. What a file is, its content says, not its name.
"""

from __future__ import annotations

import abc
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from omnimix.config import Spec
from omnimix.errors import MediaError
from omnimix.media.tiles import Step, Tiles, View
from omnimix.types import Media

_POINTER = b"version https://git-lfs"
_ADDRESS = re.compile(r"\s*([a-z][a-z0-9+.-]+://|data:)", re.IGNORECASE)


class Opener(Spec):
    """Words of what a modality opens."""

    kind: str

    def takes(self) -> tuple[str, ...]:
        """The kinds of media that it opens."""
        return (self.kind,)

    @property
    def random(self) -> bool:
        """As of a step."""
        return False

    def every(self) -> tuple[Step, ...]:
        """Steps that it takes itself."""
        return ()


@dataclass(frozen=True, eq=False)
class Opened:
    """What an opener has made of something, in place of it as the data of a `Media`: it is not opened again."""

    thing: Any


class MediaOpener(Opener):
    """An opener of things that stand for themselves (a region, which lies on a picture, does not)."""

    @abc.abstractmethod
    def open(self, media: Media) -> Any:
        """The thing, read and checked.

        Raises:
            MediaError: missing, broken, of another format, beyond a limit, or an address.
        """

    def once(self, media: Media) -> Any:
        """As `open`, where that has not been done already."""
        return media.data.thing if isinstance(media.data, Opened) else self.open(media)

    @abc.abstractmethod
    def tiles(self, opened: Any) -> Tiles:
        """What the steps start from."""


class OverlayOpener(Opener):
    """An opener of things that lie on a picture, and are read in the frame in which the model sees it."""

    @abc.abstractmethod
    def tile(self, things: Sequence[Media], views: Sequence[View], places: int) -> Tensor:
        """Several of them as one tile `[1, places, ...]`; places that are left over are filled.

        Args:
            views: the picture under each of them.

        Raises:
            RegionError: one that does not lie on its picture.
        """


def name_of(media: Media, what: str) -> str:
    """What to call an item in a message; a long inline address is cut.

    Args:
        what: the word for an item without a name.
    """
    text = media.label or (str(media.data) if isinstance(media.data, Path) else what)
    return text if len(text) <= 120 else f"{text[:117]}..."


def read(data: object, what: str, where: str, most: int, takes: str) -> bytes:
    """The bytes of a file, or bytes given, within the limit.

    Args:
        data: a path (`str` or `Path`) or bytes.
        what: the word for the thing, `picture` for instance.
        where: its name in messages.
        most: most bytes.
        takes: what else could have been given, for the message.

    Raises:
        MediaError: an address, something else, not there, empty, or too large.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        content = bytes(data)
    elif isinstance(data, str | Path):
        path = check_file(data, what, where, most)
        try:
            with path.open("rb") as file:
                content = file.read(most + 1)
        except OSError as error:
            raise MediaError(
                f"cannot read the {what} ({error.strerror})", where=where, hint="check the path"
            ) from None
    else:
        raise MediaError(
            f"a {what} cannot be made of {type(data).__name__}", where=where, hint=f"give {takes}"
        )
    if not 0 < len(content) <= most:
        raise _size(len(content), most, where)
    return content


def check_file(path: str | Path, what: str, where: str, most: int) -> Path:
    """A file that can be read piece by piece.

    Raises:
        MediaError: an address, no regular file, empty, or too large.
    """
    if is_address(path):
        raise _address(what, where)
    try:
        # Only regular files: reading a pipe or a device would wait for ever.
        if not (path := Path(path)).is_file():
            if not path.exists():
                raise OSError("there is no such file")
            raise OSError("this is a folder" if path.is_dir() else "this is no regular file")
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise MediaError(
            f"cannot read the {what} ({getattr(error, 'strerror', None) or error})",
            where=where,
            hint="check the path",
        ) from None
    if not 0 < size <= most:
        raise _size(size, most, where)
    if size < 1024 and path.read_bytes().startswith(_POINTER):
        raise MediaError(
            f"this is a pointer of Git LFS, and the {what} itself was not fetched",
            where=where,
            hint="run git lfs pull in the folder, or download the file from its page",
        )
    return path


def chance(seed: int, draw: int | None) -> np.random.RandomState:
    """Where an opener or a step gets its chance from.

    Args:
        seed: its own word in the recipe.
        draw: of the item; None gives every item the same, so that an answer can be repeated.
    """
    return np.random.RandomState(seed if draw is None else [seed, draw])


def is_address(data: object) -> bool:
    """Whether this names something in the net."""
    return isinstance(data, str) and _ADDRESS.match(data) is not None


def _address(what: str, where: str) -> MediaError:
    return MediaError(
        f"this is an address, and omnimix never fetches {what}s",
        where=where,
        hint="download it first and give the path of the file",
    )


def _size(size: int, most: int, where: str) -> MediaError:
    if not size:
        return MediaError("the file is empty", where=where, hint="check where it came from")
    return MediaError(
        f"the file has more than {most} bytes",
        where=where,
        hint="make it smaller, or raise max_bytes",
    )


def needed(module: str, what: str) -> Any:
    """A library of the extra `media`.

    Raises:
        MediaError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MediaError(
            f"opening {what} needs the package {module}, which is not installed",
            hint="install it with pip install 'omnimix[media]'",
        ) from None
