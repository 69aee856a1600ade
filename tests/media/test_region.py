"""Regions as rows of numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageDraw

from omnimix.errors import RegionError
from omnimix.media.region import FILLER, REGION_WIDTH, RegionOpener, samples
from omnimix.media.tiles import Frame
from omnimix.types import Box, Mask, Media, Point, Polygon, Region, Stroke

OPENER = RegionOpener()
UNIT = Frame.whole(100, 100)
number = st.floats(0, 99)
corner = st.tuples(number, number)


def row(region: Region) -> list[float]:
    return OPENER.encode(region, UNIT).tolist()


def test_point() -> None:
    encoded = row(Point(25, 50))
    assert encoded == [0.0] + [0.25, 0.5] * 18


def test_box_is_sampled_at_the_centres_of_a_4_by_4_grid() -> None:
    encoded = row(Box(0, 20, 80, 100))
    assert encoded[:5] == pytest.approx([1, 0, 0.2, 0.8, 1])
    assert encoded[5:9] == pytest.approx([0.1, 0.3, 0.3, 0.3])
    assert encoded[-2:] == pytest.approx([0.7, 0.9])


def test_stroke_is_sampled_equally_along_its_length() -> None:
    points = samples(Stroke(((0, 0), (10, 0), (10, 20))))
    assert points[0].tolist() == [0, 0]
    assert points[5].tolist() == [10, 0]
    assert points[-1].tolist() == [10, 20]
    steps = np.abs(np.diff(points, axis=0)).sum(axis=1)
    assert steps == pytest.approx(np.full(15, 2.0))
    assert samples(Stroke(((3, 4),))).tolist() == [[3, 4]] * 16


@settings(deadline=None)
@given(st.lists(corner, min_size=1, max_size=20))
def test_mask_samples_lie_on_its_pixels(marks: list[tuple[float, float]]) -> None:
    pixels = np.zeros((100, 100), dtype=bool)
    for x, y in marks:
        pixels[int(y), int(x)] = True
    points = samples(Mask(pixels))
    assert all(pixels[int(y), int(x)] for x, y in points)


@settings(deadline=None)
@given(st.lists(corner, min_size=3, max_size=3, unique=True))
def test_polygon_samples_lie_in_its_bounds_and_triangle(points: list[tuple[float, float]]) -> None:
    polygon = Polygon(tuple(points))
    x1, y1, x2, y2 = polygon.bounds()
    a, b, c = (np.array(p) for p in points)

    def cross(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> float:
        return float((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    for p in samples(polygon):
        assert x1 <= p[0] <= x2
        assert y1 <= p[1] <= y2
        sides = [cross(a, b, p), cross(b, c, p), cross(c, a, p)]
        assert all(s >= -1e-6 for s in sides) or all(s <= 1e-6 for s in sides)


def test_a_concave_polygon_has_no_sample_in_its_notch() -> None:
    shape = ((0, 0), (90, 0), (90, 90), (60, 90), (60, 30), (30, 30), (30, 90), (0, 90))
    canvas = Image.new("1", (100, 100))
    ImageDraw.Draw(canvas).polygon(list(shape), fill=1)
    inside = np.asarray(canvas)
    assert all(inside[int(y), int(x)] for x, y in samples(Polygon(shape)))


def test_a_flat_polygon_is_sampled_along_its_outline() -> None:
    points = samples(Polygon(((0, 5), (10, 5), (20, 5))))
    assert set(points[:, 1]) == {5.0}
    assert points[:, 0].min() == 0
    assert points[:, 0].max() > 18


def test_same_region_same_row_and_width() -> None:
    mask = np.zeros((100, 100), dtype=bool)
    mask[3:9, 4:8] = True
    regions: list[Region] = [
        Point(1, 2),
        Box(1, 2, 3, 4),
        Polygon(((1, 2), (9, 9), (3, 8))),
        Stroke(((1, 2), (3, 4))),
        Mask(mask),
    ]
    for index, region in enumerate(regions):
        encoded = OPENER.encode(region, UNIT)
        assert encoded.shape == (REGION_WIDTH,) == FILLER.shape
        assert encoded.dtype == torch.float32
        assert encoded[0] == index
        assert torch.equal(encoded, OPENER.encode(region, UNIT))
    assert FILLER.tolist() == [-1.0] + [0.0] * 36
    assert row(Mask(mask))[1:5] == pytest.approx([0.04, 0.03, 0.08, 0.09])


def test_the_frame_is_applied() -> None:
    frame = UNIT.window(0.5, 0.0, 0.5, 1.0)
    encoded = OPENER.encode(Box(50, 0, 100, 100), frame).tolist()
    assert encoded[1:5] == pytest.approx([0, 0, 1, 1])


def test_open_checks_the_region() -> None:
    box = Box(1, 2, 3, 4)
    assert OPENER.open(Media.region(box), (10, 10)) is box
    for bad in (Box(20, 20, 30, 30), Point(float("nan"), 0), (1, 2, 3, 4), None):
        with pytest.raises(RegionError) as caught:
            OPENER.open(Media("region", bad), (10, 10), where="s1")
        assert caught.value.where == "s1"
