"""What everything else is made of: media, regions, turns and samples.

Readers, benchmarks, the server and the chat produce `Sample`s and nothing else. Coordinates of regions
are pixels of the *original* picture, origin top left, x to the right, y down; a box covers
`x1 <= x < x2`, `y1 <= y < y2`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool

from omnimix.errors import RegionError, SampleError

Role: TypeAlias = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = ("system", "user", "assistant")


@dataclass(frozen=True)
class Point:
    """A click at pixel (x, y)."""

    x: float
    y: float

    def bounds(self) -> tuple[float, float, float, float]:
        return (self.x, self.y, self.x, self.y)


@dataclass(frozen=True)
class Box:
    """A rectangle from (x1, y1) to (x2, y2) in pixels."""

    x1: float
    y1: float
    x2: float
    y2: float

    def bounds(self) -> tuple[float, float, float, float]:
        return (self.x1, self.y1, self.x2, self.y2)

    def area(self) -> float:
        return max(self.x2 - self.x1, 0.0) * max(self.y2 - self.y1, 0.0)

    def iou(self, other: Box) -> float:
        """Intersection over union with another box, 0 to 1."""
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        shared = max(width, 0.0) * max(height, 0.0)
        union = self.area() + other.area() - shared
        return shared / union if union > 0 else 0.0


def _bounds(points: Iterable[tuple[float, float]]) -> tuple[float, float, float, float]:
    xs, ys = zip(*points, strict=True)
    return (min(xs), min(ys), max(xs), max(ys))


@dataclass(frozen=True)
class Polygon:
    """A closed outline through at least three points in pixels."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if len(self.points) < 3:
            raise RegionError(f"a polygon needs at least 3 points, this one has {len(self.points)}")

    def bounds(self) -> tuple[float, float, float, float]:
        return _bounds(self.points)


@dataclass(frozen=True)
class Stroke:
    """A free-hand line through points in pixels, `width` pixels wide."""

    points: tuple[tuple[float, float], ...]
    width: float = 5.0

    def __post_init__(self) -> None:
        if not self.points:
            raise RegionError("a stroke needs at least one point")

    def bounds(self) -> tuple[float, float, float, float]:
        return _bounds(self.points)


@dataclass(frozen=True, eq=False)
class Mask:
    """A free-form region as a boolean picture of the same size as the picture it lies on."""

    pixels: Bool[np.ndarray, "height width"]

    def bounds(self) -> tuple[float, float, float, float]:
        rows, columns = np.nonzero(self.pixels)
        if rows.size == 0:
            raise RegionError("the mask is empty", hint="mark at least one pixel")
        return (
            float(columns.min()),
            float(rows.min()),
            float(columns.max() + 1),
            float(rows.max() + 1),
        )


Region: TypeAlias = Point | Box | Polygon | Stroke | Mask


def check_region(region: Region, width: int, height: int, where: str | None = None) -> None:
    """Refuse a region that does not lie on a picture of `width` x `height` pixels.

    A region may touch or cross the border as long as part of it is inside.

    Raises:
        RegionError: not a finite number, corners in the wrong order, or wholly outside.
    """
    x1, y1, x2, y2 = region.bounds()
    name = type(region).__name__.lower()
    if not all(math.isfinite(v) for v in (x1, y1, x2, y2)):
        raise RegionError(f"the {name} has coordinates that are not finite numbers", where=where)
    if isinstance(region, Mask) and region.pixels.shape != (height, width):
        have = f"{region.pixels.shape[1]} x {region.pixels.shape[0]}"
        raise RegionError(
            f"the mask is {have} pixels, its picture {width} x {height}",
            where=where,
            hint="make the mask in the picture's own size",
        )
    if isinstance(region, Box) and (x2 <= x1 or y2 <= y1):
        raise RegionError(
            f"the box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) has no extent",
            where=where,
            hint="give x1, y1, x2, y2 with x1 < x2 and y1 < y2",
        )
    outside = x1 >= width or y1 >= height or x2 < 0 or y2 < 0
    if outside or (isinstance(region, Box) and (x2 <= 0 or y2 <= 0)):
        raise RegionError(
            f"the {name} at ({x1:g}, {y1:g}, {x2:g}, {y2:g}) lies outside the picture of "
            f"{width} x {height} pixels",
            where=where,
            hint="coordinates are pixels of the original picture, origin top left",
        )


@dataclass(frozen=True, eq=False)
class Media:
    """One raw thing and its kind.

    Attributes:
        kind: the sense it belongs to: `image`, `audio`, `video`, `document` or `region`.
        data: what the kind's opener takes (a path, bytes, a picture, a text, a `Region`).
        on: for a region, the index of the picture in the sample that it lies on (0 = first);
            None means the last picture before it in reading order.
        label: what it is called in messages, a file name for instance.
    """

    kind: str
    data: Any
    on: int | None = None
    label: str = ""

    @classmethod
    def image(cls, data: Any, label: str = "") -> Media:
        return cls("image", data, label=label or (data if isinstance(data, str) else ""))

    @classmethod
    def region(cls, region: Region, on: int | None = None) -> Media:
        return cls("region", region, on=on)


Part: TypeAlias = str | Media


@dataclass(frozen=True, eq=False)
class Turn:
    """Role and content: text and media in reading order.

    Regions in an assistant turn are *answers*: they are written as text in the recipe's coordinate
    style. Regions in a user turn are *prompts*: they become tokens where the recipe has a region
    modality, text otherwise.
    """

    role: str
    content: tuple[Part, ...]

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise SampleError(
                f"unknown role {self.role!r}", hint=f"the roles are {', '.join(ROLES)}"
            )
        if isinstance(self.content, str):
            object.__setattr__(self, "content", (self.content,))
        else:
            object.__setattr__(self, "content", tuple(self.content))

    def text(self) -> str:
        """The text parts alone, joined."""
        return "".join(part for part in self.content if isinstance(part, str))


@dataclass(frozen=True, eq=False)
class Sample:
    """A conversation with an id (used in every message about it) and free notes."""

    turns: tuple[Turn, ...]
    id: str = "sample"
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "turns", tuple(self.turns))

    def media(self, kind: str | None = None) -> list[Media]:
        """All media in reading order, optionally of one kind."""
        return [
            part
            for turn in self.turns
            for part in turn.content
            if isinstance(part, Media) and (kind is None or part.kind == kind)
        ]
