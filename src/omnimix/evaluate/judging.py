"""Reviews of a judge that compares two answers, as LLaVA's evaluation has them (arXiv 2304.08485).

The judge is a model that is asked; here its reviews are read and summed up.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from omnimix.evaluate.measure import Measure, Reference, Score
from omnimix.generate.answers import Answer

UNREADABLE = (-1.0, -1.0)


def marks(review: str) -> tuple[float, float]:
    """The two marks in a review's first line, `8 7` or `8,7`; of the reference first, then of the model.

    Only a single space or comma may stand between them: the published script reads `8, 7` as three words,
    of which one is empty, and takes the review for unreadable.
    """
    words = review.split("\n")[0].replace(",", " ").split(" ")
    try:
        first, second = map(float, words)
    except ValueError:
        return UNREADABLE
    return first, second


def relative(reviews: Sequence[tuple[float, float]]) -> float:
    """The model's mean mark in percent of the reference's; both means are rounded to 3 decimals first.

    Unreadable reviews count with their -1, as in the published script.
    """
    reference = round(fmean(first for first, _ in reviews), 3)
    model = round(fmean(second for _, second in reviews), 3)
    return 100 * model / reference if reference else 0.0


def summary(reviews: Sequence[tuple[float, float]], categories: Sequence[str]) -> dict[str, float]:
    """`relative` of every category and of `all`."""
    groups: dict[str, list[tuple[float, float]]] = {"all": list(reviews)}
    for review, category in zip(reviews, categories, strict=True):
        groups.setdefault(category, []).append(review)
    return {name: relative(rows) for name, rows in groups.items()}


class Judged(Measure):
    """What a judge thinks of a model, in percent of what it thinks of the reference.

    Each record is a request for a review; its `meta` may name a `group`, its last turn is not compared.
    """

    max_new_tokens = 512

    def score(self, predictions: Sequence[Answer], references: Sequence[Reference]) -> Score:
        reviews = [marks(answer.text) for answer in predictions]
        whole, *groups = summary(reviews, [reference.group for reference in references]).items()
        named = tuple((name, value) for name, value in groups if name)
        return Score(whole[1], groups=named, ceiling=None)
