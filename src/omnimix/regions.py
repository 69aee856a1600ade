"""Regions: what a person points at or a model answers with.

Coordinates are pixels of the *original* picture, origin top left, x to the right, y down; a box covers
`x1 <= x < x2`, `y1 <= y < y2`. A region may carry a `label`; two regions are equal where their places are.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from jaxtyping import Bool

from omnimix import masks
from omnimix.errors import RegionError, kind_of
from omnimix.region_limits import check_brush, check_count, check_near


@dataclass(frozen=True)
class Point:
    """A click at pixel (x, y)."""

    x: float
    y: float
    label: str = field(default="", kw_only=True, compare=False)

    def bounds(self) -> tuple[float, float, float, float]:
        return (self.x, self.y, self.x, self.y)


@dataclass(frozen=True)
class Box:
    """A rectangle from (x1, y1) to (x2, y2) in pixels."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str = field(default="", kw_only=True, compare=False)

    @classmethod
    def from_xywh(cls, x: float, y: float, width: float, height: float, label: str = "") -> Box:
        """From the left top corner and a size, as COCO writes boxes."""
        return cls(x, y, x + width, y + height, label=label)

    @property
    def xywh(self) -> tuple[float, float, float, float]:
        """Left, top, width and height."""
        return (self.x1, self.y1, self.x2 - self.x1, self.y2 - self.y1)

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
    label: str = field(default="", kw_only=True, compare=False)

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
    label: str = field(default="", kw_only=True, compare=False)

    def __post_init__(self) -> None:
        if not self.points:
            raise RegionError("a stroke needs at least one point")

    def bounds(self) -> tuple[float, float, float, float]:
        return _bounds(self.points)


@dataclass(frozen=True, eq=False)
class Mask:
    """A free-form region as a boolean picture of the same size as the picture it lies on."""

    pixels: Bool[np.ndarray, "height width"]
    label: str = field(default="", kw_only=True)

    @classmethod
    def of(cls, region: Region, width: int, height: int) -> Mask:
        """The pixels that a region covers on a picture of this size.

        A pixel belongs to a box or polygon if its centre does; a point is the pixel it lies in.

        Raises:
            RegionError: the region does not lie on such a picture, or covers no pixel.
        """
        check_region(region, width, height)
        if isinstance(region, Mask):
            return region
        pixels = _pixels(region, width, height)
        if not pixels.any():
            raise RegionError(
                f"the {type(region).__name__.lower()} is so small that it covers no pixel",
                hint="make it larger, or give a point",
            )
        return cls(pixels, label=region.label)

    @classmethod
    def from_rle(cls, data: Mapping[str, Any], label: str = "", where: str | None = None) -> Mask:
        """From COCO's run lengths: `size` [height, width], `counts` a list or the compressed string.

        Raises:
            RegionError: not of that form, too large, or runs that do not fill the mask.
        """
        try:
            height, width = (_whole(side) for side in data["size"])
            counts = data["counts"]
        except (KeyError, TypeError, ValueError):
            raise RegionError(
                "run lengths need the words size and counts",
                where=where,
                hint="write {size: [height, width], counts: [...] or the compressed string}",
            ) from None
        if isinstance(counts, bytes):
            counts = counts.decode("latin-1")
        if isinstance(counts, str):
            counts = masks.unpacked(counts, where)
        elif not isinstance(counts, Sequence):
            counts = []
        return cls(masks.from_runs(counts, height, width, where), label=label)

    @classmethod
    def from_png(cls, source: bytes | str | Path, label: str = "") -> Mask:
        """From a PNG file or its bytes: what is opaque, else what is brighter than half.

        Raises:
            RegionError: missing, no PNG, or too large.
        """
        if isinstance(source, bytes):
            return cls(masks.from_png(source), label=label)
        path = Path(source)
        if not path.is_file():
            raise RegionError("there is no such file", where=str(path), hint="check the path")
        with path.open("rb") as file:
            content = file.read(masks.MOST_BYTES + 1)
        return cls(masks.from_png(content, str(path)), label=label)

    def rle(self, compressed: bool = True) -> dict[str, Any]:
        """COCO's run lengths; `counts` is a string, or a list of numbers."""
        counts = masks.runs(self.pixels)
        height, width = self.pixels.shape
        return {"size": [height, width], "counts": masks.packed(counts) if compressed else counts}

    def png(self) -> bytes:
        """A black and white PNG of the mask's size."""
        return masks.to_png(self.pixels)

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

    def area(self) -> float:
        """Pixels that are set."""
        return float(self.pixels.sum())


Region: TypeAlias = Point | Box | Polygon | Stroke | Mask


def _pixels(region: Region, width: int, height: int) -> Bool[np.ndarray, "height width"]:
    if isinstance(region, Point):
        pixels = np.zeros((height, width), dtype=bool)
        pixels[max(math.floor(region.y), 0), max(math.floor(region.x), 0)] = True
        return pixels
    if isinstance(region, Stroke):
        return masks.brushed(region.points, region.width, width, height)
    if isinstance(region, Polygon):
        return masks.filled(region.points, width, height)
    x1, y1, x2, y2 = region.bounds()
    return masks.filled([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], width, height)


def check_region(region: Region, width: int, height: int, where: str | None = None) -> None:
    """Refuse a region that does not lie on a picture of `width` x `height` pixels.

    A region may touch or cross the border as long as part of it is inside.

    Raises:
        RegionError: not a finite number, corners in the wrong order, or wholly outside.
    """
    name = type(region).__name__.lower()
    points = region.points if isinstance(region, Polygon | Stroke) else ()
    check_count(len(points), name, where)
    x1, y1, x2, y2 = region.bounds()
    width_of = (region.width,) if isinstance(region, Stroke) else ()
    check_near([x1, y1, x2, y2, *width_of, *chain.from_iterable(points)], f"the {name}", where)
    if isinstance(region, Stroke):
        check_brush(region.width, where)
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


