"""Answers to a benchmark in a file that can be scored by itself, again and by another rule, without the model.

A line holds what was asked, what is right and what was answered; beside the file lies what it depends on.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnimix import regions
from omnimix.data.opened import open_rows
from omnimix.errors import OmnimixError, RegionError, SampleError
from omnimix.evaluate import parsing
from omnimix.evaluate.asking import Reply
from omnimix.evaluate.benchmark import BenchmarkSpec, Official, opened
from omnimix.evaluate.measure import Measure, Reference, Score, reference_of
from omnimix.evaluate.predict import predict
from omnimix.evaluate.ranking import Rank, RankedAnswer, Ranking
from omnimix.evaluate.report import wilson
from omnimix.generate.answers import Answer
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.parallel.process_group import ProcessGroup, join
from omnimix.registry import MEASURES
from omnimix.types import Box

DRAWS = 1000


@dataclass(frozen=True)
class AnsweredLine:
    """One line: an answer and what is right, or why there is none.

    Attributes:
        line: as it stands in the file.
        read: the answer as the parser read it.
    """

    line: dict[str, Any]
    reference: Reference | None
    answer: Answer | None
    read: Answer | None = None


@dataclass(frozen=True)
class BenchmarkResult:
    """What a file of answers scores.

    Attributes:
        items: those that are scored, in the order of `score.each`.
        failed: why others are not.
        pinned: versions of prompt, parser and measure, and whose answers they are.
        skipped: why there is no score at all.
    """

    benchmark: str
    measure: str
    score: Score
    items: tuple[AnsweredLine, ...]
    failed: tuple[str, ...]
    pinned: dict[str, Any]
    skipped: str = ""

    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval over pictures; None where the score is no mean of the answers' scores, or all are on one."""
        each = self.score.each
        if not each or abs(sum(each) / len(each) - self.score.value) > 1e-9:
            return None
        pictures = [_picture(item) for item in self.items]
        if len(set(pictures)) == 1 < len(pictures):
            return None  # nothing says how another picture would have gone
        if len(set(pictures)) == len(pictures) and self.score.ceiling == 1.0:
            return wilson(self.score.value, len(each))
        return clustered(each, pictures)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        found: dict[str, Any] = {"benchmark": self.benchmark, "measure": self.measure}
        if self.skipped:
            found |= {"score": None, "skipped": self.skipped}
        else:
            found["score"] = round(self.score.value, 4)
            if (interval := self.interval()) is not None:
                found |= {"low": round(interval[0], 4), "high": round(interval[1], 4)}
            for name, pairs in (("groups", self.score.groups), ("numbers", self.score.numbers)):
                if pairs:
                    found[name] = {key: round(value, 4) for key, value in pairs}
            if self.score.notes:
                found["notes"] = list(self.score.notes)
        texts = [item.answer.text for item in self.items if item.answer is not None]
        return found | {
            "n": len(self.items),
            "pictures": len({_picture(item) for item in self.items}),
            "empty": sum(not text.strip() for text in texts),
            "unread": sum(_unread(item) for item in self.items),
            "failed": len(self.failed),
            "failures": list(self.failed[:10]),
            "pinned": self.pinned,
        }

    def lines(self) -> list[dict[str, Any]]:
        """Every scored line with what was read and its score, and by which prompt, parser and measure."""
        each = self.score.each or (None,) * len(self.items)
        words = {word: self.pinned.get(word) for word in ("prompt", "parser", "measure")}
        return [
            item.line | {"read": item.read.text if item.read else None, "score": score} | words
            for item, score in zip(self.items, each, strict=True)
        ]


def _picture(item: AnsweredLine) -> str:
    return (item.reference.picture or item.reference.name) if item.reference else ""


def _unread(item: AnsweredLine) -> bool:
    """Whether something was answered and nothing of it could be read."""
    if item.answer is None or item.read is None or not item.answer.text.strip():
        return False
    if item.reference is not None and item.reference.boxes:
        return not item.read.regions
    return not item.read.text.strip()


