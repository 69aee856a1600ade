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
from omnimix.data.llava import MARK, conversation
from omnimix.data.sources import Source, SourceSpec, json_list
from omnimix.errors import SampleError
from omnimix.types import Media, Part, Sample, Turn

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

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        name = f"{self.path.name}: {record['place']}"
        return Sample(tuple(self.turns(record, name)), name)

    def turns(self, record: Mapping[str, Any], name: str) -> list[Turn]:
        """The conversation; the picture, which stands before all text anyway, opens the first question.

        Raises:
            SampleError: a speaker that is not known, or a picture's path that leads upwards.
        """
        found = []
        for number, turn in enumerate(record["conversations"]):
            role = ROLES.get(turn["from"])
            if role is None:
                raise SampleError(
                    f"turn {number + 1} is from {turn['from']!r}",
                    where=name,
                    hint=f"speakers are {', '.join(ROLES)}",
                )
            content: tuple[Part, ...] = (str(turn["value"]).replace(MARK, "").strip(),)
            if number == 0:
                content = (*self.media(record, name), *content)
            found.append(Turn(role, content))
        return found

    def media(self, record: Mapping[str, Any], name: str) -> tuple[Media, ...]:
        """What a record shows beside its text."""
        path = record.get("image")
        if not path:
            return ()
        if ".." in Path(path).parts:
            raise SampleError(f"the picture path {path!r} leads upwards", where=name)
        return (Media.image(str(record["root"] / path), label=str(path)),)


def text_length(record: Mapping[str, Any]) -> int:
    """Characters of all turns, marks included; what records are sorted by."""
    return sum(len(str(turn["value"])) for turn in record["conversations"])


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
    found = json_list(file)
    root = folder / (row.root or ".")
    records = [
        {
            **conversation(record, f"{file.name}: record {number}", 1),
            "root": root,
            "place": f"{row.path} record {number}",
        }
        for number, record in enumerate(found, start=1)
    ]
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