def check_given(region: Region, width: int, height: int, where: str | None = None) -> None:
    """As `check_region`, for a region that a person or a dataset gives.

    Raises:
        RegionError: also a box within 0..1, which is a share of the picture more likely than a part of one pixel.
    """
    check_region(region, width, height, where)
    bounds = region.bounds()
    if isinstance(region, Box) and min(bounds) >= 0 and max(bounds) <= 1 < max(width, height):
        numbers = ", ".join(f"{v:g}" for v in bounds)
        raise RegionError(
            f"the box ({numbers}) lies within 0..1 on a picture of {width} x {height} pixels: are these "
            "shares of the picture?",
            where=where,
            hint="coordinates are pixels; multiply by the picture's width and height",
        )


FORMS = (
    '{"point": [x, y]}, {"box": [x1, y1, x2, y2]}, {"xywh": [x, y, w, h]}, '
    '{"polygon": [[x, y], ...]}, {"stroke": [[x, y], ...], "width": 5}, '
    '{"rle": {"size": [h, w], "counts": ...}} or {"png": "file or base64"}'
)
"""How regions are written in JSON; each may have a `label`."""

_KINDS = ("point", "box", "xywh", "polygon", "stroke", "rle", "png")


def from_json(data: Any, where: str | None = None, files: bool = False) -> Region:
    """A region from plain data or JSON text (see `FORMS`).

    Args:
        data: what `json.loads` gives, or its text.
        where: what to call it in a message.
        files: let a png be named by its path; off, since data may come from elsewhere.

    Raises:
        RegionError: not of that form; names what is wrong.
    """
    if isinstance(data, str):
        try:
            data = json.loads(data)
        except (ValueError, RecursionError):
            raise _no_form("this is no JSON", where) from None
    if not isinstance(data, Mapping):
        raise _no_form(f"a region is an object, not {kind_of(data)}", where)
    kinds = [kind for kind in _KINDS if kind in data]
    if len(kinds) != 1:
        have = " and ".join(kinds) or "none"
        raise _no_form(f"a region has one of {', '.join(_KINDS)}; this one has {have}", where)
    (kind,) = kinds
    extra = sorted(set(map(str, data)) - {kind, "label", *(("width",) if kind == "stroke" else ())})
    if extra:
        raise _no_form(f"unknown word {extra[0]!r}", where)
    label = data.get("label", "")
    if not isinstance(label, str):
        raise _no_form("the label is no text", where)
    return _from_words(kind, data, label, where, files)


def _from_words(
    kind: str, data: Mapping[str, Any], label: str, where: str | None, files: bool
) -> Region:
    value = data[kind]
    if kind == "point":
        return Point(*_numbers(value, 2, kind, where), label=label)
    if kind == "box":
        return Box(*_numbers(value, 4, kind, where), label=label)
    if kind == "xywh":
        x, y, wide, high = _numbers(value, 4, kind, where)
        return Box.from_xywh(x, y, wide, high, label)
    if kind == "rle":
        return Mask.from_rle(value, label, where)
    if kind == "png":
        return _from_png_word(value, label, where, files)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise _no_form(f"a {kind} is a list of points", where)
    check_count(len(value), kind, where)
    points = tuple(
        cast("tuple[float, float]", _numbers(point, 2, f"a point of the {kind}", where))
        for point in value
    )
    try:
        if kind == "polygon":
            return Polygon(points, label=label)
        (width,) = _numbers([data.get("width", 5.0)], 1, "width", where)
        check_brush(width, where)
        return Stroke(points, width, label=label)
    except RegionError as error:
        raise error if where is None or error.where else error.at(where) from None


def _from_png_word(value: Any, label: str, where: str | None, files: bool) -> Mask:
    """A PNG by its path, or inline in base64 (with or without `data:image/png;base64,`)."""
    if not isinstance(value, str):
        raise _no_form("a png is a file's path or base64 text", where)
    if files and value.lower().endswith(".png"):
        return Mask.from_png(value, label)
    try:
        content = base64.b64decode(value.removeprefix("data:image/png;base64,"), validate=True)
    except (binascii.Error, ValueError):
        what = "a path that ends in .png, or base64 text" if files else "base64 text"
        raise _no_form(f"a png is {what}", where) from None
    return Mask(masks.from_png(content, where), label=label)


def to_json(region: Region) -> dict[str, Any]:
    """Plain data that `from_json` reads back."""
    data: dict[str, Any]
    if isinstance(region, Point):
        data = {"point": [region.x, region.y]}
    elif isinstance(region, Box):
        data = {"box": list(region.bounds())}
    elif isinstance(region, Polygon):
        data = {"polygon": [list(point) for point in region.points]}
    elif isinstance(region, Stroke):
        data = {"stroke": [list(point) for point in region.points], "width": region.width}
    else:
        data = {"rle": region.rle()}
    return {**data, "label": region.label} if region.label else data


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("no whole number")
    return value


def _numbers(value: Any, count: int, what: str, where: str | None) -> tuple[float, ...]:
    listed = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == count
    if not listed or any(isinstance(n, bool) or not isinstance(n, int | float) for n in value):
        raise _no_form(f"{what} takes {count} numbers, not {reprlib.repr(value)}", where)
    check_near(value, what, where)
    return tuple(float(n) for n in value)


def _no_form(what: str, where: str | None) -> RegionError:
    return RegionError(what, where=where, hint=f"write {FORMS}")