def clustered(each: Sequence[float], pictures: Sequence[str]) -> tuple[float, float]:
    """The 95 % interval of a mean by drawing pictures anew, each with all its questions (percentiles, seed 0)."""
    _, which = np.unique(np.asarray(pictures), return_inverse=True)
    sums = np.bincount(which, weights=np.asarray(each, dtype=float))
    counts = np.bincount(which)
    chance = np.random.default_rng(0)
    means = []
    for _ in range(DRAWS):
        chosen = chance.integers(0, len(sums), len(sums))
        means.append(sums[chosen].sum() / counts[chosen].sum())
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def noted(reply: Reply) -> dict[str, Any]:
    """What a line says of its question and of what is right."""
    if reply.sample is None:
        return {}
    try:
        reference = reference_of(reply.sample, reply.size)
    except SampleError:
        return {}
    said, answer = asdict(reference), reply.answer
    return {
        "question": reply.sample.turns[0].text(),
        "picture": said["picture"],
        "size": list(reply.size),
        "group": said["group"],
        "references": list(said["texts"]),
        "choices": list(said["choices"]),
        "boxes": [regions.to_json(box) for box in reference.boxes],
        **({"likelihoods": dict(answer.likelihoods)} if isinstance(answer, RankedAnswer) else {}),
    }


def run(
    assistant: Assistant,
    name: str,
    folder: Path,
    out: Path | None = None,
    style: str = "default",
    batch_size: int = 32,
    limit: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    options: Options | None = None,
    rows: str = ":",
    index: Path | None = None,
    rank: Rank | None = None,
) -> BenchmarkResult:
    """Ask a model a benchmark and score its answers.

    Args:
        assistant: a model, or a stand-in with `weave`, `write_many` and `identity`.
        name: of the benchmark, or a YAML file.
        folder: holds the official files.
        out: where the answers stay; a run that was killed is gone on with there.
        style: of the prompt.
        limit: the first so many rows.
        rows: some of them as Python writes it, `-200:`.
        index: a file of `omnimix data prepare`: its rows, in its order.
        rank: choose the likeliest of the possible answers instead of writing one: by the likelihood of the whole
            (`sum`) or of a token on average (`mean`).

    Under `torchrun` every process has the whole model and answers its share of the batches.

    Raises:
        OmnimixError: as `predict`; a folder without the official files; nothing to rank, or nobody who can.
    """
    spec, source = opened(name, folder, style)
    if rank is not None:
        assistant = _ranking(assistant, spec, rank)
    group = _shares(assistant, out)
    if index is not None:
        source.choose(index)
    source.cut(rows)
    chosen = options or Options(max_new_tokens=spec.max_new_tokens)
    pinned = {"benchmark": name, "data": _content(source), "slice": rows, **spec.pinned(style)}
    if index is not None:
        pinned["index"] = hashlib.sha256(index.read_bytes()).hexdigest()[:16]
    with tempfile.TemporaryDirectory() as scratch:
        place = out or Path(scratch) / "answers.jsonl"
        how = (chosen, batch_size, limit, overwrite, progress, noted, pinned, group)
        predict(assistant, source, folder, place, *how)
        return score(place, spec)


def _ranking(assistant: Any, spec: BenchmarkSpec, rank: Rank) -> Any:
    if not (spec.options or spec.choices or spec.offered):
        raise OmnimixError(f"{spec.title} has no choices to rank", hint="leave --rank out")
    if not isinstance(assistant, Assistant):
        raise OmnimixError(
            "a server does not say how likely a given answer is",
            hint="leave --rank or --server out",
        )
    return Ranking(assistant, spec.options, rank)


def _shares(assistant: Any, out: Path | None) -> ProcessGroup:
    """The processes of torchrun, of which each has the whole model; this one alone where they share a model."""
    own = getattr(assistant, "process_group", None)
    if own is not None and own.size > 1:
        return ProcessGroup()
    group = join()
    if group.size > 1 and out is None:
        raise OmnimixError(
            "several processes need a file that they write answers to",
            hint="name it: --answers FILE.jsonl",
        )
    return group


def _content(source: Official) -> str:
    """A hash of the official files, pictures apart."""
    found = hashlib.sha256()
    for path in source.table.files():
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]


