"""Records in the form of LLaVA: `conversations` from `human` and `gpt`, pictures as `<image>` in the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from omnimix.data.sources import Source, SourceSpec, picture_in, some_records
from omnimix.errors import SampleError
from omnimix.types import Media, Part, Sample, Turn

MARK = "<image>"
ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant"}


class LlavaRecords(SourceSpec):
    """A JSON list (or JSON lines) of records in the form of LLaVA.

    `{"id": "7", "image": "a/b.jpg", "conversations": [{"from": "human", "value": "<image>\\nHow many?"},
    {"from": "gpt", "value": "Two."}]}`; `image` may be a list, and may be missing.

    Attributes:
        path: the file.
        images: folder that picture paths are relative to; default the file's own. Paths that lead out of
            it are refused.
        marks: `strict` refuses a record whose marks and pictures differ in number; `loose` drops surplus
            marks and puts pictures without one in front of the first question (arXiv 2402.07865, where a mark has
            no place anyway).
    """

    kind: Literal["llava"] = "llava"
    path: str
    images: str | None = None
    marks: Literal["strict", "loose"] = "strict"

    def open(self, folder: Path) -> Source:
        path = folder / self.path
        return Conversations(path, folder / self.images if self.images else path.parent, self.marks)


class Conversations(Source):
    """The file is read once, pictures when they are asked for."""

    def __init__(self, path: Path, images: Path, marks: str) -> None:
        self.path = path
        self.images = images.resolve()
        self.marks = marks
        self.records = some_records(path)
        self.length = len(self.records)

    def extent(self, index: int) -> tuple[bool, int]:
        """Words of all turns, marks counted, as the published trainers count them."""
        record = self.record(index)
        words = sum(len(str(turn["value"]).split()) for turn in record["conversations"])
        return "image" in record, words

    def __getitem__(self, index: int) -> Sample:
        record = self.record(index)
        where = self.where(index)
        files = record.get("image")
        files = [] if files is None else files if isinstance(files, list) else [files]
        pictures = [self.picture(str(file), where) for file in files]
        marks = sum(str(turn["value"]).count(MARK) for turn in record["conversations"])
        if self.marks == "strict" and marks != len(pictures):
            raise SampleError(
                f"{marks} marks {MARK} for {len(pictures)} pictures",
                where=where,
                hint="write one mark for each picture, or read the file with marks: loose",
            )
        turns: list[Turn] = []
        waiting = list(pictures)
        for turn in record["conversations"]:
            role = ROLES.get(turn["from"], turn["from"])
            content: list[Part] = []
            for i, text in enumerate(str(turn["value"]).split(MARK)):
                if i and waiting and role == "user":
                    content.append(waiting.pop(0))
                content.append(text)
            turns.append(Turn(role, tuple(part for part in content if part != "")))
        if waiting:
            first = next(i for i, turn in enumerate(turns) if turn.role == "user")
            turns[first] = Turn("user", (*waiting, *turns[first].content))
        return Sample(tuple(turns), str(record.get("id", where)))

    def where(self, index: int) -> str:
        """A record's place in the file, for messages."""
        return f"{self.path.name}: record {index + 1}"

    def record(self, index: int) -> dict[str, Any]:
        """A record, checked to be a conversation."""
        return conversation(self.records[index], self.where(index))

    def picture(self, name: str, where: str) -> Media:
        """A picture of the folder; it is not opened yet.

        Raises:
            SampleError: the path leads out of the folder.
        """
        return picture_in(self.images, name, where)


def conversation(record: Any, where: str, least: int = 0) -> dict[str, Any]:
    """A record, checked to hold a conversation of at least so many turns.

    Raises:
        SampleError: it holds none.
    """
    turns = record.get("conversations") if isinstance(record, dict) else None
    if (
        not isinstance(turns, list)
        or len(turns) < least
        or not all(isinstance(turn, dict) and {"from", "value"} <= turn.keys() for turn in turns)
    ):
        raise SampleError(
            "not a record in the form of LLaVA",
            where=where,
            hint='write {"conversations": [{"from": "human", "value": ...}, ...]}',
        )
    return dict(record)
