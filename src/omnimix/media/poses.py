"""Key points of bodies in answers, and the lines that join them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from omnimix.types import Point, Region

NAMES = (
    "nose",
    *(
        f"{side} {part}"
        for part in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        for side in ("left", "right")
    ),
)
"""COCO's 17 key points of a person, in its order. A label may part its words by `_` or `-`, and write capitals."""

_COCO = "16-14 14-12 17-15 15-13 12-13 6-12 7-13 6-7 6-8 7-9 8-10 9-11 2-3 1-2 1-3 2-4 3-5 4-6 5-7"
LIMBS = frozenset(
    frozenset(NAMES[int(number) - 1] for number in limb.split("-")) for limb in _COCO.split()
)
"""The pairs that a line joins: `skeleton` of COCO's `person_keypoints`, where names count from 1."""


def joined(regions: Sequence[Region]) -> list[tuple[int, ...]]:
    """For each region those before it that a line of a body's skeleton joins it to, by their indices.

    Points that follow one another are of one body; a name that comes again, or a region that is no key point,
    begins the next one. The same name several times in a row is one point each of as many bodies, as where a
    convention writes the points of one name in one bracket.
    """
    bodies: list[dict[str, int]] = []
    before, number = "", 0
    lines: list[tuple[int, ...]] = []
    for index, region in enumerate(regions):
        name = _name(region)
        if not name:
            bodies, before = [], ""
            lines.append(())
            continue
        number = number + 1 if name == before else 0
        if name != before and any(name in body for body in bodies):
            bodies = []
        bodies.extend({} for _ in range(number + 1 - len(bodies)))
        body, before = bodies[number], name
        lines.append(tuple(at for other, at in body.items() if frozenset((name, other)) in LIMBS))
        body[name] = index
    return lines


def _name(region: Region) -> str:
    """Which key point a region is; empty: none."""
    name = " ".join(re.split(r"[\s_-]+", region.label.strip().lower()))
    return name if isinstance(region, Point) and name in NAMES else ""
