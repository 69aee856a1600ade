"""What the numbers of regions may be, wherever they come from."""

from __future__ import annotations

import math
from collections.abc import Iterable

from omnimix.errors import RegionError

MOST_POINTS = 4096
"""Points of an outline or a stroke, at most."""

FARTHEST = 1e6
"""Pixels that a coordinate may lie from the picture's origin: float32 holds what is nearer to the sixteenth."""


def check_count(count: int, what: str, where: str | None) -> None:
    if count > MOST_POINTS:
        raise RegionError(
            f"the {what} has {count} points; at most {MOST_POINTS} are taken",
            where=where,
            hint="leave points out, or give a mask",
        )


def check_near(numbers: Iterable[float], what: str, where: str | None) -> None:
    """Comparing takes whole numbers of any length, and is false where there is no number."""
    for number in numbers:
        if number != number or number in (math.inf, -math.inf):
            raise RegionError(f"{what} has numbers that are not finite", where=where)
        if not -FARTHEST <= number <= FARTHEST:
            raise RegionError(
                f"{what} has a number beyond {FARTHEST:,.0f}",
                where=where,
                hint="coordinates are pixels of the original picture",
            )


def check_brush(width: float, where: str | None) -> None:
    if width <= 0:
        raise RegionError(
            f"the stroke is {width:g} pixels wide", where=where, hint="give a width above 0"
        )
