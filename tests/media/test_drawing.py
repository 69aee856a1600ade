"""Regions on pictures: every kind shows, on every ground, at every aspect."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import omnimix
from omnimix.errors import MediaError, RegionError
from omnimix.media.drawing import colour, draw
from omnimix.types import Box, Mask, Point, Polygon, Region, Stroke


def kinds(width: int, height: int) -> list[Region]:
    w, h = float(width), float(height)
    return [
        Box(w * 0.1, h * 0.1, w * 0.4, h * 0.5),
        Point(w * 0.5, h * 0.5),
        Polygon(((w * 0.1, h * 0.6), (w * 0.4, h * 0.6), (w * 0.2, h * 0.9))),
        Stroke(((w * 0.4, h * 0.8), (w * 0.7, h * 0.9)), 4),
        Mask.of(Box(w * 0.6, h * 0.1, w * 0.9, h * 0.4), width, height),
    ]


@pytest.mark.parametrize("ground", [0, 128, 255])
@pytest.mark.parametrize("size", [(500, 400), (1200, 90), (90, 700)])
def test_every_kind_shows_in_its_colour(ground: int, size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, (ground,) * 3)
    for i, region in enumerate(kinds(*size)):
        result = draw(picture, [region], labels=False, colours=[colour(i)], enlarge=False)
        used = {ink for _, ink in result.getcolors(1 << 20) or []}
        assert colour(i) in used
        changed = np.any(np.asarray(result) != ground, axis=2)
        x1, y1, x2, y2 = region.bounds()
        rows, columns = np.nonzero(changed)
        # Nothing far from the region is touched, and its middle line is.
        assert columns.min() >= x1 - 30 and columns.max() <= x2 + 30
        assert rows.min() >= y1 - 30 and rows.max() <= y2 + 30
    assert picture.getcolors() == [(size[0] * size[1], (ground,) * 3)], "the original is left alone"


def test_labels_are_drawn_where_there_is_room() -> None:
    picture = Image.new("RGB", (500, 400), "white")
    box = Box(50, 80, 200, 200, label="cup")
    with_label, without = draw(picture, [box]), draw(picture, [box], labels=False)
    assert with_label.tobytes() != without.tobytes()
    assert draw(picture, [box], labels=["other"]).tobytes() != with_label.tobytes()
    alone = draw(picture, [Box(50, 80, 200, 200)])
    assert alone.tobytes() == without.tobytes(), "one region without a label needs no number"


@pytest.mark.parametrize(
    "box", [Box(-10, -10, 200, 200), Box(0, 0, 1, 1), Box(98, 78, 100, 80), Box(0, 79, 100, 80)]
)
@pytest.mark.parametrize("size", [(100, 80), (100, 81)])
def test_borders_do_no_harm(box: Box, size: tuple[int, int]) -> None:
    drawn = draw(Image.new("L", size), [box] * 12, labels=["a long label indeed " * 5] * 12)
    assert drawn.size == (size[0] * 5, size[1] * 5)


def test_one_pixel() -> None:
    assert draw(Image.new("RGB", (1, 1)), [Point(0, 0), Box(0, 0, 1, 1)]).size == (448, 448)


def test_the_public_face_refuses_in_words() -> None:
    with pytest.raises(RegionError, match=r"region 2: the point .* outside"):
        omnimix.draw(Image.new("RGB", (10, 10)), [Point(1, 1), Point(50, 1)])
    with pytest.raises(MediaError):
        omnimix.draw("nowhere.png", [])
