"""Masks of the shapes, anti-aliased and cached: a thing is drawn by a few pastes through them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageChops, ImageDraw, ImageFilter

_SCALE = 3
TILTS: tuple[int, ...] = (-12, -6, 0, 6, 12)
SPOTS = 10


def _arc(
    cx: float, cy: float, radius: float, start: float, stop: float, steps: int = 40
) -> list[tuple[float, float]]:
    angles = [math.radians(start + (stop - start) * k / steps) for k in range(steps + 1)]
    return [(cx + radius * math.cos(a), cy + radius * math.sin(a)) for a in angles]


def _around(corners: int, radii: tuple[float, ...], start: float) -> list[tuple[float, float]]:
    points = []
    for k in range(corners):
        angle = math.radians(start + 360 * k / corners)
        radius = radii[k % len(radii)]
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    return points


def _heart() -> list[tuple[float, float]]:
    points = []
    for k in range(60):
        t = 2 * math.pi * k / 60
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x, -y))
    return points


def _outline(shape: str) -> list[tuple[float, float]]:
    """The outer edge of an upright shape, in any unit."""
    if shape in ("circle", "ring"):
        return _arc(0, 0, 1, 0, 360, 72)
    if shape == "square":
        return [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    if shape == "triangle":
        return _around(3, (1.0,), -90)
    if shape == "star":
        return _around(10, (1.0, 0.45), -90)
    if shape == "heart":
        return _heart()
    if shape == "diamond":
        return [(0, -1), (0.72, 0), (0, 1), (-0.72, 0)]
    if shape == "hexagon":
        return _around(6, (1.0,), 0)
    if shape == "cross":
        a = 0.36
        return [
            *((-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a)),
            *((a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)),
        ]
    # The moon: a big arc to the left, closed by a flatter arc through the same two tips.
    outer = _arc(0, 0, 1, 48, 312, 60)
    tip = outer[-1]
    centre = tip[0] + 0.12
    radius = math.hypot(tip[0] - centre, tip[1])
    angle = math.degrees(math.atan2(tip[1], tip[0] - centre)) % 360
    return outer + _arc(centre, 0, radius, angle, 360 - angle, 40)[1:-1]


@cache
def _unit(shape: str, tilt: int) -> Float[np.ndarray, "corners 2"]:
    """The outer edge, tilted, from (0, 0), with its longer side 1."""
    points = np.array(_outline(shape), dtype=np.float64)
    turn = math.radians(tilt)
    cos, sin = math.cos(turn), math.sin(turn)
    points = points @ np.array([[cos, sin], [-sin, cos]])
    points -= points.min(axis=0)
    return np.asarray(points / points.max())


@cache
def extent(shape: str, side: int, tilt: int) -> tuple[int, int]:
    """Width and height in pixels of a shape whose longer side is `side`."""
    width, height = _unit(shape, tilt).max(axis=0)
    return max(round(side * float(width)), 1), max(round(side * float(height)), 1)


@dataclass(frozen=True, slots=True)
class Stencil:
    """The masks of one shape: with its rim, without, what the pattern covers, and its shadow."""

    outer: Image.Image
    inner: Image.Image
    motif: Image.Image | None
    shadow: Image.Image


def _motif(size: tuple[int, int], side: int, tilt: int, pattern: str) -> Image.Image:
    mask = Image.new("L", size, 0)
    pen = ImageDraw.Draw(mask)
    width, height = size
    if pattern == "striped":
        period = max(8.0, side * 0.17) * _SCALE
        lean = height * math.tan(math.radians(28 + tilt))
        x = -abs(lean)
        while x < width + abs(lean):
            pen.line((x, height, x + lean, 0), fill=255, width=round(period * 0.36))
            x += period
        return mask
    period = max(8.5, side * 0.19) * _SCALE
    radius = period * 0.27
    row = 0
    y = period * 0.4
    while y < height + radius:
        x = period * (0.4 if row % 2 else 0.9) - period * 0.5
        while x < width + radius:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
            x += period
        y += period * 0.87
        row += 1
    return mask


@lru_cache(maxsize=6000)
def stencil(shape: str, side: int, tilt: int, pattern: str) -> Stencil:
    """The masks of a shape at one size, tilt and pattern."""
    width, height = extent(shape, side, tilt)
    size = (width * _SCALE, height * _SCALE)
    unit = _unit(shape, tilt)
    corners = unit / unit.max(axis=0) * (np.array(size) - 1)
    edge = [(float(x), float(y)) for x, y in corners]
    rim = round(max(1.5, side * 0.03) * _SCALE)
    outer = Image.new("L", size, 0)
    ImageDraw.Draw(outer).polygon(edge, fill=255)
    inner = outer.copy()
    # A pen centred on the edge takes half of its width off the inside.
    pen = ImageDraw.Draw(inner)
    pen.line([*edge, edge[0], edge[1]], fill=0, width=2 * rim, joint="curve")
    if shape == "ring":
        cx, cy, rx, ry = size[0] / 2, size[1] / 2, size[0] * 0.25, size[1] * 0.25
        ImageDraw.Draw(outer).ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=0)
        rx, ry = rx + rim, ry + rim
        pen.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=0)
    motif = None
    if pattern != "plain":
        motif = ImageChops.darker(inner, _motif(size, side, tilt, pattern)).reduce(_SCALE)
    outer = outer.reduce(_SCALE)
    shadow = outer.point([level // 6 for level in range(256)])
    return Stencil(outer, inner.reduce(_SCALE), motif, shadow)


@cache
def fill(shape: str, tilt: int) -> float:
    """How much of its box a shape covers, 0 to 1."""
    return float(np.asarray(stencil(shape, 72, tilt, "plain").outer).mean() / 255)


@cache
def spots(shape: str, tilt: int) -> tuple[tuple[float, float], ...]:
    """Points well inside a shape, spread out, as fractions of its box; the most central first."""
    inner = stencil(shape, 96, tilt, "plain").inner
    rows, columns = np.nonzero(np.asarray(inner.filter(ImageFilter.MinFilter(9))) > 200)
    points = np.stack([columns + 0.5, rows + 0.5], axis=1)
    chosen = [int(((points - points.mean(axis=0)) ** 2).sum(axis=1).argmin())]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < SPOTS:
        gap = ((points - points[chosen[-1]]) ** 2).sum(axis=1)
        nearest = np.minimum(nearest, gap)
        chosen.append(int(nearest.argmax()))
    return tuple((float(x) / inner.width, float(y) / inner.height) for x, y in points[chosen])
