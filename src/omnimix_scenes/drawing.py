"""From ground truth to a picture."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from omnimix_scenes.fonts import font
from omnimix_scenes.stencils import stencil
from omnimix_scenes.vocab import Rgb
from omnimix_scenes.world import Chart, Ground, Scene, Thing, Word

_AXIS: Rgb = (92, 96, 104)
_GRID: Rgb = (212, 214, 220)
_LETTER: Rgb = (44, 46, 54)


def blend(colour: Rgb, other: Rgb, share: float) -> Rgb:
    """`colour` with `share` of it replaced by `other`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def _background(ground: Ground, size: tuple[int, int]) -> Image.Image:
    if ground.first == ground.second:
        return Image.new("RGB", size, ground.first)
    steps = size[0] if ground.across else size[1]
    ramp = np.linspace(ground.first, ground.second, steps).round().astype(np.uint8)
    line = ramp[None] if ground.across else ramp[:, None]
    return Image.fromarray(np.ascontiguousarray(line)).resize(size, Image.Resampling.NEAREST)


def _thing(image: Image.Image, thing: Thing, ground: Ground) -> None:
    masks = stencil(thing.shape, thing.side, thing.tilt, thing.pattern)
    x, y = round(thing.box.x1), round(thing.box.y1)
    # White and yellow get a rim dark enough to stand off from light backgrounds.
    pale = thing.colour in ("white", "yellow")
    rim = blend(thing.rgb, (30, 24, 20), 0.6 if pale else 0.5)
    if ground.shadow:
        image.paste((20, 20, 30), (x + 3, y + 4), masks.shadow)
    image.paste(rim, (x, y), masks.outer)
    image.paste(thing.rgb, (x, y), masks.inner)
    if masks.motif is not None:
        other = blend(rim, thing.rgb, 0.2) if pale else blend(thing.rgb, (255, 255, 255), 0.62)
        image.paste(other, (x, y), masks.motif)


def _plate(image: Image.Image, word: Word) -> None:
    if word.plate is None:
        return
    x1, y1, x2, y2 = (round(v) for v in word.plate.bounds())
    size = ((x2 - x1) * 2, (y2 - y1) * 2)
    mask = Image.new("L", size, 0)
    pen = ImageDraw.Draw(mask)
    radius = min(size) // 5
    pen.rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), radius, fill=255)
    image.paste(blend(word.plate_rgb, (20, 20, 24), 0.45), (x1, y1), mask.reduce(2))
    pen.rectangle((0, 0, *size), fill=0)
    pen.rounded_rectangle((4, 4, size[0] - 5, size[1] - 5), radius - 3, fill=255)
    image.paste(word.plate_rgb, (x1, y1), mask.reduce(2))


def _word(image: Image.Image, word: Word) -> None:
    _plate(image, word)
    face = font(word.font, word.points)
    left, top, _, _ = face.getbbox(word.text)
    place = (word.box.x1 - left, word.box.y1 - top)
    ImageDraw.Draw(image).text(place, word.text, fill=word.ink, font=face)


def _bars(pen: ImageDraw.ImageDraw, chart: Chart, unit: float) -> None:
    slot = (chart.plot.x2 - chart.plot.x1) / len(chart.values)
    for k, (value, rgb) in enumerate(zip(chart.values, chart.rgbs, strict=True)):
        middle = chart.plot.x1 + slot * (k + 0.5)
        top = chart.plot.y2 - max(value * unit, 1.0)
        edges = (round(middle - slot * 0.31), round(top), round(middle + slot * 0.31))
        rim = blend(rgb, (30, 24, 20), 0.45)
        pen.rectangle((*edges, round(chart.plot.y2)), fill=rgb, outline=rim)


def _line(image: Image.Image, chart: Chart, unit: float) -> None:
    """The line and its markers through a mask of double size, for smooth slopes."""
    x1, x2, y1, y2 = chart.plot.x1, chart.plot.x2, chart.plot.y1, chart.plot.y2
    slot = (x2 - x1) / len(chart.values)
    margin = 8
    size = (round(x2 - x1) * 2, round(y2 - y1 + 2 * margin) * 2)
    points = [
        (slot * (k + 0.5) * 2, (y2 - y1 + margin - value * unit) * 2)
        for k, value in enumerate(chart.values)
    ]
    mask = Image.new("L", size, 0)
    pen = ImageDraw.Draw(mask)
    pen.line(points, fill=255, width=6, joint="curve")
    for x, y in points:
        pen.ellipse((x - 9, y - 9, x + 9, y + 9), fill=255)
    image.paste(chart.rgbs[0], (round(x1), round(y1) - margin), mask.reduce(2))


def _chart(image: Image.Image, chart: Chart) -> None:
    pen = ImageDraw.Draw(image)
    x1, y1, x2, y2 = (round(v) for v in chart.plot.bounds())
    unit = (y2 - y1) / 10
    ticks = font("DejaVuSans", chart.tick_points)
    for value in range(0, 11, chart.step):
        y = round(y2 - value * unit)
        pen.line((x1, y, x2, y), fill=_GRID)
        pen.text((x1 - 5, y), str(value), fill=_AXIS, font=ticks, anchor="rm")
    if chart.style == "bar":
        _bars(pen, chart, unit)
    pen.line((x1, y1 - 3, x1, y2), fill=_AXIS, width=2)
    pen.line((x1, y2, x2, y2), fill=_AXIS, width=2)
    if chart.style == "line":
        _line(image, chart, unit)
    labels = font("DejaVuSans-Bold", chart.label_points)
    slot = (x2 - x1) / len(chart.labels)
    for k, label in enumerate(chart.labels):
        pen.text((x1 + slot * (k + 0.5), y2 + 6), label, fill=_LETTER, font=labels, anchor="mt")


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene, in its own size."""
    image = _background(scene.ground, scene.size)
    for thing in scene.things:
        _thing(image, thing, scene.ground)
    for word in scene.words:
        _word(image, word)
    if scene.chart is not None:
        _chart(image, scene.chart)
    return image
