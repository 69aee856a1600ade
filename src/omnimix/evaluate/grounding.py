"""Referring expressions: is the box of an answer the right one (REC of RefCOCO).

The picture was padded to a square, whose fractions the answer holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from omnimix.types import Box

_BRACKET = re.compile(r"\[(.*?)\]")
_NOWHERE = Box(0.0, 0.0, 0.0, 0.0)


def answered_box(answer: str) -> Box:
    """The four numbers of an answer's first bracket, as they are written.

    Where no bracket is whole, the text before the first `]` is read, since a prompt may have opened it.
    Anything that is not four numbers is an empty box, which is never right.
    """
    found = _BRACKET.search(answer)
    words = (found.group(1) if found else answer.split("]")[0]).split(",")
    if len(words) != 4:
        return _NOWHERE
    try:
        return Box(*map(float, words))
    except ValueError:
        return _NOWHERE


def squared(box: Box, width: int, height: int) -> Box:
    """A box of a picture moved to where it lies in the padded square, in pixels."""
    right, down = max(0, (height - width) // 2), max(0, (width - height) // 2)
    return Box(box.x1 + right, box.y1 + down, box.x2 + right, box.y2 + down)


def is_right(answer: str, box: Box, width: int, height: int, least: float = 0.5) -> bool:
    """Whether the first box of an answer covers the true one.

    Args:
        answer: with fractions of the padded square.
        box: the true one in pixels of the picture.
        width, height: of the picture in pixels.
        least: intersection over union from which on it counts.
    """
    side = max(width, height)
    found = answered_box(answer)
    shown = Box(found.x1 * side, found.y1 * side, found.x2 * side, found.y2 * side)
    return shown.iou(squared(box, width, height)) >= least


def accuracy(rows: Iterable[tuple[str, Box, int, int]], least: float = 0.5) -> float:
    """The share of right answers; each row is what `is_right` takes. 0 where there are none."""
    right = [is_right(*row, least=least) for row in rows]
    return sum(right) / len(right) if right else 0.0