def read_items(path: Path, parser: str) -> tuple[list[AnsweredLine], list[str]]:
    """The answers of a file and why others are none; a damaged line stops nothing.

    Raises:
        SampleError: the file cannot be read or holds no line.
    """
    rows = open_rows(path)
    read = parsing.parser(parser)
    items: list[AnsweredLine] = []
    failed: list[str] = []
    for index in range(len(rows)):
        try:
            line = rows[index]
            if "error" in line:
                raise SampleError(str(line["error"]))
            item = _item(line)
            assert item.answer is not None
            size, choices = (line["size"] or [0, 0]), line["choices"]
            items.append(
                AnsweredLine(
                    line, item.reference, item.answer, read(item.answer, choices, tuple(size))
                )
            )
        except (SampleError, RegionError) as error:
            said = error.sentence()
            failed.append(said if rows.where(index) in said else f"{rows.where(index)}: {said}")
        except (KeyError, TypeError, ValueError) as error:
            failed.append(
                f"{rows.where(index)}: the line holds no answer that can be scored ({error})"
            )
    return items, failed


def _item(line: dict[str, Any]) -> AnsweredLine:
    drawn = tuple(regions.from_json(one) for one in line.get("regions", []))
    boxes = [regions.from_json(one) for one in line["boxes"]]
    reference = Reference(
        tuple(line["references"]),
        tuple(box for box in boxes if isinstance(box, Box)),
        (int(line["size"][0]), int(line["size"][1])),
        line["group"],
        str(line["id"]),
        tuple(line["choices"]),
        line["picture"],
    )
    answer = Answer(line["answer"], drawn, line.get("tokens", 0), line.get("finished", True))
    return AnsweredLine(line, reference, answer)


def score(
    path: Path, spec: BenchmarkSpec | None = None, metric: str | None = None
) -> BenchmarkResult:
    """Score the answers of a file.

    Args:
        spec: the benchmark; the one that the file names by default.
        metric: another measure than the benchmark's.

    Raises:
        OmnimixError: no such file, or nothing in it that can be scored.
    """
    if not path.is_file():
        raise OmnimixError("there is no such file of answers", where=str(path))
    beside = path.with_name(path.name + ".run.json")
    try:
        pinned = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        pinned = {}
    if spec is None:
        if "benchmark" not in pinned:
            raise OmnimixError(
                "nothing says of which benchmark the answers are",
                where=str(path),
                hint=f"keep {beside.name} beside it",
            )
        from omnimix.evaluate.benchmark import named

        spec = named(pinned["benchmark"])
    pinned |= {k: v for k, v in spec.pinned("default").items() if k in ("parser", "measure")}
    items, failed = read_items(path, spec.parser)
    name = metric or spec.measure
    pinned["measure"] = f"{name}@{MEASURES.load(name).version}"
    if spec.export and not spec.answers and items:
        why = (
            f"what is right is known to its server alone, see {spec.home} (omnimix score --export)"
        )
        return BenchmarkResult(
            str(pinned.get("benchmark", "")),
            name,
            Score(0.0),
            tuple(items),
            tuple(failed),
            pinned,
            why,
        )
    return _scored(pinned, name, MEASURES.load(name)(), items, failed, path)


def _scored(
    pinned: dict[str, Any],
    name: str,
    measure: Measure,
    items: list[AnsweredLine],
    failed: list[str],
    path: Path,
) -> BenchmarkResult:
    sound: list[AnsweredLine] = []
    for item in items:
        assert item.reference is not None
        try:
            measure.check(item.reference)
            sound.append(item)
        except SampleError as error:
            failed.append(error.sentence())
    if not sound:
        raise OmnimixError(
            f"none of {len(items) + len(failed)} answers can be scored"
            + (f"; the first: {failed[0]}" if failed else ""),
            where=str(path),
            hint="mend the rows that are named; omnimix check tells the same of one's own data",
        )
    answers = [item.read for item in sound if item.read is not None]
    found = measure.score(answers, [item.reference for item in sound if item.reference])
    benchmark = str(pinned.get("benchmark", ""))
    return BenchmarkResult(benchmark, name, found, tuple(sound), tuple(failed), pinned)
