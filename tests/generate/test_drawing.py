"""Regions on pictures."""

from __future__ import annotations

import pytest
from PIL import Image

from omnimix.generate.drawing import ASKED, draw
from omnimix.media.drawing import colour
from omnimix.types import Box, Point, Polygon, Stroke


def test_every_kind_leaves_its_colour() -> None:
    picture = Image.new("RGB", (100, 80), "white")
    asked = [Box(10, 10, 40, 40), Point(60, 60), Stroke(((5, 70), (50, 75)))]
    result = draw(picture, asked, [Polygon(((50, 5), (90, 5), (70, 40)))])
    used = {ink for _, ink in result.getcolors(1 << 20) or []}
    assert {ASKED, colour(0)} <= used
    assert picture.getcolors() == [(8000, (255, 255, 255))], "the original is left alone"


def test_small_pictures_are_enlarged_and_large_ones_kept() -> None:
    assert draw(Image.new("RGB", (100, 50))).size == (500, 250)
    assert draw(Image.new("RGB", (900, 600))).size == (900, 600)


@pytest.mark.parametrize("box", [Box(-10, -10, 200, 200), Box(0, 0, 1, 1), Box(98, 78, 100, 80)])
def test_borders_do_no_harm(box: Box) -> None:
    draw(Image.new("L", (100, 80)), [box], [box] * 12)
