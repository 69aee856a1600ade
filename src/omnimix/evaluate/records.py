"""Ask a model the questions of a file of records and score its answers against theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omnimix.data.llava import LlavaRecords
from omnimix.data.sources import JsonlSource, Source
from omnimix.errors import OmnimixError, SampleError
from omnimix.evaluate.measure import Measure, Reference, Score, reference_of
from omnimix.evaluate.report import wilson
from omnimix.generate.answers import Answer
from omnimix.generate.assistant import Assistant
from omnimix.media.opening import MediaOpener
from omnimix.types import Sample


@dataclass(frozen=True)
class Scored:
    """A score, and over how many records."""

    measure: str
    score: Score
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; an interval where every answer has a score between 0 and 1."""
        found: dict[str, Any] = {"measure": self.measure, "score": round(self.score.value, 4)}
        if (interval := self.interval()) is not None:
            found |= {"low": round(interval[0], 4), "high": round(interval[1], 4)}
        if self.score.groups:
            found["groups"] = {name: round(value, 4) for name, value in self.score.groups}
        return {**found, "n": self.n}

    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval; None for a measure that is no mean of shares."""
        if not self.score.each or self.score.ceiling != 1.0:
            return None
        return wilson(self.score.value, self.n)


def open_records(path: Path) -> Source:
    """The records of a file: conversations a line (.jsonl) or a list in the form of LLaVA (.json).

    Raises:
        SampleError: the file is not there or holds none.
    """
    if not path.is_file():
        raise SampleError("there is no such file", where=str(path), hint="name a file of records")
    spec = LlavaRecords if path.suffix == ".json" else JsonlSource
    return spec(path=path.name).open(path.parent)


def score_records(
    assistant: Assistant,
    source: Source,
    measure: Measure,
    name: str,
    limit: int | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Scored:
    """Answer the first records greedily and score the answers; a record's last turn is what is right.

    Args:
        name: of the measure.
        limit: at most so many records; all by default.
        progress: called after every batch with how many are answered and how many there are.

    Raises:
        SampleError: a record without an answer, or without what the measure compares with.
        OmnimixError: no record to ask.
    """
    total = min(source.length or 0, limit) if limit is not None else source.length or 0
    if total < 1:
        raise OmnimixError("there is no record to ask", hint="ask at least one")
    answers: list[Answer] = []
    references: list[Reference] = []
    for start in range(0, total, batch_size):
        samples = [source[i] for i in range(start, min(start + batch_size, total))]
        references += [reference_of(one, _size(assistant, one, measure)) for one in samples]
        questions = [replace(one, turns=one.turns[:-1]) for one in samples]
        answers += assistant.reply_many(
            questions, batch_size, max_new_tokens=measure.max_new_tokens
        )
        if progress is not None:
            progress(len(answers), total)
    return Scored(name, measure.score(answers, references), total)


def _size(assistant: Assistant, sample: Sample, measure: Measure) -> tuple[int, int]:
    """Width and height of the question's last picture, which boxes of the answer are in."""
    pictures = sample.media("image")
    if not measure.pictured or not pictures:
        return 0, 0
    recipe = assistant.processor.recipe
    modality = recipe.modality_for("image")
    if modality is None:
        return 0, 0
    opener = recipe.modalities[modality].opens
    assert isinstance(opener, MediaOpener), "what an image modality opens is media"
    width, height = opener.open(pictures[-1]).size
    return width, height
