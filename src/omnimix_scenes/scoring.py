"""How right an answer to one question is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from omnimix.types import Box, Sample

_ENOUGH = 0.5


def normalised(text: str) -> str:
    """A text without case, outer or repeated spaces, and final stop."""
    return " ".join(text.split()).removesuffix(".").rstrip().lower()


def phrases(text: str) -> Counter[str]:
    """The noun phrases of a description, however often each occurs."""
    # Printed words are upper-case, so that " and " is never part of one.
    parts = text.replace(" and ", ", ").split(",")
    return Counter(phrase for phrase in map(normalised, parts) if phrase)


def f1(shared: int, given: int, wanted: int) -> float:
    """The harmonic mean of precision and recall; 1 where nothing is wanted nor given."""
    return 2 * shared / (given + wanted) if given + wanted else 1.0


def matched(given: Sequence[Box], wanted: Sequence[Box]) -> int:
    """How many wanted boxes are met, each by another given box, the best overlaps first."""
    overlaps = sorted(
        ((a.iou(b), i, j) for i, a in enumerate(given) for j, b in enumerate(wanted)), reverse=True
    )
    left: set[int] = set()
    right: set[int] = set()
    for overlap, i, j in overlaps:
        if overlap >= _ENOUGH and i not in left and j not in right:
            left.add(i)
            right.add(j)
    return len(left)


def score(sample: Sample, answer_text: str, answer_boxes: Sequence[Box]) -> float:
    """How right an answer to a sample of `Scenes.question` is, 0 to 1.

    Args:
        sample: the question with its `meta`.
        answer_text: the answer's words; its boxes may be left out.
        answer_boxes: the answer's boxes in pixels of the picture.
    """
    task = sample.meta["task"]
    if task == "find":
        return float(bool(answer_boxes) and answer_boxes[0].iou(sample.meta["box"]) >= _ENOUGH)
    if task == "list":
        wanted: Sequence[Box] = sample.meta["boxes"]
        return f1(matched(answer_boxes, wanted), len(answer_boxes), len(wanted))
    truth: str = sample.meta["answer"]
    if task == "describe":
        given, listed = phrases(answer_text), phrases(truth)
        return f1((given & listed).total(), given.total(), listed.total())
    return float(normalised(answer_text) == normalised(truth))
