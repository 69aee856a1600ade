"""Run a benchmark and report: a score with its interval for every task."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np

from omnimix.errors import OmnimixError
from omnimix.generate.answers import Answer
from omnimix.generate.assistant import Assistant
from omnimix.types import Sample

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with a task, how many of its questions are answered, and how many there are."""

_Z = 1.959964  # of a 95 % interval
_CHUNK = 128  # questions held in memory at once


class Benchmark(Protocol):
    """What a row of the table of benchmarks makes."""

    name: str
    tasks: tuple[str, ...]
    max_new_tokens: int

    def check(self, tasks: Sequence[str]) -> None: ...

    def sample(self, task: str, index: int) -> Sample: ...

    def question(self, sample: Sample) -> Sample: ...

    def score(self, sample: Sample, answer: Answer) -> float: ...

    def chance(self, samples: Sequence[Sample]) -> float | None: ...

    def swapped(self, sample: Sample, other: Sample) -> Sample: ...


@dataclass(frozen=True)
class TaskScore:
    """The mean score of a task, its 95 % interval, and how many questions it is over.

    `chance` is the score of the most frequent answer, None where there is no such thing.
    """

    score: float
    low: float
    high: float
    n: int
    chance: float | None = None


@dataclass(frozen=True)
class Scores:
    """Scores of one model on one benchmark.

    Attributes:
        swapped: whether every question was asked about another question's pictures.
    """

    benchmark: str
    tasks: dict[str, TaskScore]
    model: str = ""
    limit: int = 0
    swapped: bool = False
    seconds: float = 0.0
    meta: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data with the tasks first, for JSON."""
        tasks = {}
        for name, found in self.tasks.items():
            numbers = {k: v for k, v in asdict(found).items() if v is not None}
            tasks[name] = {k: round(v, 4) if k != "n" else v for k, v in numbers.items()}
        return {
            "tasks": tasks,
            "benchmark": self.benchmark,
            "model": self.model,
            "limit": self.limit,
            "swapped": self.swapped,
            "seconds": round(self.seconds, 1),
            **self.meta,
        }


def wilson(score: float, n: int) -> tuple[float, float]:
    """The 95 % interval of Wilson around a mean of `n` scores between 0 and 1.

    For scores that are 0 or 1 it is the usual one; for shares in between it is on the wide side, since
    nothing spreads as far as 0 and 1 do.
    """
    if n == 0:
        return 0.0, 1.0
    square = _Z * _Z
    middle = (score + square / (2 * n)) / (1 + square / n)
    spread = _Z / (1 + square / n) * math.sqrt(score * (1 - score) / n + square / (4 * n * n))
    return max(middle - spread, 0.0), min(middle + spread, 1.0)


def spread(scores: Sequence[float], draws: int = 1000) -> tuple[float, float]:
    """The 95 % interval of a mean by drawing the scores anew (percentile bootstrap, seed 0)."""
    values = np.asarray(scores, dtype=float)
    chosen = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
    low, high = np.quantile(values[chosen].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def evaluate(
    assistant: Assistant,
    benchmark: Benchmark,
    limit: int = 500,
    swap_pictures: bool = False,
    tasks: Sequence[str] | None = None,
    progress: Progress | None = None,
    batch_size: int = 32,
) -> Scores:
    """Ask a model the questions of a benchmark, greedily.

    Args:
        assistant: the model; it runs where it lives.
        benchmark: its questions and how they are scored.
        limit: questions of each task.
        swap_pictures: ask question i about the pictures of question i + 1 of its task; what is still
            right then was guessed from the words.
        tasks: some of the benchmark's; all by default.
        progress: called after every batch of answers.

    Raises:
        RegistryError: a task that does not exist.
        OmnimixError: a limit below 1, or too small for swapping.
    """
    least = 2 if swap_pictures else 1
    if limit < least:
        raise OmnimixError(
            f"the limit is {limit}", hint=f"ask at least {least} questions of a task"
        )
    benchmark.check(tasks or ())
    started = time.monotonic()
    found = {
        task: _task(assistant, benchmark, task, limit, swap_pictures, progress, batch_size)
        for task in tasks or benchmark.tasks
    }
    return Scores(
        benchmark.name,
        found,
        model=assistant.processor.recipe.name,
        limit=limit,
        swapped=swap_pictures,
        seconds=time.monotonic() - started,
        meta={"seed": seed} if (seed := getattr(benchmark, "seed", None)) is not None else {},
    )


def _task(
    assistant: Assistant,
    benchmark: Benchmark,
    task: str,
    limit: int,
    swap: bool,
    progress: Progress | None,
    batch_size: int,
) -> TaskScore:
    scores: list[float] = []
    kept: list[Sample] = []
    for start in range(0, limit, _CHUNK):
        samples = [benchmark.sample(task, i) for i in range(start, min(start + _CHUNK, limit))]
        asked = samples
        if swap:
            after = benchmark.sample(task, (start + len(samples)) % limit)
            others = [*samples[1:], after]
            asked = [benchmark.swapped(a, b) for a, b in zip(samples, others, strict=True)]
        for at in range(0, len(asked), batch_size):
            here = slice(at, at + batch_size)
            questions = [benchmark.question(sample) for sample in asked[here]]
            answers = assistant.reply_many(
                questions, batch_size, max_new_tokens=benchmark.max_new_tokens
            )
            scores += map(benchmark.score, samples[here], answers)
            if progress is not None:
                progress(task, len(scores), limit)
        kept += [Sample((), sample.id, sample.meta) for sample in samples]  # without the pictures
    mean = sum(scores) / len(scores)
    return TaskScore(mean, *wilson(mean, len(scores)), len(scores), benchmark.chance(kept))
