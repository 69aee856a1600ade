"""SPHINX's fine-tuning data in its own words: a YAML list of JSON files by type (golden/specs/sphinx.md section 8).

Golden case sphinx/ens5_2shard (`results.dataset`, `results.sampler`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from omnimix.config import Spec, read_yaml, validate
from omnimix.data.base import Source, SourceSpec
from omnimix.data.containers import JsonRows, kept, reading, sound
from omnimix.data.roots import inside, is_none
from omnimix.data.rows import refuse_unread
from omnimix.errors import SampleError
from omnimix.types import Media, Part, Sample, Turn, text_of

MARK = "<image>"
ROLES = {"human": "user", "gpt": "assistant", "assistant": "assistant"}


class MetaRow(Spec):
    """One file of a list.

    Attributes:
        path: a JSON list of records.
        type: records of a batch are of one type.
        root: folder of the pictures; default is the folder of the list.
        ratio: take this share of the records, drawn with seed 0.
    """

    path: str
    type: str
    root: str | None = None
    ratio: float | None = Field(default=None, gt=0)


class SphinxRecords(SourceSpec):
    """Records of the form `{"image": "x.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"},
    {"from": "gpt", "value": "A dog."}]}`, sorted by the length of their text within each type.

    Attributes:
        path: the YAML list (`META: [{path, type, root, ratio}]`); paths in it are relative to it.
    """

    kind: Literal["sphinx"] = "sphinx"
    path: str

    def open(self, folder: Path) -> Source:
        return SphinxSource(folder / self.path)


class SphinxSource(Source):
    """The files are read once, pictures when they are asked for.

    Attributes:
        records: type after type, each with the folder of its picture under `root`.
        kinds: the type of each record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        by_type: dict[str, list[dict[str, Any]]] = {}
        for row in _rows(path):
            by_type.setdefault(row.type, []).extend(_records(row, path.parent))
        for records in by_type.values():
            records.sort(key=text_length)
        self.records = [record for records in by_type.values() for record in records]
        self.kinds = [name for name, records in by_type.items() for _ in records]
        self.length = len(self.records)

    def batch_kind(self, index: int) -> str:
        """The type of a record."""
        return self.kinds[index]

    def extent(self, index: int) -> tuple[bool, int]:
        record = self.records[index]
        return bool(record.get("image")), text_length(record)

    def where(self, index: int) -> str:
        return f"{self.path.name}: {self.records[index]['place']}"

    def __getitem__(self, index: int) -> Sample:
        where = self.where(index)
        with reading(where):
            return Sample(tuple(self.turns(self.records[index], where)), where)

    def turns(self, record: dict[str, Any], name: str) -> list[Turn]:
        """The conversation; the picture, which stands before all text anyway, opens the first question.

        Raises:
            SampleError: no record of conversations, a speaker that is not known, no text, or a picture's path that
                leads out of its folder.
        """
        _check(record, name)
        found = []
        for number, turn in enumerate(record["conversations"]):
            role = ROLES.get(turn["from"])
            if role is None:
                raise SampleError(
                    f"turn {number + 1} is from {turn['from']!r}",
                    where=name,
                    hint=f"speakers are {', '.join(ROLES)}",
                )
            said = text_of(turn["value"], f"turn {number + 1}", name)
            content: tuple[Part, ...] = (said.replace(MARK, "").strip(),)
            if number == 0:
                content = (*self.media(record, name), *content)
            found.append(Turn(role, content))
        return found

    def media(self, record: Mapping[str, Any], name: str) -> tuple[Media, ...]:
        """What a record shows beside its text."""
        path = record.get("image")
        if is_none(path):
            return ()
        if not isinstance(path, str):
            raise SampleError(
                f"the picture is {path!r}", where=name, hint="a record has one picture, by its path"
            )
        if ".." in Path(path).parts:
            raise SampleError(f"the picture path {path!r} leads upwards", where=name)
        return (Media.image(str(inside(record["root"], path, "picture", name)), label=path),)


def text_length(record: Mapping[str, Any]) -> int:
    """Characters of all turns, marks included; what records are sorted by. One that cannot be read has none."""
    turns = record.get("conversations")
    if not isinstance(turns, list) or not all(map(_is_turn, turns)):
        return 0
    return sum(len(str(turn["value"])) for turn in turns)


def _rows(path: Path) -> list[MetaRow]:
    listed = read_yaml(path)
    rows = listed.get("META") if isinstance(listed, Mapping) else None
    if not isinstance(rows, list) or not rows:
        raise SampleError(
            "the list names no files",
            where=str(path),
            hint="write META: [{path: chat.json, type: image_text, root: pictures}]",
        )
    return [validate(MetaRow, row, f"{path.name}: META {i}") for i, row in enumerate(rows, 1)]


def _records(row: MetaRow, folder: Path) -> list[dict[str, Any]]:
    file = folder / row.path
    rows = JsonRows(file)
    root = folder / (row.root or ".")
    records = []
    for index in range(len(rows)):
        record = kept(rows, index)
        where = record["place"].removeprefix(f"{file.name}: ")
        records.append({**record, "root": root, "place": f"{row.path} {where}"})
    if row.ratio is not None:
        count = int(len(records) * row.ratio)
        if count > len(records):
            raise SampleError(
                f"ratio {row.ratio:g} asks for more records than the {len(records)} there are",
                where=str(file),
                hint="name the file twice",
            )
        records = random.Random(0).sample(records, count)
    return records


def _check(record: dict[str, Any], where: str) -> None:
    turns = sound(record).get("conversations")
    if not isinstance(turns, list) or not turns or not all(map(_is_turn, turns)):
        raise SampleError(
            "not a record of conversations",
            where=where,
            hint='write {"conversations": [{"from": "human", "value": "..."}, ...]}',
        )
    refuse_unread(record, frozenset({"image"}), "the dataset", where)
    for turn in turns:
        for mark in ("<video>", "<audio>"):
            if mark in str(turn["value"]):
                raise SampleError(
                    f"the mark {mark} stands for an item, and none is read", where=where
                )


def _is_turn(turn: object) -> bool:
    return isinstance(turn, dict) and "value" in turn and "from" in turn
