"""Coordinates in text: how a recipe writes boxes and points, and how they are read back.

Numbers are fractions of the picture's *first tile* (the padded square where the recipe pads, as SPHINX
does), so that what the model sees and what it writes share one frame.
"""

from __future__ import annotations

import math
import re

from omnimix.config import Spec
from omnimix.media.tiles import Frame
from omnimix.types import Box, Point, Region

_BRACKET = re.compile(r"\[([^\[\]]*)\]")


class Coordinates(Spec):
    """`[x1, y1, x2, y2]` with a fixed number of decimals.

    Attributes:
        decimals: digits after the point.
        ceiling: largest fraction that is written; below 1 it keeps every number equally long.
    """

    decimals: int = 2
    ceiling: float = 1.0

    def write(self, region: Region, frame: Frame) -> str:
        """A point as two numbers, every other region as the four of its bounding box."""
        x1, y1, x2, y2 = region.bounds()
        numbers = frame.place(x1, y1)
        if not isinstance(region, Point):
            numbers = (*numbers, *frame.place(x2, y2))  # type: ignore[assignment]
        inside = (min(max(number, 0.0), self.ceiling) for number in numbers)
        return "[" + ", ".join(f"{number:.{self.decimals}f}" for number in inside) + "]"

    def read(self, text: str, frame: Frame, size: tuple[int, int]) -> list[Box | Point]:
        """Every well-formed bracket as a box or point in pixels of the original, cut to the picture.

        Brackets that hold anything else, and boxes without extent, are left alone.
        """
        found: list[Box | Point] = []
        for bracket in _BRACKET.findall(text):
            for group in bracket.split(";"):
                try:
                    numbers = [float(word) for word in group.split(",")]
                except ValueError:
                    continue
                if len(numbers) not in (2, 4) or not all(map(math.isfinite, numbers)):
                    continue
                spots = [frame.back(u, v) for u, v in zip(numbers[::2], numbers[1::2], strict=True)]
                cut = [(min(max(x, 0.0), size[0]), min(max(y, 0.0), size[1])) for x, y in spots]
                if len(cut) == 1:
                    found.append(Point(*cut[0]))
                elif cut[0][0] < cut[1][0] and cut[0][1] < cut[1][1]:
                    found.append(Box(*cut[0], *cut[1]))
        return found
