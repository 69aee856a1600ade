"""Two files of answers to the same questions: is one really better, and on which rows do they differ."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from omnimix import regions
from omnimix.errors import OmnimixError
from omnimix.evaluate.answers import AnsweredLine, BenchmarkResult, clustered
from omnimix.types import Point

SIDE = 360
"""Pixels of a picture's longer side on the page."""


@dataclass(frozen=True)
class Compared:
    """What came of it.

    Attributes:
        difference: of B's mean over A's, over the questions that both answered.
        low, high: its 95 % interval, pictures drawn anew.
        better, worse: questions on which B scores more, and less.
        p: McNemar's, exact and two-sided, over those that changed.
        rows: those that changed, of A and of B.
    """

    n: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    better: int
    worse: int
    p: float
    rows: tuple[tuple[AnsweredLine, AnsweredLine, float, float], ...]
    alone: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        words = ("n", "a", "b", "difference", "low", "high", "better", "worse", "p", "alone")
        return {word: round(getattr(self, word), 6) for word in words}


def compare(a: BenchmarkResult, b: BenchmarkResult) -> Compared:
    """Compare the scores of the same questions.

    Raises:
        OmnimixError: another benchmark or measure, another truth, or no question that both answered.
    """
    if (a.benchmark, a.measure) != (b.benchmark, b.measure) or not (a.score.each and b.score.each):
        raise OmnimixError(
            f"answers to {a.benchmark} by {a.measure} cannot be compared with those to {b.benchmark} by "
            f"{b.measure}, or there is no score for each",
            hint="compare answers to one benchmark, scored alike (--metric)",
        )
    first = {
        str(item.line["id"]): (item, one) for item, one in zip(a.items, a.score.each, strict=True)
    }
    second = {
        str(item.line["id"]): (item, one) for item, one in zip(b.items, b.score.each, strict=True)
    }
    both = [(*first[name], *second[name]) for name in first if name in second]
    if not both:
        raise OmnimixError(
            "no question was answered by both", hint="compare answers to one benchmark"
        )
    for one, _, other, _ in both:
        if one.line["references"] != other.line["references"]:
            raise OmnimixError(
                "what is right differs between the two files",
                where=f"question {one.line['id']}",
                hint="they are of two versions of the benchmark; answer one of them again",
            )
    gained = [theirs - ours for _, ours, _, theirs in both]
    pictures = [one.line["picture"] or one.line["id"] for one, *_ in both]
    low, high = clustered(gained, pictures)
    better, worse = sum(one > 0 for one in gained), sum(one < 0 for one in gained)
    return Compared(
        len(both),
        float(np.mean([ours for _, ours, _, _ in both])),
        float(np.mean([theirs for *_, theirs in both])),
        float(np.mean(gained)),
        low,
        high,
        better,
        worse,
        mcnemar(better, worse),
        tuple((one, other, x, y) for one, x, other, y in both if x != y),
        len(first) + len(second) - 2 * len(both),
    )


def mcnemar(better: int, worse: int) -> float:
    """How probable so uneven a split of the changed questions is where neither model is better."""
    n, fewer = better + worse, min(better, worse)
    if n > 1000:  # the normal curve, with the correction for whole numbers
        from math import erfc, sqrt

        return erfc(max(abs(better - worse) - 1, 0) / sqrt(2 * n))
    return float(min(1.0, 2 * sum(comb(n, k) for k in range(fewer + 1)) / 2**n))


