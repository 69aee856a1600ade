"""Where the items of rows lie: one folder or several, and paths that begin otherwise there than here."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote

from omnimix.errors import SampleError
from omnimix.types import Media

MediaWord: TypeAlias = str | tuple[str, ...] | dict[str, str] | None
"""A folder, several, or a map: the beginning of a path in the rows -> the folder here that it stands for."""

CHOICES = ("frames", "crops")
"""Words by which an item says itself what is drawn otherwise: frames of a video, parts of a long sound."""


def inside(folder: Path, name: str, what: str, where: str) -> Path:
    """A file of a folder; an absolute path is one where it leads into the folder.

    Raises:
        SampleError: the path leads out of the folder, or is none.
    """
    base = folder.resolve()
    try:
        path = (base / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise SampleError(f"the {what} {name[:80]!r} is no path ({error})", where=where) from None
    if not path.is_relative_to(base):
        raise SampleError(
            f"the {what} {name!r} lies outside {base}: it leads to {path}",
            where=where,
            hint="name the folder of all files in the words of the dataset, `media: FOLDER` of rows",
        )
    return path


def is_none(value: Any) -> bool:
    """Whether a field says that there is no item: null, an empty text, an empty list."""
    return value is None or (isinstance(value, str | list | tuple) and not value)


class Roots:
    """The folders in which files of rows are looked for.

    Args:
        folder: that relative folders start from.
        media: see `MediaWord`.
        beside: where files lie when no folder is named.
    """

    def __init__(self, folder: Path, media: MediaWord = None, beside: Path | None = None) -> None:
        named: Sequence[str] = ()
        if isinstance(media, str):
            named = (media,)
        elif isinstance(media, Mapping):
            named = tuple(media.values())
        elif media is not None:
            named = tuple(media)
        self.folders = [folder / name for name in named] or [beside or folder]
        self.map = media if isinstance(media, Mapping) else {}
        self.base = folder

    def file(self, name: str, what: str, where: str) -> str:
        """Where a file lies: in the first folder that has it.

        Raises:
            SampleError: an address, or a path that leads out of every folder.
        """
        if name.startswith("file://"):
            name = unquote(name.removeprefix("file://"))
        if "://" in name:
            raise SampleError(
                f"the {what} {name[:80]!r} is an address",
                where=where,
                hint="fetch it before and name the file; nothing is fetched while training",
            )
        for begin, here in self.map.items():
            if name.startswith(begin):
                rest = name.removeprefix(begin).lstrip("/")
                return str(inside(self.base / here, rest, what, where))
        found: Path | None = None
        fault: SampleError | None = None
        for folder in self.folders:
            try:
                path = inside(folder, name, what, where)
            except SampleError as error:
                fault = fault or error
                continue
            if len(self.folders) == 1 or path.exists():
                return str(path)
            found = found or path
        if found is None and fault is not None:
            raise fault
        return str(found)

    def media(self, kind: str, item: Any, where: str) -> Media:
        """An item in any form that datasets write it in; it is not opened yet.

        Args:
            kind: `image`, `audio`, `video`, `document` or the name of a modality.

        Raises:
            SampleError: another form, an address, or a path that leads out of every folder.
        """
        if isinstance(item, Media):
            return item
        return Media(kind, self._thing(kind, item, where), label=label_of(item))

    def _thing(self, kind: str, item: Any, where: str) -> Any:
        what = "picture" if kind == "image" else kind
        if isinstance(item, str):
            if item.startswith("data:"):
                return _inline(item, where)
            file = self.file(item, what, where)
            return (
                Path(file) if kind == "document" else file
            )  # a document that is `str` is its text
        if isinstance(item, list | tuple) and item and all(isinstance(one, str) for one in item):
            return [self.file(one, what, where) for one in item]
        if isinstance(item, Mapping):
            thing = self._table(kind, item, where)
            stated = {word: item[word] for word in CHOICES if item.get(word) is not None}
            if stated and "frames" not in thing:
                return {**thing, **stated}
            return thing if len(thing) > 1 else next(iter(thing.values()))
        if isinstance(item, int | float | bool) or is_none(item):
            raise SampleError(
                f"the {what} is {item!r}",
                where=where,
                hint="write a path, or null where there is none",
            )
        return item  # bytes, a picture, an array: the opener says what it takes

    def _table(self, kind: str, item: Mapping[str, Any], where: str) -> dict[str, Any]:
        """What a table names, under the word of an opener; without its choices."""
        if item.get("array") is not None and item.get("sampling_rate"):
            return {"array": item["array"], "sampling_rate": item["sampling_rate"]}
        if item.get("bytes"):
            return {"bytes": item["bytes"]}
        for word in ("path", "url", kind):
            if isinstance(item.get(word), str):
                return {"path": self._thing(kind, item[word], where)}
        if isinstance(item.get("base64"), str):
            return {"bytes": _inline(f"data:;base64,{item['base64']}", where)}
        if isinstance(item.get("frames"), list | tuple):
            return {"frames": [self._thing("image", one, where) for one in item["frames"]]}
        if "dataset_args" in item:
            raise SampleError(
                "the item is a reference into a dataset of the hub",
                where=where,
                hint="save the sounds as files and name their paths; nothing is fetched while training",
            )
        raise SampleError(
            "an item is a path or a table with one of path, bytes, array; this has "
            f"{', '.join(map(str, item)) or 'nothing'}",
            where=where,
        )


def label_of(item: Any) -> str:
    """What an item is called in messages: the name of its file, where it has one."""
    name = item.get("path") or item.get("url") if isinstance(item, Mapping) else item
    short = isinstance(name, str) and len(name) <= 200 and "\n" not in name
    return str(name) if short and not str(name).startswith("data:") else ""


def _inline(address: str, where: str) -> bytes:
    head, comma, content = address.partition(",")
    try:
        if not comma or not head.endswith(";base64"):
            raise ValueError("no base64")
        return base64.b64decode("".join(content.split()) + "==", validate=False)
    except (binascii.Error, ValueError):
        raise SampleError(
            "the data address holds no base64", where=where, hint="write data:image/png;base64,..."
        ) from None
