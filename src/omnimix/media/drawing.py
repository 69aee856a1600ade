"""Regions drawn onto a picture: boxes, points, outlines, strokes and masks with labels or numbers.

Every line has a dark edge and every label its own ground, so both show on bright and on dark pictures;
sizes follow the picture's, whatever its aspect.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from omnimix.media.image import ImageOpener
from omnimix.media.poses import joined
from omnimix.types import Mask, Media, Point, Polygon, Region, Stroke, check_region

Ink: TypeAlias = tuple[int, int, int]
Spots: TypeAlias = list[tuple[float, float]]

_LEAST_SIDE = 448  # smaller pictures are enlarged, so that outlines and labels stay fine
_SMOOTH_UP_TO = 4_000_000  # pixels of a canvas that is drawn at twice its size, for smooth edges
_DARK = (20, 20, 24)
_FILL = 70  # opacity of what lies under a mask or outline, of 255


def draw(
    image: Any,
    regions: Sequence[Region],
    labels: Sequence[str] | bool = True,
    colours: Sequence[Ink] | None = None,
    enlarge: bool = True,
) -> Image.Image:
    """A copy of a picture with regions drawn on it; key points of a body are joined (`omnimix.media.poses`).

    Args:
        image: a path, bytes, a Pillow picture, an array or `Media`.
        regions: in pixels of the picture.
        labels: one text for each region; True takes the regions' own labels, and numbers from 1 where
            there are several and one has none; False draws none.
        colours: one for each region (0 to 255 each); without it colours are far apart.
        enlarge: small pictures come back enlarged by a whole number; False keeps the size.

    Raises:
        MediaError: no picture.
        RegionError: a region that does not lie on the picture.
    """
    media = image if isinstance(image, Media) else Media.image(image)
    picture = ImageOpener().open(media)
    for i, region in enumerate(regions, start=1):
        check_region(region, *picture.size, where=f"region {i}")
    texts = _texts(regions, labels)
    inks = colours or [colour(i) for i in range(len(regions))]
    drawn = [Drawn(r, ink, text) for r, ink, text in zip(regions, inks, texts, strict=False)]
    return paint(picture, [*limbs(drawn), *drawn], enlarge)


def _texts(regions: Sequence[Region], labels: Sequence[str] | bool) -> list[str]:
    if labels is False:
        return [""] * len(regions)
    if labels is not True:
        return [*labels, *[""] * (len(regions) - len(labels))]
    bare = [str(i) if len(regions) > 1 else "" for i in range(1, len(regions) + 1)]
    return [region.label or number for region, number in zip(regions, bare, strict=True)]


def colour(index: int) -> Ink:
    """The i-th colour: hues far apart, bright enough on any picture."""
    hue = (0.58 + index * 0.381966) % 1.0  # the golden angle keeps neighbours apart
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 0.92)
    return round(red * 255), round(green * 255), round(blue * 255)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A region with its colour and what is written at it."""

    region: Region
    ink: Ink
    text: str = ""


def limbs(drawn: Sequence[Drawn]) -> list[Drawn]:
    """The lines between key points of bodies."""
    return [
        Drawn(Stroke((drawn[other].region.bounds()[:2], one.region.bounds()[:2]), 1.0), one.ink)
        for one, others in zip(drawn, joined([one.region for one in drawn]), strict=True)
        for other in others
    ]


