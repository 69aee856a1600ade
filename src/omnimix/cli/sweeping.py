"""Cells of a sweep: which there are, how each is trained and asked, and what came of them."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

import omnimix
from omnimix import cache, config
from omnimix.cli import tables
from omnimix.compose.model import MultimodalLM
from omnimix.config import Spec
from omnimix.disk import write_text
from omnimix.errors import OmnimixError
from omnimix.evaluate.compare import mcnemar
from omnimix.evaluate.report import spread
from omnimix.generate.assistant import Assistant
from omnimix.registry import BENCHMARKS
from omnimix.train import optim, settings
from omnimix.train.plots import lines_of
from omnimix.train.run import train

RESULT = "result.json"
COST = ("parameters", "steps", "train_seconds", "seconds", "dropped")
"""What a cell says of its price, and how often a record was left out; the steps and seconds of a run that was
interrupted are those of all its parts, as its metrics tell them."""


class SweepSpec(Spec):
    """Words of a sweep.

    Attributes:
        name: of it.
        training: the training file of every cell.
        set: overrides for all cells.
        axes: for each axis its values by name, each a list of overrides (`stages.0.trainable=[language]`); one that
            begins with `recipe.` is of the recipe (`recipe.modalities.image.steps.0.size=224`). The first value is
            the base.
        grid: `one` moves one axis at a time from the base, `full` takes every combination.
        benchmark: that every finished model is asked.
        tasks: some of its tasks; all by default.
        limit: questions of a task.
        feature_cache: keep what frozen encoders give in one folder for all cells.
    """

    name: str
    training: str
    set: tuple[str, ...] = ()
    axes: dict[str, dict[str, tuple[str, ...]]] = Field(min_length=1)
    grid: Literal["one", "full"] = "one"
    benchmark: str
    tasks: tuple[str, ...] = ()
    limit: int = Field(default=100, ge=1)
    feature_cache: bool = False

    def cells(self) -> dict[str, list[str]]:
        """For each cell its overrides; the base comes first."""
        for axis, values in self.axes.items():
            if not values:
                raise OmnimixError("an axis without values", where=f"axes.{axis}")
        base = {axis: next(iter(values)) for axis, values in self.axes.items()}
        if self.grid == "full":
            chosen = [
                dict(zip(self.axes, pick, strict=True))
                for pick in itertools.product(*self.axes.values())
            ]
        else:
            moved = [
                {**base, axis: value} for axis, values in self.axes.items() for value in values
            ]
            chosen = [base, *(pick for pick in moved if pick != base)]
        return {
            ",".join(f"{axis}={value}" for axis, value in pick.items()): [
                *self.set,
                *(word for axis, value in pick.items() for word in self.axes[axis][value]),
            ]
            for pick in chosen
        }


def load(path: Path) -> SweepSpec:
    """A sweep's file.

    Raises:
        RecipeError: an unusable word in it.
    """
    return config.validate(SweepSpec, config.read_yaml(path), path.name)


def run(
    spec: SweepSpec, folder: Path, out: Path, tell: Callable[[str], None]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Train and ask every cell that is not finished.

    All cells have the seed of the training file and so the same batches in the same order, unless an axis says otherwise.

    Returns:
        What came of the cells, the base first; and of those that failed the sentence that says why.

    Raises:
        OmnimixError: a finished cell whose words were others, unusable words, or a base that fails: there is nothing
            to compare the others with.
    """
    BENCHMARKS.load(spec.benchmark)().check(spec.tasks)
    beside = folder / spec.training
    file = beside if beside.is_file() else Path(spec.training)
    cells = spec.cells()
    words = {name: _words(spec, file, overrides, out) for name, overrides in cells.items()}
    # All of them are read before the first is paid for.
    abouts = {name: _about(spec, file, words[name]) for name in cells}
    found, failed = {}, {}
    for number, name in enumerate(cells, 1):
        place = out / "cells" / name.replace("/", "_")
        if (place / RESULT).is_file():
            found[name] = json.loads((place / RESULT).read_text())
            if found[name]["about"] != abouts[name]:
                raise OmnimixError(
                    "the cell was finished with other words, or its training file or recipe was another",
                    where=str(place),
                    hint="name another folder with --out, or remove the cell's",
                )
            tell(f"{number}/{len(cells)} {name}: kept")
            continue
        tell(f"{number}/{len(cells)} {name}")
        try:
            result = _cell(spec, file, words[name], place)
        except OmnimixError as error:
            if not found:
                raise
            failed[name] = error.sentence()
            tell(f"{number}/{len(cells)} {name}: failed, {failed[name]}")
            continue
        found[name] = {"about": abouts[name], **result}
        place.mkdir(parents=True, exist_ok=True)
        write_text(place / RESULT, json.dumps(found[name], indent=2) + "\n")
    return found, failed


