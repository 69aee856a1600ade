"""Referring expressions (RefCOCO, arXiv 1608.00272): is the box of an answer the right one."""

from __future__ import annotations

import math
from typing import ClassVar

from omnimix.errors import SampleError
from omnimix.evaluate.measure import Each, Reference
from omnimix.generate.answers import Answer
from omnimix.types import Box

ENOUGH = 0.5
"""Intersection over union from which on a box counts."""

_NOWHERE = Box(0.0, 0.0, 0.0, 0.0)


def answered_box(answer: str) -> Box:
    """The four numbers of an answer's first bracket, as they are written.

    Where no bracket is whole, the text before the first `]` is read, since a prompt may have opened it.
    Anything that is not four numbers is an empty box, which is never right.
    """
    brackets = [line.split("[", 1)[1] for line in answer.split("\n") if "[" in line]
    whole = next((rest for rest in brackets if "]" in rest), answer)
    words = whole.split("]", 1)[0].split(",", 4)
    if len(words) != 4:
        return _NOWHERE
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return _NOWHERE
    return Box(*numbers) if all(map(math.isfinite, numbers)) else _NOWHERE


def squared(box: Box, width: int, height: int) -> Box:
    """A box of a picture moved to where it lies in the padded square, in pixels."""
    right, down = max(0, (height - width) // 2), max(0, (width - height) // 2)
    return Box(box.x1 + right, box.y1 + down, box.x2 + right, box.y2 + down)


def is_right(answer: str, box: Box, width: int, height: int, enough: float = ENOUGH) -> bool:
    """Whether the first box of an answer covers the true one.

    Args:
        answer: with fractions of the padded square.
        box: the true one in pixels of the picture.
        width, height: of the picture in pixels.
        enough: overlap from which on it counts.
    """
    side = max(width, height)
    given = answered_box(answer)
    shown = Box(given.x1 * side, given.y1 * side, given.x2 * side, given.y2 * side)
    return shown.iou(squared(box, width, height)) >= enough


class _OneBox(Each):
    """A measure of answers to records where one box is right."""

    def check(self, reference: Reference) -> None:
        if len(reference.boxes) != 1:
            raise SampleError(
                f"the record has {len(reference.boxes)} boxes where one is right",
                where=reference.name,
                hint='let its last turn hold one: {"box": [left, top, right, bottom]}',
            )


class Referring(_OneBox):
    """The share of answers whose first box overlaps the true one by half.

    The box is what the model's own convention reads. Where that reads none, the first bracket counts as
    fractions of the padded square, half open ones too: so do the published scripts.
    """

    enough: ClassVar[float] = ENOUGH

    def one(self, prediction: Answer, reference: Reference) -> float:
        self.check(reference)
        (true,) = reference.boxes
        for given in prediction.boxes:
            if isinstance(given, Box):
                return float(given.iou(true) >= self.enough)
        return float(is_right(prediction.text, true, *reference.size, self.enough))


class Iou(_OneBox):
    """The mean intersection over union of an answer's first box and the true one; 0 where it names none."""

    def one(self, prediction: Answer, reference: Reference) -> float:
        self.check(reference)
        (true,) = reference.boxes
        boxes = (region for region in prediction.boxes if isinstance(region, Box))
        return next((box.iou(true) for box in boxes), 0.0)
