"""Reviews of a judge that compares two answers.

The judge is a model that the caller asks; here its reviews are read and summed up.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

UNREADABLE = (-1.0, -1.0)


def marks(review: str) -> tuple[float, float]:
    """The two marks in a review's first line, `8 7` or `8,7`; of the reference first, then of the model."""
    words = review.split("\n")[0].replace(",", " ").split()
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