def _about(spec: SweepSpec, file: Path, words: Sequence[str]) -> dict[str, Any]:
    """What a cell's result belongs to: its words, and all that they leave to the files."""
    training, start = settings.load(file, words)
    recipe, _ = training.model(start)
    return {
        "training": training.name,
        "words": list(words),
        "files": cache.digest(training.dump(), recipe.dump()),
        "asked": [spec.benchmark, list(spec.tasks), spec.limit],
    }


def _words(spec: SweepSpec, file: Path, overrides: Sequence[str], out: Path) -> list[str]:
    """Overrides of the training file; those of the recipe go to its word `set`."""
    own = [word for word in overrides if not word.startswith("recipe.")]
    training, _ = settings.load(file, own)
    recipe = [*training.set, *(w[len("recipe.") :] for w in overrides if w.startswith("recipe."))]
    own.append(f"set={json.dumps(recipe)}")
    if spec.feature_cache:
        place = json.dumps(str((out / "features").resolve()))
        own += [f"stages.{i}.feature_cache={place}" for i in _frozen(file, own)]
    return own


def _frozen(file: Path, words: Sequence[str]) -> list[int]:
    """Stages in which no encoder learns, whose features may be kept."""
    training, folder = settings.load(file, words)
    model = MultimodalLM.on_meta(training.model(folder)[0])
    return [
        number
        for number, stage in enumerate(training.stages)
        if not any(optim.fits(name, "encoders") for name in optim.learning(model, stage.trainable))
    ]


def _cell(spec: SweepSpec, file: Path, words: Sequence[str], place: Path) -> dict[str, Any]:
    result = train(file, words, place / "run")
    if not result.finished:
        raise KeyboardInterrupt
    # Those of a run that was interrupted as well, which the clock of this process did not see.
    lines = [line for line in lines_of(result.folder) if "seconds" in line]
    trained = sum(line["seconds"] for line in lines)
    began = time.monotonic()
    assistant = omnimix.load(str(result.folder / "model"))
    scores = asked(assistant, spec)
    sizes = [p.numel() for p in assistant.model.parameters()]
    return {
        "scores": scores,
        "train_seconds": round(trained, 1),
        "seconds": round(trained + time.monotonic() - began, 1),
        "parameters": sum(sizes),
        "steps": max(line["total_step"] for line in lines),
        "dropped": result.dropped.count,
    }


def asked(assistant: Assistant, spec: SweepSpec) -> dict[str, list[float]]:
    """The score of every question, by task; the same questions for every model."""
    benchmark = BENCHMARKS.load(spec.benchmark)()
    benchmark.check(spec.tasks)
    found = {}
    for task in spec.tasks or benchmark.tasks:
        samples = [benchmark.sample(task, i) for i in range(spec.limit)]
        with torch.inference_mode():
            answers = assistant.reply_many(
                [benchmark.question(s) for s in samples],
                32,
                max_new_tokens=benchmark.max_new_tokens,
            )
        found[task] = list(map(benchmark.score, samples, answers))
    return found


