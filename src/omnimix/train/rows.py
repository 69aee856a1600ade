"""What a stage reads: looked at before it is paid for, and what is left out of it counted and named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from omnimix.compose.processor import Processor
from omnimix.compose.rounds import weave_apart
from omnimix.data.check.rows import region_faults, text_faults
from omnimix.data.containers import reading
from omnimix.data.mixture import Dropped, drawn, woven_pair
from omnimix.data.sources import Source
from omnimix.disk import writing
from omnimix.errors import DroppedError, OmnimixError, SampleError
from omnimix.types import Sample

TRIED = 64
"""Records of a dataset that are looked at before it is said that none can be used."""

ENOUGH = 8
"""Usable ones among them after which nobody looks on."""

JUDGED = 1000
"""Records that are read before a share of them is a judgement of a larger dataset."""

NAMED = 5
"""Records whose reasons are told at once; the file names all of them."""


@dataclass(frozen=True)
class DatasetFacts:
    """A dataset as a few of its records show it.

    Attributes:
        rows: None where it has no end.
        tokens, learned: of a record, on the average.
        faults: what `omnimix check` finds in the records looked at, of each kind the first, with its place.
    """

    rows: int | None
    tokens: float
    learned: float
    faults: tuple[str, ...] = ()

    def line(self) -> str:
        """In words."""
        rows = "records without end" if self.rows is None else f"{self.rows:,} records"
        return f"{rows}, about {self.tokens:.0f} tokens each, {self.learned:.0f} of them learned"


def looked_at(
    source: Source,
    processor: Processor,
    max_length: int | None,
    apart: bool,
    where: str,
    takes: Callable[[Sample], None] = lambda _: None,
) -> DatasetFacts:
    """What a dataset holds, by a few of its records.

    Args:
        apart: whether the questions of a conversation do not see one another.
        takes: refuses a record that the objective does not learn from.

    Raises:
        SampleError: none of them can be used, or none holds anything to learn.
    """
    many = TRIED if source.length is None else min(source.length, TRIED)
    step = 1 if source.length is None else source.length / many
    most = source.max_length if max_length is None else max_length
    found, refused, empty = [], [], 0
    faults: dict[str, str] = {}
    for i in range(many):
        place = int(i * step)
        try:
            sample = drawn(source[place], 0)
            with reading(sample.id):
                takes(sample)
            woven = (
                weave_apart(processor.weave, sample)
                if apart
                else woven_pair(
                    partial(processor.weave, max_length=most, cuts_items=source.cuts_items), sample
                )
            )
        except OmnimixError as error:
            refused.append(source.placed(place, error.sentence()))
            faults.setdefault("unusable", refused[-1])
            continue
        for fault in (*text_faults(sample), *region_faults(sample, woven)):
            faults.setdefault(fault.code, f"{source.where(place)}: {fault.said}")
        if not _answers(sample):
            empty += 1
            continue
        found.append((woven.room, sum(one.targets for one in woven.both)))
        if len(found) == ENOUGH:
            break
    if not any(learned for _, learned in found):
        raise _unusable(refused, empty, many, where)
    tokens, learned = (sum(column) / len(found) for column in zip(*found, strict=True))
    return DatasetFacts(source.length, tokens, learned, tuple(faults.values()))


def _answers(sample: Sample) -> bool:
    """Whether anything is answered; the token that ends an answer alone teaches nothing."""
    said = (part for turn in sample.turns if turn.role == "assistant" for part in turn.content)
    return any(part.strip() if isinstance(part, str) else True for part in said)


def _unusable(refused: Sequence[str], empty: int, many: int, where: str) -> SampleError:
    if not refused:
        why = "every answer is empty" if empty else "no token of them is learned"
        return SampleError(
            f"nothing can be learned from the {many} records looked at: {why}",
            where=where,
            hint="look at how the answers are named in the file",
        )
    blank = f", {empty} have empty answers" if empty else ""
    return SampleError(
        f"none of the {many} records looked at can be used{blank}; the first says: {refused[0].rstrip('.')}",
        where=where,
    )


def _mark(sentence: str) -> str:
    """What a sentence is known by in a checkpoint, which may have to keep many."""
    return blake2b(sentence.encode(errors="replace"), digest_size=8).hexdigest()


class LeftOut:
    """Records of a stage that could not be used.

    Args:
        number: of the stage.
        rows: of all its datasets together; None where one has no end.
        limit: share of them that may be left out.
        file: names all of them, a line each; None where another rank writes it.
        total: of the whole run.
        tell: takes a sentence.
        state: as `state()` gave it; None begins.
    """

    def __init__(
        self,
        number: int,
        rows: int | None,
        limit: float,
        file: Path | None,
        total: Dropped,
        tell: Callable[[str], None],
        state: Mapping[str, Any] | None = None,
    ) -> None:
        state = state or {}
        self.number = number
        self.rows = rows
        self.limit = limit
        self.file = file
        self.total = total
        self.tell = tell
        self.read: int = state.get("read", 0)
        # In the order in which they were found, so that those of an undone step are the last.
        self.known: dict[str, None] = dict.fromkeys(state.get("known", ()))
        self.total.first = [*self.total.first, *state.get("first", ())]

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as plain data."""
        return {"read": self.read, "known": list(self.known), "first": self.total.first}

    def stands(self) -> tuple[int, ...]:
        """How much was taken in so far, for `undo`."""
        return self.read, len(self.known), self.total.count, len(self.total.first)

    def undo(self, stood: tuple[int, ...]) -> None:
        """Forget what was taken in since `stands` said so; `dropped.jsonl` is cut when the run goes on."""
        self.read, known, self.total.count, first = stood
        while len(self.known) > known:
            self.known.popitem()
        del self.total.first[first:]

    def take(self, sentences: Sequence[str], read: int, step: int) -> None:
        """Count what a step left out of the records that it read.

        Raises:
            DroppedError: they are more than may be.
        """
        self.read += read
        self.total.count += len(sentences)
        marks = {_mark(one): one for one in sentences}
        new = [one for mark, one in marks.items() if mark not in self.known]
        self.total.first += new[: max(0, NAMED - len(self.total.first))]
        for one in new[: max(0, NAMED - len(self.known))]:
            self.tell(f"left out: {one}")
        self.known |= dict.fromkeys(marks)
        if new and self.file is not None:
            lines = ({"stage": self.number, "step": step + 1, "why": one} for one in new)
            with writing(self.file), self.file.open("a") as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        if len(self.known) > self.allowed():
            raise self._too_many()

    def allowed(self) -> int:
        """How many different records may be left out so far; one always may."""
        judged = min(self.rows or math.inf, max(self.read, JUDGED))
        return max(1, int(self.limit * judged))

    def _too_many(self) -> DroppedError:
        of = "endless ones" if self.rows is None else f"{self.rows:,}"
        first = " | ".join(self.total.first[:3])
        return DroppedError(
            f"{len(self.known)} records (of {of}) could not be used, more than max_dropped "
            f"({self.limit:.3g} of them) allows; the first say: {first}",
            where=f"stages.{self.number}",
            hint="dropped.jsonl in the run's folder names them all: mend the records, or raise max_dropped",
        )
