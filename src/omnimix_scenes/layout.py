"""Scenes of objects: what is in them, and where, so that all of it can be seen and named."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from omnimix.types import Box, Point
from omnimix_scenes import stencils
from omnimix_scenes.vocab import COLOURS, PATTERNS, SHAPES, Rgb, pick_pair
from omnimix_scenes.world import Criterion, Ground, Scene, Thing, Word

# Light tints: far enough from white to show white things, light enough for every other colour.
TINTS: tuple[Rgb, ...] = (
    (206, 217, 230),
    (230, 218, 200),
    (204, 224, 212),
    (230, 208, 214),
    (214, 208, 230),
    (214, 216, 218),
    (226, 226, 196),
    (196, 222, 226),
    (188, 198, 208),
    (216, 204, 190),
)

# What part of an object's area may be covered.
_COVERED = 0.22


@dataclass(slots=True)
class _Placed:
    """A place on the picture while the layout grows; `room` is the area that may still be covered."""

    x: int
    y: int
    width: int
    height: int
    room: float


def canvas(rng: random.Random, square: bool = False) -> tuple[int, int]:
    """A picture's size: long side 200 to 320, mostly near square, at most 1:2."""
    longer = rng.randint(200, 320)
    if square or rng.random() < 0.65:
        shorter = round(longer * rng.uniform(0.8, 1.0))
    else:
        shorter = round(longer * 2 ** rng.uniform(-1.0, -0.3))
    return (longer, shorter) if rng.random() < 0.55 else (shorter, longer)


def jittered(rng: random.Random, colour: Rgb, by: int) -> Rgb:
    """A colour with each channel moved by at most `by`."""
    red, green, blue = (min(max(v + rng.randint(-by, by), 0), 255) for v in colour)
    return red, green, blue


def ground(rng: random.Random) -> Ground:
    """A soft background: flat or a gentle gradient."""
    first = jittered(rng, rng.choice(TINTS), 8)
    second = first
    if rng.random() < 0.6:
        red, green, blue = (max(v - rng.randint(14, 34), 0) for v in first)
        second = (red, green, blue)
        if rng.random() < 0.4:
            first, second = second, first
    return Ground(first, second, rng.random() < 0.35, rng.random() < 0.5)


def pairs(
    rng: random.Random, split: str, count: int, focus: Criterion | None, share: int
) -> list[tuple[str, str]]:
    """(colour, shape) of `count` objects, of which exactly `share` meet the focus, in any order."""
    if focus is None or focus[0] == "any":
        return [pick_pair(rng, split) for _ in range(count)]
    chosen = [pick_pair(rng, split, *focus) for _ in range(share)]
    chosen += [pick_pair(rng, split, *focus, equal=False) for _ in range(count - share)]
    rng.shuffle(chosen)
    return chosen


def any_focus(rng: random.Random) -> Criterion:
    """A shape or a colour to lay a scene out around."""
    if rng.random() < 0.5:
        return "shape", rng.choice(SHAPES)
    return "colour", rng.choice(tuple(COLOURS))


def _fits(spot: _Placed, fixed: list[_Placed], below: list[_Placed], overlap: bool) -> bool:
    """Whether a place is free; where it covers others a little, their room shrinks."""
    gap = 0 if overlap else 3
    x1, y1, x2, y2 = spot.x, spot.y, spot.x + spot.width, spot.y + spot.height
    for other in fixed:
        if (
            x1 < other.x + other.width
            and other.x < x2
            and y1 < other.y + other.height
            and other.y < y2
        ):
            return False
    covers = []
    for other in below:
        across = min(x2, other.x + other.width) - max(x1, other.x) + gap
        down = min(y2, other.y + other.height) - max(y1, other.y) + gap
        if across > 0 and down > 0:
            # The overlap of the boxes bounds that of the shapes from above.
            if not overlap or across * down > other.room:
                return False
            covers.append((other, across * down))
    for other, area in covers:
        other.room -= area
    return True


def _visible(spot: Point, above: list[_Placed]) -> bool:
    return not any(
        p.x - 1 <= spot.x <= p.x + p.width + 1 and p.y - 1 <= spot.y <= p.y + p.height + 1
        for p in above
    )


def _side(rng: random.Random, size: str, longer: int) -> int:
    low, high = (0.122, 0.165) if size == "small" else (0.23, 0.32)
    # Even sides halve the number of stencils to keep.
    return 2 * math.ceil(rng.uniform(low, high) * longer / 2)


def place(
    rng: random.Random,
    size: tuple[int, int],
    looks: list[tuple[str, str]],
    words: tuple[Word, ...] = (),
) -> tuple[Thing, ...] | None:
    """Objects of the given (colour, shape) on a picture clear of its words; None if too full."""
    width, height = size
    longer = max(size)
    overlap = rng.random() < 0.35
    grand = 0.5 if len(looks) < 5 else 0.3
    fixed = []
    for word in words:
        x1, y1, x2, y2 = (round(v) for v in (word.plate or word.box).bounds())
        fixed.append(_Placed(x1 - 5, y1 - 5, x2 - x1 + 10, y2 - y1 + 10, 0.0))
    placed: list[_Placed] = []
    bodies: list[tuple[str, int, int]] = []
    for _, shape in looks:
        wanted = "large" if rng.random() < grand else "small"
        for attempt in range(44):
            kind = wanted if attempt < 14 else "small"
            side, tilt = _side(rng, kind, longer), rng.choice(stencils.TILTS)
            across, down = stencils.extent(shape, side, tilt)
            x = rng.randint(2, width - across - 2)
            y = rng.randint(2, height - down - 2)
            room = stencils.fill(shape, tilt) * across * down * _COVERED
            spot = _Placed(x, y, across, down, room)
            if _fits(spot, fixed, placed, overlap):
                placed.append(spot)
                bodies.append((kind, side, tilt))
                break
        else:
            return None
    things = []
    for k, ((colour, shape), (kind, side, tilt)) in enumerate(zip(looks, bodies, strict=True)):
        spot = placed[k]
        inside = [
            Point(round(spot.x + u * spot.width, 1), round(spot.y + v * spot.height, 1))
            for u, v in stencils.spots(shape, tilt)
        ]
        seen = tuple(point for point in inside if _visible(point, placed[k + 1 :]))
        if not seen:
            return None
        box = Box(spot.x, spot.y, spot.x + spot.width, spot.y + spot.height)
        pattern = "plain" if rng.random() < 0.5 else rng.choice(PATTERNS[1:])
        rgb = jittered(rng, COLOURS[colour], 3 if colour == "white" else 9)
        things.append(Thing(shape, colour, kind, pattern, box, seen, side, tilt, rgb))
    return tuple(things)


def shapes_scene(
    rng: random.Random,
    split: str,
    count: int,
    focus: Criterion | None = None,
    share: int = 0,
) -> Scene:
    """A scene of exactly `count` objects, of which exactly `share` meet the focus."""
    looks = pairs(rng, split, count, focus, share)
    back = ground(rng)
    while True:
        # Narrow pictures may be too small for many objects; another size is drawn then.
        size = canvas(rng, square=count > 6)
        things = place(rng, size, looks)
        if things is not None:
            return Scene("shapes", split, *size, back, things, focus=focus)


def mixed_scene(rng: random.Random, base: Scene, count: int) -> Scene:
    """A scene of printed words with up to `count` objects around them, as many as fit."""
    things: tuple[Thing, ...] | None = None
    while things is None:
        looks = pairs(rng, base.split, count, None, 0)
        things = place(rng, base.size, looks, base.words)
        count -= 1
    return replace(base, kind="mixed", things=things)