def report(found: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """For each cell its mean with an interval, its paired difference from the first, and its cost.

    Intervals are bootstraps of the questions' scores (`evaluate.report.spread`), of the differences question by
    question; p is McNemar's, exact, over the questions whose score changed.
    """
    first = next(iter(found))
    base = _flat(found[first])
    rows = []
    for name, cell in found.items():
        scores = _flat(cell)
        gained = scores - base
        rows.append(
            {
                "cell": name,
                "label": label(name, first),
                "score": float(scores.mean()),
                "interval": spread(scores.tolist()),
                "difference": float(gained.mean()),
                "difference_interval": spread(gained.tolist()),
                "p": mcnemar(int((gained > 0).sum()), int((gained < 0).sum())),
                "tasks": {task: float(np.mean(each)) for task, each in cell["scores"].items()},
                **{word: cell[word] for word in COST},
            }
        )
    return rows


def label(cell: str, base: str) -> str:
    """A cell by what it does otherwise than the base."""
    known = base.split(",")
    return ", ".join(word for word in cell.split(",") if word not in known) or "base"


def _flat(cell: Mapping[str, Any]) -> Any:
    return np.concatenate([np.asarray(each, dtype=float) for each in cell["scores"].values()])


def markdown(spec: SweepSpec, rows: Sequence[Mapping[str, Any]], failed: Mapping[str, str]) -> str:
    """The report as a page."""
    tasks = list(rows[0]["tasks"])
    heads = [
        "cell",
        "score (95 %)",
        "against the base (95 %)",
        "p",
        *tasks,
        "parameters",
        "seconds",
        *(["left out"] if any(row["dropped"] for row in rows) else []),
    ]
    said = [
        f"# {spec.name}",
        "",
        f"{spec.benchmark}, {spec.limit} questions of a task, the same for every cell. The first cell is the base: "
        f"{rows[0]['cell'].replace(',', ', ')}. {len(rows) - 1} comparisons: of 20 without a difference one has p < 0.05.",
        "",
    ]
    lines = []
    for row in rows:
        low, high = row["interval"]
        less, more = row["difference_interval"]
        line = [
            row["label"],
            f"{row['score']:.3f} ({low:.3f} to {high:.3f})",
            f"{row['difference']:+.3f} ({less:+.3f} to {more:+.3f})",
            f"{row['p']:.3g}",
            *(f"{row['tasks'][task]:.3f}" for task in tasks),
            f"{row['parameters']:,}",
            f"{row['train_seconds']:.0f}",
            *([str(row["dropped"])] if "left out" in heads else []),
        ]
        lines.append(line)
    said += tables.markdown(heads, lines)
    if spec.feature_cache:
        said += [
            "",
            "Frozen encoders are run by the first cell that needs their features and read by those behind it, so that "
            "seconds of cells are not of equal work.",
        ]
    said += [f"- {name} failed: {why}" for name, why in failed.items()]
    return "\n".join([*said, "", "![scores](scores.png)", "![cost](cost.png)", ""])


def plots(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Scores with their intervals, and scores over seconds of training."""
    from matplotlib.figure import Figure

    names = [f"{number}  {row['label']}" for number, row in enumerate(rows, 1)]
    scores = [row["score"] for row in rows]
    around = [
        [row["score"] - row["interval"][0] for row in rows],
        [row["interval"][1] - row["score"] for row in rows],
    ]
    drawn = Figure(figsize=(9, 1 + 0.4 * len(rows)), layout="constrained")
    axis = drawn.subplots()
    axis.errorbar(scores, range(len(rows)), xerr=np.maximum(around, 0), fmt="o")
    axis.set_yticks(range(len(rows)), names)
    axis.invert_yaxis()
    axis.set_xlabel("score, 95 % interval")
    drawn.savefig(out / "scores.png")
    drawn = Figure(figsize=(9, max(4, 1 + 0.25 * len(rows))), layout="constrained")
    axis = drawn.subplots()
    for number, (name, row) in enumerate(zip(names, rows, strict=True), 1):
        place = (row["train_seconds"], row["score"])
        axis.scatter(*place, label=name, color=f"C{number % 10}")
        axis.annotate(str(number), place, (4, 4), textcoords="offset points", fontsize=8)
    axis.set_xlabel("seconds of training")
    axis.set_ylabel("score")
    drawn.legend(loc="outside right upper", fontsize=8)
    drawn.savefig(out / "cost.png")
