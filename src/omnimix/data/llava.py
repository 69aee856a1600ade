"""Records in the form of LLaVA: `conversations` from `human` and `gpt`, pictures as `<image>` in the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from omnimix.data.base import Source, SourceSpec
from omnimix.data.containers import JsonRows
from omnimix.data.placing import Strictness
from omnimix.data.roots import Roots, is_none
from omnimix.data.rows import RowSource
from omnimix.data.talks import LlavaFormat, turns_of
from omnimix.types import text_of


class LlavaRecords(SourceSpec):
    """A JSON list (or JSON lines) of records in the form of LLaVA (see `LlavaFormat`).

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
    marks: Strictness = "strict"

    def open(self, folder: Path) -> Source:
        path = folder / self.path
        return Conversations(path, folder / self.images if self.images else path.parent, self.marks)


class Conversations(RowSource):
    """Records are read when they are asked for, pictures when the sample is woven."""

    def __init__(self, path: Path, images: Path, marks: Strictness) -> None:
        super().__init__(JsonRows(path), LlavaFormat(marks=marks), Roots(images))

    def extent(self, index: int) -> tuple[bool, int]:
        """Words of all turns, marks counted, as the published trainers count them."""
        record = self.record(index)
        return not is_none(record.get("image")), words_of(record, self.where(index))

    def record(self, index: int) -> dict[str, Any]:
        """A record, checked to be a conversation.

        Raises:
            SampleError: it is none.
        """
        record, where = self.rows[index], self.where(index)
        turns_of(record if isinstance(record, dict) else {}, where)
        return dict(record)


def words_of(record: dict[str, Any], where: str) -> int:
    """Words of all turns of a record."""
    turns = record["conversations"]
    return sum(len(text_of(t["value"], f"turn {i}", where).split()) for i, t in enumerate(turns, 1))


Llava = LlavaRecords
"""Its earlier name, which scripts import."""