def paint(
    picture: Image.Image, drawn: Sequence[Drawn], enlarge: bool = True, scale: float = 1.0
) -> Image.Image:
    """A copy with regions, fills first, labels last so that no line crosses them.

    Args:
        scale: of lines and labels.
    """
    zoom = max(1, -(-_LEAST_SIDE // max(picture.size))) if enlarge else 1
    size = (picture.width * zoom, picture.height * zoom)
    canvas = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    fine = 2 if size[0] * size[1] <= _SMOOTH_UP_TO else 1
    for layer in (_fills, _lines):
        over = Image.new("RGBA", (size[0] * fine, size[1] * fine))
        layer(_Pen(over, zoom * fine, scale, fine), drawn)
        over = over.resize(size, Image.Resampling.BOX)
        canvas.paste(over, mask=over)
    pen = _Pen(canvas, zoom, scale)
    taken: list[tuple[float, float, float, float]] = []
    for one in drawn:
        if one.text:
            taken.append(pen.label(one, taken))
    return canvas


def _fills(pen: _Pen, drawn: Sequence[Drawn]) -> None:
    for one in drawn:
        pen.fill(one)


def _lines(pen: _Pen, drawn: Sequence[Drawn]) -> None:
    for one in drawn:
        pen.line(one, pen.edge, _DARK)
        pen.line(one, 0, one.ink)


class _Pen:
    """Draws in pixels of a canvas what is given in pixels of the picture."""

    def __init__(self, canvas: Image.Image, zoom: int, scale: float, fine: int = 1) -> None:
        self.canvas = canvas
        self.zoom = zoom
        self.draw = ImageDraw.Draw(canvas)
        width, height = canvas.size
        # Between the sides, but never more than a short side can bear.
        side = min(math.sqrt(width * height), 4.0 * min(width, height)) * scale / fine
        self.stroke = max(2, round(side / 260)) * fine
        self.edge = max(1, round(self.stroke / 2))
        self.font = ImageFont.load_default(max(9, round(side / 30)))

    def fill(self, one: Drawn) -> None:
        """What lies under a mask or outline, half seen."""
        region = one.region
        if isinstance(region, Mask):
            area = Image.fromarray(region.pixels.astype(np.uint8) * _FILL)
            area = area.resize(self.canvas.size, Image.Resampling.NEAREST)
            self.canvas.paste(
                Image.new("RGBA", area.size, (*one.ink, _FILL)), mask=area.point(_any)
            )
        elif isinstance(region, Polygon):
            self.draw.polygon(self.spots(region), fill=(*one.ink, _FILL))

    def line(self, one: Drawn, extra: int, ink: Ink) -> None:
        """The outline, `extra` pixels wider on both sides."""
        region, width = one.region, self.stroke + 2 * extra
        if isinstance(region, Point):
            self._ring(self.spots(region)[0], extra, ink)
        elif isinstance(region, Mask):
            self._rim(region, extra, ink)
        elif isinstance(region, Stroke):
            thick = max(width, round(region.width * self.zoom * 0.6) + 2 * extra)
            spots = self.spots(region)
            self.draw.line([*spots, spots[-1]], fill=ink, width=thick, joint="curve")
            for x, y in (spots[0], spots[-1]):
                self._disc(x, y, thick / 2, ink)
        else:
            spots = self.spots(region)
            # Twice the first side, so that the last corner is joined like the others.
            self.draw.line([*spots, spots[0], spots[1]], fill=ink, width=width, joint="curve")

    def _ring(self, spot: tuple[float, float], extra: int, ink: Ink) -> None:
        x, y = spot
        radius = 4 * self.stroke + extra
        box = (x - radius, y - radius, x + radius, y + radius)
        self.draw.ellipse(box, outline=ink, width=self.stroke + 2 * extra)
        self._disc(x, y, self.stroke * 0.9 + extra, ink)

    def _disc(self, x: float, y: float, radius: float, ink: Ink) -> None:
        self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)

    def _rim(self, mask: Mask, extra: int, ink: Ink) -> None:
        """The border of a mask: its set pixels near an unset one."""
        area = Image.fromarray(mask.pixels).resize(self.canvas.size, Image.Resampling.NEAREST)
        set_ = np.asarray(area)
        rim = set_ & ~_eroded(set_, self.stroke)
        if extra:
            rim = ~_eroded(~set_, extra) & ~_eroded(set_, self.stroke + extra)
        self.canvas.paste(ink, mask=Image.fromarray(rim.astype(np.uint8) * 255))

    def spots(self, region: Region) -> Spots:
        """The region's corners on the canvas, kept so far inside that lines show at the border."""
        if isinstance(region, Point):
            points: Sequence[tuple[float, float]] = [(region.x, region.y)]
        elif isinstance(region, Stroke | Polygon):
            points = region.points
        else:
            x1, y1, x2, y2 = region.bounds()
            points = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
        width, height = self.canvas.size
        edge = self.stroke / 2 + self.edge
        # The centre of the pixel that a whole number names is half a pixel further on.
        half = 0.5 if isinstance(region, Point | Stroke) else 0.0
        return [
            (
                min(max((x + half) * self.zoom, edge), max(width - 1 - edge, edge)),
                min(max((y + half) * self.zoom, edge), max(height - 1 - edge, edge)),
            )
            for x, y in points
        ]

    def label(
        self, one: Drawn, taken: Sequence[tuple[float, float, float, float]]
    ) -> tuple[float, float, float, float]:
        """A text at the region where it covers least; returns the place that it takes."""
        text = one.text if len(one.text) <= 40 else f"{one.text[:39]}..."
        text = " ".join(text.split())
        left, top, right, bottom = self.draw.textbbox((0, 0), text, font=self.font)
        pad = max(2, self.stroke)
        size = (right - left + 2 * pad, bottom - top + 2 * pad)
        box = min(self._places(one.region, size), key=lambda place: _cost(place, taken))
        self.draw.rounded_rectangle(
            box, radius=pad, fill=one.ink, outline=_DARK, width=max(1, self.edge)
        )
        bright = 0.299 * one.ink[0] + 0.587 * one.ink[1] + 0.114 * one.ink[2] > 140
        fill = (0, 0, 0) if bright else (255, 255, 255)
        self.draw.text((box[0] + pad - left, box[1] + pad - top), text, fill=fill, font=self.font)
        return box

    def _places(
        self, region: Region, size: tuple[float, float]
    ) -> list[tuple[float, float, float, float]]:
        """Where a label of that size may stand, the better places first; all inside the canvas."""
        spots = self.spots(region)
        xs, ys = [x for x, _ in spots], [y for _, y in spots]
        gap = 5.5 * self.stroke if isinstance(region, Point) else self.stroke / 2 + self.edge
        left, top, right, bottom = min(xs) - gap, min(ys) - gap, max(xs) + gap, max(ys) + gap
        wide, high = size
        corners = [
            (left, top - high),
            (left, bottom),
            (right - wide, top - high),
            (right - wide, bottom),
            (right, top),
            (left - wide, top),
            (left + 2 * gap, top + 2 * gap),
        ]
        width, height = self.canvas.size
        places = []
        for x, y in corners:
            inside_x = min(max(x, 0.0), max(width - wide - 1.0, 0.0))
            inside_y = min(max(y, 0.0), max(height - high - 1.0, 0.0))
            moved = abs(inside_x - x) + abs(inside_y - y)
            places.append((moved, (inside_x, inside_y, inside_x + wide, inside_y + high)))
        return [place for _, place in sorted(places, key=lambda place: place[0] > high / 4)]


def _any(value: int) -> int:
    return 255 if value else 0


def _cost(
    place: tuple[float, float, float, float], taken: Sequence[tuple[float, float, float, float]]
) -> float:
    """How much of other labels a place would cover; the first of equal places is taken."""
    covered = 0.0
    for other in taken:
        width = min(place[2], other[2]) - max(place[0], other[0])
        height = min(place[3], other[3]) - max(place[1], other[1])
        covered += max(width, 0.0) * max(height, 0.0)
    return covered


def _eroded(area: np.ndarray, steps: int) -> np.ndarray:
    """A mask without the pixels that lie within so many steps of its border."""
    for _ in range(steps):
        inner = area.copy()
        inner[1:] &= area[:-1]
        inner[:-1] &= area[1:]
        inner[:, 1:] &= area[:, :-1]
        inner[:, :-1] &= area[:, 1:]
        area = inner
    return area