def z_table(
    scores: Mapping[str, Mapping[str, float]],
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Every model's mean z-score over the benchmarks, which ranks models over benchmarks of unlike scales.

    As arXiv 2402.07865 has it: a score less the mean over these models, divided by their standard deviation (that of a
    population). A benchmark on which all models score the same says nothing and counts 0.

    Args:
        scores: of every model its score on every benchmark; those that all have are taken.

    Returns:
        The means, and the z-scores behind them.

    Raises:
        OmnimixError: there is no such benchmark, or a single model.
    """
    names = sorted(set.intersection(*(set(one) for one in scores.values())))
    if not names or len(scores) < 2:
        raise OmnimixError(
            "no benchmark was answered by several models", hint="answer one with two models or more"
        )
    found: dict[str, dict[str, float]] = {model: {} for model in scores}
    for name in names:
        values = np.asarray([scores[model][name] for model in scores], dtype=float)
        spread = float(values.std())
        for model, value in zip(scores, values, strict=True):
            found[model][name] = float(value - values.mean()) / spread if spread else 0.0
    return {model: float(np.mean([*each.values()])) for model, each in found.items()}, found


def page(found: Compared, names: tuple[str, str], folder: Path | None, most: int = 200) -> str:
    """The rows that changed, as one page that needs nothing else.

    Args:
        folder: of the official files, for the pictures; without it rows stand without.
        most: rows on the page; how many more there are is said.
    """
    rows = "\n".join(
        _row(one, other, x, y, names, folder) for one, other, x, y in found.rows[:most]
    )
    more = len(found.rows) - most
    rest = f"<p>{more} more rows changed and are not shown.</p>" if more > 0 else ""
    a, b = map(html.escape, names)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{a} and {b}</title>
<style>body{{font:15px/1.5 system-ui;margin:2rem auto;max-width:64rem;padding:0 1rem}}
article{{display:flex;gap:1rem;border-top:1px solid #999;padding:1rem 0}}figure{{margin:0;position:relative}}
dt{{font-weight:600}}dd{{margin:0 0 .5rem;white-space:pre-wrap;overflow-wrap:anywhere}}</style>
<h1>{a} and {b}</h1>
<p>{found.n} questions: {found.a:.4f} and {found.b:.4f}, difference {found.difference:+.4f}
({found.low:+.4f} to {found.high:+.4f}); {found.better} better, {found.worse} worse, p = {found.p:.3g}.
Green: what is right. Orange: {a}. Blue: {b}.</p>
{rows}
{rest}
</html>
"""


def _row(
    one: AnsweredLine,
    other: AnsweredLine,
    x: float,
    y: float,
    names: tuple[str, str],
    folder: Path | None,
) -> str:
    line = one.line
    right = "; ".join(line["references"]) or "the green box"
    said = [("Question", line["question"]), ("Right", right)]
    said += [
        (f"{name}: {score:.2f}", str(item.line["answer"]))
        for name, item, score in ((names[0], one, x), (names[1], other, y))
    ]
    words = "".join(f"<dt>{html.escape(a)}</dt><dd>{html.escape(b)}</dd>" for a, b in said)
    title = html.escape(str(line["id"]))
    return (
        f"<article>{_figure(one, other, folder)}<dl><dt>{title}</dt><dd></dd>{words}</dl></article>"
    )


def _figure(one: AnsweredLine, other: AnsweredLine, folder: Path | None) -> str:
    """The picture with the boxes on it; empty where it cannot be shown."""
    width, height = one.line["size"]
    if not width:
        return ""
    drawn = [
        _shape(shape, colour)
        for colour, shapes in (
            ("#0a0", [regions.from_json(box) for box in one.line["boxes"]]),
            ("#e70", one.read.regions if one.read else ()),
            ("#05d", other.read.regions if other.read else ()),
        )
        for shape in shapes
    ]
    shown = _thumbnail(folder, one.line["picture"])
    if not shown and not drawn:
        return ""
    scale = SIDE / max(width, height)
    size = f'width="{width * scale:.0f}" height="{height * scale:.0f}"'
    image = f'<image href="{shown}" width="{width}" height="{height}"/>' if shown else ""
    return (
        f'<figure><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {size} role="img" '
        f'aria-label="picture with regions">{image}{"".join(drawn)}</svg></figure>'
    )


def _shape(region: Any, colour: str) -> str:
    style = f'fill="none" stroke="{colour}" stroke-width="3" vector-effect="non-scaling-stroke"'
    if isinstance(region, Point):
        return f'<circle cx="{region.x}" cy="{region.y}" r="6" {style}/>'
    x1, y1, x2, y2 = region.bounds()
    return f'<rect x="{x1}" y="{y1}" width="{x2 - x1}" height="{y2 - y1}" {style}/>'


def _thumbnail(folder: Path | None, name: str) -> str:
    if folder is None or not name or not (folder / name).is_file():
        return ""
    try:
        with Image.open(folder / name) as picture:
            shown = picture.convert("RGB")
            shown.thumbnail((SIDE, SIDE))
    except (OSError, ValueError):
        return ""
    out = io.BytesIO()
    shown.save(out, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
