"""Ask a model the questions of a file of records and score its answers against theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnimix.data.base import Source
from omnimix.data.rows import RowsSpec
from omnimix.errors import OmnimixError, SampleError
from omnimix.evaluate.asking import Reply, ask
from omnimix.evaluate.measure import Measure, Reference, Score, reference_of
from omnimix.evaluate.report import spread, wilson
from omnimix.generate.answers import Answer
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options


@dataclass(frozen=True)
class Scored:
    """A score, and over how many records.

    Attributes:
        measure: its name.
        n: how many records it is over.
        failed: why records are not in it, which could not be asked or hold no answer.
        empty: how many answers were empty; they count as what the measure makes of nothing.
    """

    measure: str
    score: Score
    n: int
    failed: tuple[str, ...] = ()
    empty: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        found: dict[str, Any] = {"measure": self.measure, "score": round(self.score.value, 4)}
        if (interval := self.interval()) is not None:
            found |= {"low": round(interval[0], 4), "high": round(interval[1], 4)}
        if self.score.groups:
            found["groups"] = {name: round(value, 4) for name, value in self.score.groups}
        return found | {
            "n": self.n,
            "empty": self.empty,
            "failed": len(self.failed),
            "failures": list(self.failed[:10]),
        }

    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval; None for a measure that gives no score for every answer.

        Wilson's for shares, by drawing the records anew for a measure that is not bounded.
        """
        if not self.score.each:
            return None
        if self.score.ceiling == 1.0:
            return wilson(self.score.value, self.n)
        return spread(self.score.each)


def open_records(path: Path, slice: str = ":", media: Sequence[str] = ()) -> Source:
    """The records of a file or folder of any format that is found by its rows.

    Args:
        slice: some of them, as of `RowsSpec`.
        media: folders that paths of items start from, each counted from here; default the file's own.

    Raises:
        SampleError: the file is not there or holds none.
    """
    if not path.exists():
        raise SampleError("there is no such file", where=str(path), hint="name a file of records")
    folders = [str(Path(folder).absolute()) for folder in media] or None
    words = {"path": str(path.absolute()), "slice": slice, "media": folders}
    return RowsSpec.model_validate(words).open(path.parent)


def score_records(
    assistant: Assistant,
    source: Source,
    measure: Measure,
    name: str,
    limit: int | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
    options: Options | None = None,
) -> Scored:
    """Answer the first records and score the answers; a record's last turn is what is right.

    A record that cannot be read, asked or compared stops nothing: it is left out of the score and named.

    Args:
        name: of the measure.
        limit: at most so many records; all by default.
        progress: called after every batch with how many records are done and how many there are.
        options: how answers are written; greedily and as long as the measure needs by default.

    Raises:
        OmnimixError: no record to ask, or none that can be scored.
    """
    total = min(source.length or 0, limit) if limit is not None else source.length or 0
    if total < 1:
        raise OmnimixError("there is no record to ask", hint="ask at least one")
    options = options or Options(max_new_tokens=measure.max_new_tokens)
    pairs: list[tuple[Answer, Reference]] = []
    failed: list[str] = []
    for replies in ask(assistant, source, range(total), options, batch_size):
        for reply in replies:
            pair = _pair(reply, measure)
            if isinstance(pair, str):
                failed.append(source.placed(reply.row, pair))
            else:
                pairs.append(pair)
        if progress is not None:
            progress(replies[-1].row + 1, total)
    if not pairs:
        raise OmnimixError(
            f"none of {total} records can be scored; the first: {failed[0]}",
            hint="mend the records; omnimix check names what is wrong with each",
        )
    answers, references = map(list, zip(*pairs, strict=True))
    empty = sum(not answer.text.strip() for answer in answers)
    return Scored(name, measure.score(answers, references), len(pairs), tuple(failed), empty)


def _pair(reply: Reply, measure: Measure) -> tuple[Answer, Reference] | str:
    """An answer and what is right, or why the two cannot be compared."""
    if reply.sample is None or reply.answer is None:
        return reply.error
    try:
        reference = reference_of(reply.sample, reply.size)
        measure.check(reference)
    except SampleError as error:
        return error.sentence()
    return reply.answer, reference
