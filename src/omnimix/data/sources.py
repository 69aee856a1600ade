"""Datasets: anything indexable that gives samples, by name in a training file."""

from __future__ import annotations

import abc
import json
from pathlib import Path
from typing import Any, Literal

from omnimix.config import Spec
from omnimix.errors import SampleError
from omnimix.types import Box, Media, Part, Point, Sample, Turn


class Source(abc.ABC):
    """Samples by index; endless ones have no length.

    Attributes:
        max_length: most tokens of a record where the stage names no limit; None cuts nothing.
        cuts_items: where a record is cut, whether each item counts as one token and goes with the text
            behind the limit; else items do not count, and a record that would lose one is left out.
    """

    length: int | None = None
    max_length: int | None = None
    cuts_items: bool = False

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    def source(self, index: int) -> Source:
        """The dataset that a record is of: this one, unless it joins several."""
        return self

    def extent(self, index: int) -> tuple[bool, int]:
        """Whether a record has media, and how many words; what orders by length go by."""
        sample = self[index]
        return bool(sample.media()), sum(len(turn.text().split()) for turn in sample.turns)

    def batch_kind(self, index: int) -> str:
        """Records of a batch are of one kind where the order is `by_kind`; here all are of one."""
        return ""


class SourceSpec(Spec):
    """Words of a dataset in a training file."""

    kind: str

    @abc.abstractmethod
    def open(self, folder: Path) -> Source:
        """The dataset; relative paths are looked up in `folder`."""


NO_LIST = "the file holds no list of records"


def json_list(path: Path, lines: bool = False) -> list[Any]:
    """The records of a JSON list.

    Args:
        lines: a file that ends in .jsonl holds a record a line.

    Raises:
        SampleError: a file that cannot be read, no JSON, or something else than a list.
    """
    found: Any
    try:
        text = path.read_text(encoding="utf-8")
        if lines and path.suffix == ".jsonl":
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            found = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise SampleError(f"cannot read the file ({error})", where=str(path)) from None
    except ValueError as error:
        raise SampleError(f"not JSON ({error})", where=str(path)) from None
    if not isinstance(found, list):
        raise SampleError(NO_LIST, where=str(path))
    return found


def some_records(path: Path) -> list[Any]:
    """The records of a JSON list or a file of JSON lines, at least one.

    Raises:
        SampleError: as `json_list`, or there are none.
    """
    found = json_list(path, lines=True)
    if not found:
        raise SampleError(NO_LIST, where=str(path))
    return found


def inside(folder: Path, name: str, what: str, where: str) -> Path:
    """A file of a folder.

    Raises:
        SampleError: the path leads out of the folder.
    """
    base = folder.resolve()
    path = (base / name).resolve()
    if not path.is_relative_to(base):
        raise SampleError(
            f"the {what} {name!r} lies outside {folder}",
            where=where,
            hint="name the folder of all files in the words of the dataset",
        )
    return path


def picture_in(folder: Path, name: str, where: str) -> Media:
    """A picture of a folder; it is not opened yet.

    Raises:
        SampleError: the path leads out of the folder.
    """
    return Media.image(str(inside(folder, name, "picture", where)))


class _Jsonl(Source):
    """One conversation a line; the file is read once, pictures when they are asked for."""

    def __init__(self, path: Path, images: Path) -> None:
        self.path = path
        self.images = images
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SampleError(f"cannot read the file ({error})", where=str(path)) from None
        self.lines = [(n, line) for n, line in enumerate(lines, start=1) if line.strip()]
        if not self.lines:
            raise SampleError("the file holds no record", where=str(path))
        self.length = len(self.lines)

    def __getitem__(self, index: int) -> Sample:
        number, line = self.lines[index]
        where = f"{self.path.name}: line {number}"
        try:
            record = json.loads(line)
            turns = tuple(
                Turn(turn["role"], tuple(self._part(part, where) for part in turn["content"]))
                for turn in record["turns"]
            )
        except (ValueError, KeyError, TypeError) as error:
            raise SampleError(
                f"not a record ({type(error).__name__}: {error})",
                where=where,
                hint='write {"id": ..., "turns": [{"role": "user", "content": [...]}]}',
            ) from None
        return Sample(turns, str(record.get("id", where)), record.get("meta", {}))

    def _part(self, part: object, where: str) -> Part:
        if isinstance(part, str):
            return part
        if isinstance(part, dict) and len(part.keys() - {"on"}) == 1:
            on = part.get("on")
            if on is not None and not isinstance(on, int):
                raise SampleError(f"'on' is the number of a picture, not {on!r}", where=where)
            for kind in ("image", "audio", "video", "document"):
                if kind in part:
                    return self._item(kind, part[kind], where)
            if isinstance(part.get("item"), dict) and len(part["item"]) == 1:
                ((name, file),) = part["item"].items()
                return self._item(name, file, where)
            if "box" in part:
                return Media.region(Box(*map(float, part["box"])), on)
            if "point" in part:
                return Media.region(Point(*map(float, part["point"])), on)
        raise SampleError(
            "a part of a turn is text, image, audio, video, document, item, box or point, "
            f"not {part!r}",
            where=where,
        )

    def _item(self, kind: str, file: str, where: str) -> Media:
        what = "picture" if kind == "image" else kind
        path = inside(self.images, file, what, where)
        return Media.image(str(path)) if kind == "image" else Media(kind, path, label=file)


class JsonlSource(SourceSpec):
    """Conversations in a JSON-lines file.

    Each line is `{"id": "7", "turns": [{"role": "user", "content": [{"image": "a.png"}, "What is in ",
    {"box": [1, 2, 30, 40]}, "?"]}, {"role": "assistant", "content": ["A cup."]}]}`. Files of other kinds are
    `{"audio": path}`, `{"video": path}`, `{"document": path}`, and `{"item": {"signal": path}}` for a modality of
    that name.

    Attributes:
        path: the file.
        images: folder that paths are relative to; default the file's own. Paths that lead out of
            it are refused.
    """

    kind: Literal["jsonl"] = "jsonl"
    path: str
    images: str | None = None

    def open(self, folder: Path) -> Source:
        path = folder / self.path
        return _Jsonl(path, folder / self.images if self.images else path.parent)
