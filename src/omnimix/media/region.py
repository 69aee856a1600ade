"""Regions that a user marks, as numbers an encoder reads.

A region becomes one row of `REGION_WIDTH` float32 numbers in fractions of the picture's first tile,
so that every kind has the same shape in a batch:

    0       kind: 0 point, 1 box, 2 polygon, 3 stroke, 4 mask; -1 filler
    1..4    left, top, right, bottom of its bounds
    5..36   16 points (u, v) that lie on it

Fractions leave 0..1 where the region crosses the border or where the steps cropped the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from omnimix.errors import RegionError
from omnimix.masks import inside
from omnimix.media.opening import OverlayOpener
from omnimix.media.tiles import Frame, View
from omnimix.types import Box, Mask, Media, Point, Polygon, Region, Stroke, check_given

SAMPLES = 16
REGION_WIDTH = 5 + 2 * SAMPLES
KINDS: tuple[type, ...] = (Point, Box, Polygon, Stroke, Mask)
FILLER: Float[Tensor, " 37"] = torch.tensor([-1.0] + [0.0] * (REGION_WIDTH - 1))

_RASTER = 64


class RegionOpener(OverlayOpener):
    """Regions: checked against their picture, then written as a row of numbers.

    Attributes:
        free: a free-form region (polygon, stroke, mask) keeps its `shape`, or becomes the `box` from the
            first to the last pixel that it touches, as the demo of Draw-and-Understand
            (arXiv:2403.20271) makes of a drawn layer.
        decimals: the fractions are rounded to so many; None keeps them as they are.
    """

    kind: Literal["region"] = "region"
    free: Literal["shape", "box"] = "shape"
    decimals: int | None = None

    def tile(self, things: Sequence[Media], views: Sequence[View], places: int) -> Tensor:
        rows = [
            self.encode(self.open(media, view.size), view.frame, view.size)
            for media, view in zip(things, views, strict=True)
        ]
        return torch.stack([*rows, *[FILLER] * (places - len(rows))])[None]

    def open(self, media: Media, size: tuple[int, int], where: str | None = None) -> Region:
        """The region, which lies on a picture of `size` = (width, height) pixels.

        Raises:
            RegionError: no region, not finite, without extent, or wholly outside.
        """
        region = media.data
        if not isinstance(region, Point | Box | Polygon | Stroke | Mask):
            raise RegionError(
                f"a region cannot be made of {type(region).__name__}",
                where=where,
                hint="give a Point, Box, Polygon, Stroke or Mask",
            )
        check_given(region, *size, where=where)
        return region

    def encode(
        self, region: Region, frame: Frame, size: tuple[int, int] | None = None
    ) -> Float[Tensor, " 37"]:
        """The row of numbers of a region (see the module's description).

        Args:
            frame: of the picture it lies on.
            size: of that picture in pixels; a drawing that leaves it is cut there.
        """
        if self.free == "box" and not isinstance(region, Point | Box):
            region = touched(region, size)
        x1, y1, x2, y2 = region.bounds()
        points = [(x1, y1), (x2, y2), *samples(region).tolist()]
        placed = [value for x, y in points for value in place(frame, x, y)]
        if self.decimals is not None:
            placed = [round(value, self.decimals) for value in placed]
        return torch.tensor([float(KINDS.index(type(region))), *placed], dtype=torch.float32)


def touched(region: Polygon | Stroke | Mask, size: tuple[int, int] | None = None) -> Box:
    """From the first to the last pixel that a drawing touches, both inclusive.

    The rule is that of the demo of Draw-and-Understand (arXiv:2403.20271). The numbers are of pixels, so that a drawing of a single pixel has no extent.
    """
    x1, y1, x2, y2 = region.bounds()
    if isinstance(region, Stroke):
        half = region.width / 2
        x1, y1, x2, y2 = x1 - half, y1 - half, x2 + half, y2 + half
    low = [math.floor(x1), math.floor(y1)]
    high = [max(math.ceil(x2) - 1, low[0]), max(math.ceil(y2) - 1, low[1])]
    if size is not None:
        low = [min(max(v, 0), end - 1) for v, end in zip(low, size, strict=True)]
        high = [min(max(v, 0), end - 1) for v, end in zip(high, size, strict=True)]
    return Box(*map(float, (*low, *high)))


def place(frame: Frame, x: float, y: float) -> tuple[float, float]:
    """`frame.place`, worked out as references do: (pixel + border) / side, exact to the last bit.

    Where decimals are cut, a fraction that lies half way would else fall to the other side.
    """
    return _place(x, frame.scale_x, frame.shift_x), _place(y, frame.scale_y, frame.shift_y)


def _place(value: float, scale: float, shift: float) -> float:
    side, border = round(1 / scale), round(shift / scale)
    exact = math.isclose(side * scale, 1.0, rel_tol=1e-9) and abs(border - shift / scale) < 1e-6
    return (value + border) / side if exact else value * scale + shift


def samples(region: Region) -> Float[np.ndarray, "16 2"]:
    """16 points (x, y) on the region in pixels of the original; the same region gives the same."""
    if isinstance(region, Point):
        return np.tile(np.array([[region.x, region.y]], dtype=np.float64), (SAMPLES, 1))
    if isinstance(region, Box):
        steps = (np.arange(4) + 0.5) / 4
        x = region.x1 + steps * (region.x2 - region.x1)
        y = region.y1 + steps * (region.y2 - region.y1)
        return np.stack([np.tile(x, 4), np.repeat(y, 4)], axis=1)
    if isinstance(region, Polygon):
        return _in_polygon(np.asarray(region.points, dtype=np.float64))
    if isinstance(region, Stroke):
        return _along(np.asarray(region.points, dtype=np.float64))
    rows, columns = np.nonzero(region.pixels)
    chosen = _spread(rows.size)
    return np.stack([columns[chosen] + 0.5, rows[chosen] + 0.5], axis=1)


def _spread(count: int) -> np.ndarray:
    """16 evenly spaced indices into `count` things, some repeated where there are fewer."""
    return ((np.arange(SAMPLES) + 0.5) * count / SAMPLES).astype(np.int64)


def _along(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "16 2"]:
    """Equally spaced along a line, both ends included."""
    lengths = np.hypot(*np.diff(points, axis=0).T) if len(points) > 1 else np.zeros(0)
    reached = np.concatenate([[0.0], np.cumsum(lengths)])
    at = np.linspace(0.0, reached[-1], SAMPLES)
    x = np.interp(at, reached, points[:, 0])
    return np.stack([x, np.interp(at, reached, points[:, 1])], axis=1)


def _in_polygon(corners: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "16 2"]:
    """Evenly spaced among the cells of a 64 x 64 raster whose centres are inside, in reading order.

    A polygon so thin that no centre is inside gives points along its outline.
    """
    low, high = corners.min(axis=0), corners.max(axis=0)
    centres = low + (np.arange(_RASTER)[:, None] + 0.5) / _RASTER * (high - low)
    rows, columns = np.nonzero(inside(corners, centres[:, 0], centres[:, 1]))
    if not rows.size:
        return _along(np.concatenate([corners, corners[:1]]))
    chosen = _spread(rows.size)
    return np.stack([centres[columns[chosen], 0], centres[rows[chosen], 1]], axis=1)
