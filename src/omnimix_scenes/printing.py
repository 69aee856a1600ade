"""Scenes of printed words and scenes of charts."""

from __future__ import annotations

import random
from typing import TypeAlias

from omnimix.types import Box
from omnimix_scenes.fonts import CAPITAL, FONTS, extent
from omnimix_scenes.layout import canvas, ground, jittered
from omnimix_scenes.vocab import COLOURS, Rgb, pick_labels, pick_word
from omnimix_scenes.world import Chart, Ground, Scene, Word

# The height of a capital in a picture letterboxed to 224: least, most and most frequent.
_LEAST = 12.5
_FRAME = 224

_INKS: tuple[Rgb, ...] = (
    (30, 30, 36),
    (150, 24, 32),
    (22, 62, 150),
    (20, 96, 48),
    (98, 34, 134),
    (112, 58, 18),
)
_LIGHT: Rgb = (252, 252, 250)
_DARK: Rgb = (28, 28, 34)
_DARK_PLATES = ("red", "green", "blue", "purple", "black")
_LIGHT_PLATES = ("yellow", "white", "orange")

Area: TypeAlias = tuple[int, int, int, int]


def _word(
    rng: random.Random,
    split: str,
    size: tuple[int, int],
    area: Area,
    lengths: tuple[int, int],
    numbers: bool,
    most: float,
) -> Word:
    """A word in an area of a picture of this size, as large as drawn or as its room allows."""
    left, top, right, bottom = area
    scale = max(size) / _FRAME
    low, high = lengths
    plated = rng.random() < 0.45
    pad = rng.randint(6, 12) if plated else 0
    while True:
        text = pick_word(rng, split, low, high, numbers)
        name = rng.choice(FONTS)
        capital = rng.triangular(_LEAST, most, _LEAST + (most - _LEAST) * 0.4) * scale
        capital = min(capital, (bottom - top - 2 * pad - 8) * 0.77)
        points = max(2 * round(capital / CAPITAL / 2), 2)
        width, height = extent(name, points, text)
        room = right - left - 2 * pad - 8
        if width > room:
            points = max(2 * int(points * room / width / 2), 2)
            width, height = extent(name, points, text)
        if points * CAPITAL >= _LEAST * scale * 0.96 and width <= room:
            break
        # Too long for a narrow area: shorter words and no padding are tried until one fits.
        high, pad, plated = max(high - 1, low), 0, False
    x = rng.randint(left + 4 + pad, right - width - pad - 4)
    # The tallest fonts may reach a pixel or two into the margin of a narrow band.
    highest = top + 4 + pad
    y = rng.randint(highest, max(highest, bottom - height - pad - 4))
    box = Box(x, y, x + width, y + height)
    if not plated:
        return Word(text, name, points, jittered(rng, rng.choice(_INKS), 8), box)
    dark = rng.random() < 0.6
    plate = jittered(rng, COLOURS[rng.choice(_DARK_PLATES if dark else _LIGHT_PLATES)], 8)
    border = Box(x - pad, y - pad, x + width + pad, y + height + pad)
    return Word(text, name, points, _LIGHT if dark else _DARK, box, border, plate)


def words_scene(
    rng: random.Random,
    split: str,
    count: int,
    lengths: tuple[int, int] = (2, 8),
    numbers: bool = True,
    small: bool = False,
) -> Scene:
    """A scene of `count` printed words, one below the other; `small` leaves room for objects."""
    size = canvas(rng)
    height = size[1]
    cuts = [height * k // count for k in range(count + 1)]
    most = (40.0, 36.0, 30.0)[count - 1] if not small else 24.0
    words = tuple(
        _word(rng, split, size, (0, cuts[k], size[0], cuts[k + 1]), lengths, numbers, most)
        for k in range(count)
    )
    return Scene("words", split, *size, ground(rng), words=words)


def page_scene(rng: random.Random, split: str) -> Scene:
    """A page full of printed words in rows and columns: many letters to learn from at once."""
    size = canvas(rng)
    width, height = size
    scale = max(size) / _FRAME
    # The least room that takes two letters of the least height without a plate.
    most_rows = min(int(height // (17 * scale + 9)), 7)
    most_columns = min(int(width // (62 * scale)), 3)
    rows = rng.randint(min(3, most_rows), most_rows)
    words = []
    for row in range(rows):
        columns = rng.randint(1, most_columns)
        for column in range(columns):
            area = (
                width * column // columns,
                height * row // rows,
                width * (column + 1) // columns,
                height * (row + 1) // rows,
            )
            words.append(_word(rng, split, size, area, (2, 8), True, 30.0))
    return Scene("page", split, *size, ground(rng), words=tuple(words))


def _values(rng: random.Random, count: int) -> tuple[int, ...]:
    """Whole numbers 0 to 10, most often with one highest and one lowest among them."""
    values = [rng.randint(0, 10) for _ in range(count)]
    for _ in range(4):
        if values.count(max(values)) == values.count(min(values)) == 1:
            break
        values = [rng.randint(0, 10) for _ in range(count)]
    return tuple(values)


def chart_scene(rng: random.Random, split: str) -> Scene:
    """A scene of one bar or line chart."""
    longer = rng.randint(220, 320)
    shorter = round(longer * rng.uniform(0.72, 1.0))
    width, height = (longer, shorter) if rng.random() < 0.7 else (shorter, longer)
    scale = longer / _FRAME
    count = rng.randint(3, 5)
    tick_points = 2 * round(rng.uniform(12, 14) * scale / 2)
    label_points = 2 * round(rng.uniform(14, 18) * scale / 2)
    left = tick_points * 2 + rng.randint(2, 12)
    right = width - rng.randint(6, 14)
    slot = (right - left) / count
    labels = pick_labels(rng, split, count, wordy=slot > 32 * scale)
    while max(extent("DejaVuSans-Bold", label_points, label)[0] for label in labels) > slot - 3:
        label_points -= 2
    top = rng.randint(10, 20)
    bottom = height - label_points - rng.randint(10, 16)
    style = "bar" if rng.random() < 0.6 else "line"
    colours = [COLOURS[name] for name in COLOURS if name != "white"]
    one = rng.choice(colours)
    several = style == "bar" and rng.random() < 0.5
    picked = rng.sample(colours, count) if several else [one] * count
    rgbs = tuple(jittered(rng, rgb, 10) for rgb in picked) if several else tuple(picked)
    paper = jittered(rng, (245, 245, 245), 8)
    chart = Chart(
        style,
        labels,
        _values(rng, count),
        rgbs,
        Box(left, top, right, bottom),
        label_points,
        tick_points,
        rng.choice((1, 2, 2, 5)) if tick_points * 11 < bottom - top else 2,
    )
    return Scene("chart", split, width, height, Ground(paper, paper, False, False), chart=chart)
