"""The tables of papers: several benchmarks asked one behind another, each as the paper asks it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from omnimix.config import Spec
from omnimix.errors import OmnimixError
from omnimix.evaluate.answers import BenchmarkResult, run
from omnimix.evaluate.benchmark import named
from omnimix.evaluate.judges import judged
from omnimix.evaluate.ranking import Rank
from omnimix.evaluate.server import Server
from omnimix.generate.assistant import Assistant


class PaperRow(Spec):
    """How a paper asks a benchmark.

    Attributes:
        prompt: which of the benchmark's.
        rank: the likeliest choice, in place of a written answer.
        folder: of its files; its own name by default.
    """

    prompt: str = "default"
    rank: Rank | None = None
    folder: str = ""


class Paper(Spec):
    """A table.

    Attributes:
        title: of the paper, whose number at arXiv names the table.
        rows: benchmarks by name, and how each is asked.
        z: the benchmarks whose z-scores it takes the mean of; all where there are none.
    """

    title: str
    rows: dict[str, PaperRow]
    z: tuple[str, ...] = ()


@cache
def table() -> dict[str, Paper]:
    """All tables by the number of their paper at arXiv."""
    text = Path(__file__).with_name("papers.yaml").read_text(encoding="utf-8")
    return {name: Paper.model_validate(row) for name, row in yaml.safe_load(text).items()}


def run_paper(
    assistant: Any,
    name: str,
    folder: Path,
    out: Path,
    batch_size: int = 32,
    limit: int | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    judge: Server | None = None,
) -> tuple[dict[str, BenchmarkResult], dict[str, str]]:
    """Ask a model all benchmarks of a table; one that cannot be asked stops none.

    A server writes answers where the paper ranks them, since it does not say how likely a given answer is.

    Args:
        folder: below it lies a folder for each benchmark.
        out: a folder for the answers, one file a benchmark; a run that was killed is gone on with there.

    Returns:
        What each benchmark scores, and why others have no score.
    """
    found: dict[str, BenchmarkResult] = {}
    missing: dict[str, str] = {}
    out.mkdir(parents=True, exist_ok=True)
    for one, row in table()[name].rows.items():
        answers = out / f"{one}.jsonl"
        rank = row.rank if isinstance(assistant, Assistant) else None  # a server writes
        words: dict[str, Any] = {"style": row.prompt, "rank": rank, "limit": limit}
        if progress is not None:
            words["progress"] = lambda done, total, one=one: progress(one, done, total)
        try:
            place = folder / (row.folder or one)
            words |= {"batch_size": batch_size, "overwrite": overwrite}
            result = run(assistant, one, place, answers, **words)
            spec = named(one)
            found[one] = result if spec.judge is None else judged(result, spec, answers, judge)
        except OmnimixError as error:
            missing[one] = error.sentence()
    return found, missing
