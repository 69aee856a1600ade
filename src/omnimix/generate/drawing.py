"""Regions drawn onto a picture: thin outlines in clear colours with small numbered labels."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from omnimix.types import Box, Mask, Point, Polygon, Region, Stroke

ASKED = (255, 176, 0)
"""The colour of regions that the user drew."""

_LEAST_SIDE = 448  # smaller pictures are enlarged, so that outlines and labels stay fine


def draw(
    picture: Image.Image, asked: Sequence[Region] = (), answered: Sequence[Region] = ()
) -> Image.Image:
    """A copy of the picture with asked regions (amber, ?) and answered ones (numbered from 1).

    Small pictures come back enlarged by a whole number.
    """
    zoom = max(1, -(-_LEAST_SIDE // max(picture.size)))
    size = (picture.width * zoom, picture.height * zoom)
    canvas = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    pen = _Pen(canvas, zoom)
    for i, region in enumerate(asked, start=1):
        pen.mark(region, ASKED, "?" if len(asked) == 1 else f"?{i}")
    for i, region in enumerate(answered):
        pen.mark(region, colour(i), str(i + 1))
    return canvas


def colour(index: int) -> tuple[int, int, int]:
    """The i-th colour: hues far apart, bright enough on any picture."""
    hue = (0.58 + index * 0.381966) % 1.0  # the golden angle keeps neighbours apart
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 0.92)
    return round(red * 255), round(green * 255), round(blue * 255)


class _Pen:
    """Draws in pixels of the canvas what is given in pixels of the picture."""

    def __init__(self, canvas: Image.Image, zoom: int) -> None:
        self.canvas = canvas
        self.zoom = zoom
        self.draw = ImageDraw.Draw(canvas)
        self.line = max(2, round(max(canvas.size) / 320))
        self.font = ImageFont.load_default(max(12, round(max(canvas.size) / 36)))

    def mark(self, region: Region, ink: tuple[int, int, int], label: str) -> None:
        spots = self._outline(region)
        if isinstance(region, Point):
            self._click(spots[0], ink)
        elif isinstance(region, Stroke):
            width = max(self.line + 1, round(region.width * self.zoom / 2))
            self.draw.line([*spots, spots[-1]], fill=ink, width=width, joint="curve")
        else:
            # A dark line outside the coloured one keeps it visible on its own colour.
            self.draw.line(spots, fill=(0, 0, 0), width=self.line + 2, joint="curve")
            self.draw.line(spots, fill=ink, width=self.line, joint="curve")
        left = min(x for x, _ in spots)
        top = min(y for _, y in spots)
        aside = 4 * self.line if isinstance(region, Point) else 0
        self._label((left + aside, top - aside), ink, label)

    def _outline(self, region: Region) -> list[tuple[float, float]]:
        if isinstance(region, Point):
            spots = [(region.x, region.y)]
        elif isinstance(region, Stroke):
            spots = list(region.points)
        elif isinstance(region, Polygon):
            spots = [*region.points, region.points[0]]
        else:
            assert isinstance(region, Box | Mask)
            x1, y1, x2, y2 = region.bounds()
            spots = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
        width, height = self.canvas.size
        edge = self.line / 2
        return [
            (
                min(max(x * self.zoom, edge), width - 1 - edge),
                min(max(y * self.zoom, edge), height - 1 - edge),
            )
            for x, y in spots
        ]

    def _click(self, spot: tuple[float, float], ink: tuple[int, int, int]) -> None:
        x, y = spot
        # As with outlines, a dark ring around the coloured one.
        for extra, fill in ((1, (0, 0, 0)), (0, ink)):
            size = 4 * self.line + extra
            spot_box = (x - size, y - size, x + size, y + size)
            self.draw.ellipse(spot_box, outline=fill, width=self.line + 2 * extra)
        self.draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=ink)

    def _label(self, corner: tuple[float, float], ink: tuple[int, int, int], text: str) -> None:
        """Above the region's corner where there is room, else inside."""
        left, top, right, bottom = self.draw.textbbox((0, 0), text, font=self.font)
        pad = max(2, self.line)
        width, height = right - left + 2 * pad, bottom - top + 2 * pad
        x = min(max(corner[0] - self.line / 2, 0), self.canvas.width - width)
        y = corner[1] - height
        y = corner[1] + self.line if y < 0 else y
        self.draw.rectangle((x, y, x + width, y + height), fill=ink)
        bright = 0.299 * ink[0] + 0.587 * ink[1] + 0.114 * ink[2] > 140
        fill = (0, 0, 0) if bright else (255, 255, 255)
        self.draw.text((x + pad - left, y + pad - top), text, fill=fill, font=self.font)
