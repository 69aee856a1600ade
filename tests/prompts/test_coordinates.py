"""Coordinates in text: what is written is read back, whatever else is in the text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from omnimix.media.tiles import View
from omnimix.prompts.coordinates import Coordinates
from omnimix.types import Box, Point, Polygon
from tests.compose.conversations import every_region, square

QUICK = settings(max_examples=100, deadline=None, derandomize=True)
SIDES = st.tuples(st.integers(1, 2000), st.integers(1, 2000))
HUNDRED = View.whole(100, 100)


@QUICK
@given(size=SIDES, u=st.floats(0, 1), v=st.floats(0, 1), decimals=st.integers(1, 4))
def test_points_come_back_within_rounding(
    size: tuple[int, int], u: float, v: float, decimals: int
) -> None:
    point = Point(u * size[0], v * size[1])
    style, view = Coordinates(decimals=decimals), square(*size)
    found = style.read(f"at {style.write(point, view)}.", view).regions
    close = 0.51 * 10**-decimals * max(size)
    if not found:  # a narrow strip: rounding put the point well into the border
        assert close > max(size) / 100
        return
    (same,) = found
    assert isinstance(same, Point)
    assert (same.x, same.y) == pytest.approx((point.x, point.y), abs=close + 1e-6)


@QUICK
@given(size=SIDES, corners=st.tuples(*[st.floats(0, 1)] * 4), decimals=st.integers(1, 4))
def test_boxes_come_back_within_rounding(
    size: tuple[int, int], corners: tuple[float, float, float, float], decimals: int
) -> None:
    (u1, u2), (v1, v2) = sorted(corners[:2]), sorted(corners[2:])
    box = Box(u1 * size[0], v1 * size[1], u2 * size[0], v2 * size[1])
    style, view = Coordinates(decimals=decimals), square(*size)
    reading = style.read(style.write(box, view), view)
    close = 0.51 * 10**-decimals * max(size)
    if min(box.x2 - box.x1, box.y2 - box.y1) <= 2 * close:  # widened to a step
        close *= 2
    assert reading.regions[0].bounds() == pytest.approx(box.bounds(), abs=close + 1e-6)


def test_written_forms() -> None:
    box = Box(10, 20, 30, 100)
    assert Coordinates().write(box, HUNDRED) == "[0.10, 0.20, 0.30, 1.00]"
    assert Coordinates(ceiling=0.99).write(box, HUNDRED) == "[0.10, 0.20, 0.30, 0.99]"
    assert Coordinates(decimals=3).write(Point(12.5, -4), HUNDRED) == "[0.125, 0.000]"
    outline = Polygon(((5, 50), (10, 20), (30, 40)))
    assert Coordinates().write(outline, HUNDRED) == "[0.05, 0.20, 0.30, 0.50]"
    assert Coordinates().write([box, Point(1, 2)], HUNDRED) == (
        "[0.10, 0.20, 0.30, 1.00;0.01, 0.02]"
    )


def test_regions_that_are_no_point_are_written_as_their_bounds() -> None:
    view = square(40, 30)
    for region in every_region(40, 30)[1:]:
        bounds = Coordinates().write(Box(*region.bounds()), view)
        assert Coordinates().write(region, view) == bounds


def test_several_in_one_text() -> None:
    text = (
        "A cup [0.1, 0.2, 0.3, 0.4] and two spoons [0.5,0.5,0.6,0.6;0.7, 0.7, 0.8, 0.9] [0.5, 0.5]"
    )
    found = Coordinates().read(text, HUNDRED).regions
    assert [type(one) for one in found] == [Box, Box, Box, Point]
    assert found[2].bounds() == pytest.approx((70, 70, 80, 90))


@pytest.mark.parametrize(
    ("text", "skipped"),
    [
        ("", 0),
        ("no bracket", 0),
        ("[]", 0),
        ("[1]", 0),
        ("[a, b]", 0),
        ("[0.1, 0.2", 0),
        ("0.1, 0.2]", 0),
        ("[0.1, nan]", 0),
        ("[0.1, 0.2, 0.3]", 1),
        ("[0.1, 0.2, 0.3, 0.4, 0.5]", 1),
        ("[0.5, 0.5, 0.5, 0.9]", 1),
        ("[0.9, 0.1, 0.1, 0.9]", 1),
        ("[0.1; 0.2]", 2),
        ("[0.1, 1e999]", 1),
        ("[0.1, 0..2]", 1),
        ("[-0.5, 0.5, 2.0, 7.0]", 1),
    ],
)
def test_what_is_no_region_is_left_alone(text: str, skipped: int) -> None:
    reading = Coordinates().read(text, HUNDRED)
    assert reading.regions == ()
    assert len(reading.skipped) == skipped
    assert all(one.why for one in reading.skipped)


@QUICK
@given(text=st.text(alphabet="[]0123456789.,;-einfa ", max_size=40))
def test_reading_never_fails_and_stays_inside(text: str) -> None:
    for found in Coordinates().read(text, HUNDRED).regions:
        assert all(0 <= value <= 100 for value in found.bounds())


def test_what_leaves_the_picture_is_cut() -> None:
    strip = square(100, 50)
    (box,) = Coordinates().read("[0.1, 0.1, 0.5, 0.5]", strip).regions
    assert box.bounds() == pytest.approx((10, 0, 50, 25))
    border = Coordinates().read("[0.1, 0.0, 0.5, 0.2] [0.1, 0.9]", strip)
    assert [one.why for one in border.skipped] == [
        "the box lies outside the picture",
        "the point lies outside the picture",
    ]
