"""Conversations for tests: pictures of noise, regions of every kind, turns drawn by hypothesis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from omnimix.compose.recipe import Recipe
from omnimix.media.tiles import Frame, View
from omnimix.types import Box, Mask, Media, Part, Point, Polygon, Region, Sample, Stroke, Turn


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Media:
    """Coloured noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Media.image(Image.fromarray(pixels))


def every_region(width: int, height: int) -> list[Region]:
    """One of each kind, on a picture of this size."""
    w, h = float(width), float(height)
    pixels = np.zeros((height, width), dtype=bool)
    pixels[: max(1, height // 2), : max(1, width // 2)] = True
    return [
        Point(w / 2, h / 2),
        Box(0, 0, w / 2, h),
        Polygon(((0, 0), (w, 0), (w / 2, h))),
        Stroke(((0, 0), (w / 2, h / 2)), 3),
        Mask(pixels),
    ]


def talk(*contents: Part | tuple[Part, ...], id: str = "talk") -> Sample:
    """User and assistant in turn."""
    turns = [
        Turn(("user", "assistant")[i % 2], content if isinstance(content, tuple) else (content,))
        for i, content in enumerate(contents)
    ]
    return Sample(tuple(turns), id)


@dataclass(frozen=True)
class Drawn:
    """A drawn conversation and the text that is to be learned from it."""

    sample: Sample
    learned: str


TEXT = st.text(max_size=12)


@st.composite
def conversations(draw: st.DrawFn, recipe: Recipe) -> Drawn:
    """One to three questions over up to two pictures and any regions on them."""
    sizes = draw(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), max_size=2))
    count = draw(st.integers(1, 3))
    at = sorted(draw(st.integers(0, count - 1)) for _ in sizes)
    turns: list[Turn] = []
    learned = ""
    seen = 0
    for i in range(count):
        parts: list[Part] = []
        for size in [size for size, turn in zip(sizes, at, strict=True) if turn == i]:
            parts += [draw(TEXT), picture(*size, seed=seen)]
            seen += 1
        for _ in range(draw(st.integers(0, 2)) if seen else 0):
            on = draw(st.none() | st.integers(0, seen - 1))
            size = sizes[seen - 1 if on is None else on]
            parts += [draw(TEXT), Media.region(draw(st.sampled_from(every_region(*size))), on)]
        turns.append(Turn("user", (*parts, draw(TEXT))))
        words = draw(TEXT)
        answer: tuple[Part, ...] = (words,)
        text = words.strip()
        if seen and draw(st.booleans()):
            width, height = sizes[seen - 1]
            region = draw(st.sampled_from(every_region(width, height)))
            answer = (words, Media.region(region))
            text = words.lstrip() + recipe.coordinates.write(region, square(width, height))
        turns.append(Turn("assistant", answer))
        learned += text + recipe.template.assistant.after
    return Drawn(Sample(tuple(turns), "drawn"), learned)


def square(width: int, height: int) -> View:
    """The view of a picture in the middle of its square, an odd pixel at right or bottom."""
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    frame = Frame(1 / side, 1 / side, left / side, top / side)
    return View((width, height), frame, (side, side))
