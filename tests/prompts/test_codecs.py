"""Every convention: its form, its inverse through every preparation of a picture, and its refusals."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import assume, given, settings, strategies as st
from PIL import Image

from omnimix.media.tiles import Step, Tiles, View
from omnimix.prompts.coordinates import Codec
from omnimix.registry import CODECS, STEPS
from omnimix.types import Box, Mask, Point, Polygon, Region
from tests.cases import case_path

STRATEGIES: dict[str, list[dict[str, Any]]] = {
    "pad": [{"kind": "pad"}, {"kind": "resize", "size": 448}],
    "letterbox": [{"kind": "letterbox", "size": 384}],
    "resize": [{"kind": "resize", "size": [512, 320]}],
    "resize_crop": [{"kind": "resize_crop", "size": 224, "shortest_edge": 256}],
    "crop": [{"kind": "crop", "size": 300}],
    "tiles": [{"kind": "anyres", "size": 336, "grids": [[1, 2], [2, 1], [2, 2]]}],
    "smart_resize": [{"kind": "smart_resize"}],
    "smart_resize_32": [{"kind": "smart_resize", "factor": 32, "max_pixels": 200000}],
}

STEPS_ACROSS = {
    "fractions": 100,
    "llava": 100,
    "sphinx": 1000,
    "sphinx_v": 1000,
    "ferret": 1000,
    "qwen2_vl": 1000,
    "qwen2_5_vl": None,  # pixels of the tile
    "qwen3_vl": 1000,
    "internvl": 1000,
    "molmo": 1000,
    "kosmos2": 32,
    "paligemma": 1024,
    "florence2": 1000,
}
"""How many steps a side has."""

HUNDRED = View.whole(100, 100)


def codec(row: str, **words: Any) -> Codec:
    made: Codec = CODECS.load(row).model_validate({"kind": row, **words})
    return made


SIZES = [
    (640, 480),
    (333, 777),
    (1000, 301),
    (64, 64),
    (57, 20),
    (900, 61),
    (40, 500),
    (1500, 1499),
]


@cache
def seen(strategy: str, width: int, height: int) -> View:
    """What the real steps make of a picture of this size."""
    tiles = Tiles.of(Image.new("RGB", (width, height)))
    for words in STRATEGIES[strategy]:
        step: Step = STEPS.load(words["kind"]).model_validate(words)
        tiles = step(tiles)
    return View(tiles.size, tiles.frame, tiles.pictures[0].size)


def one_step(made: Codec, view: View) -> tuple[float, float]:
    """A quantisation step in pixels of the original."""
    frame = made._frame(view)
    across = STEPS_ACROSS[made.kind]
    sides = view.tile if across is None else (across, across)
    return 1 / sides[0] / frame.scale_x, 1 / sides[1] / frame.scale_y


def visible(made: Codec, view: View) -> tuple[float, float, float, float]:
    """The part of the picture that the convention can speak of."""
    frame, (width, height) = made._frame(view), view.size
    (x1, y1), (x2, y2) = frame.back(0, 0), frame.back(1, 1)
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("row", CODECS)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    size=st.sampled_from(SIZES),
    places=st.tuples(*[st.floats(0, 1)] * 4),
    point=st.booleans(),
    label=st.sampled_from(["", "red cup", "Hut"]),
)
def test_a_region_comes_back_within_one_step(
    row: str,
    strategy: str,
    size: tuple[int, int],
    places: tuple[float, float, float, float],
    point: bool,
    label: str,
) -> None:
    made, view = codec(row), seen(strategy, *size)
    x1, y1, x2, y2 = visible(made, view)
    (u1, u2), (v1, v2) = sorted(places[:2]), sorted(places[2:])
    across, down = one_step(made, view)
    box = Box(
        x1 + u1 * (x2 - x1),
        y1 + v1 * (y2 - y1),
        x1 + u2 * (x2 - x1),
        y1 + v2 * (y2 - y1),
        label=label,
    )
    region: Region = Point(box.x1, box.y1, label=label) if point else box
    assume(point or (box.x2 > box.x1 and box.y2 > box.y1))
    # A strip thinner than the steps: a rounded point may fall well into the border, which is told too.
    thin = min(view.size) < 2 * max(across, down)
    assume(not (point and thin and made.frame == "tile"))
    text = made.write(region, view)
    # Words beside the tokens of these two are the label.
    bare = row in ("paligemma", "florence2")
    reading = made.read(text if bare else f"It is {text} there.", view)
    wanted = region.bounds()
    if not made.boxes and not point:
        middle = ((wanted[0] + wanted[2]) / 2, (wanted[1] + wanted[3]) / 2)
        wanted = middle * 2
    assert not reading.skipped
    (found,) = reading.regions
    assert isinstance(found, Point) == (made.points and (point or not made.boxes))
    # What is thinner than a step is widened to one, and moved by as much at the far rim.
    wide = [2 if wanted[i] + step > wanted[i + 2] else 1 for i, step in enumerate((across, down))]
    steps = (across * wide[0], down * wide[1]) * 2
    for is_value, be_value, step in zip(found.bounds(), wanted, steps, strict=True):
        assert abs(is_value - be_value) <= step * 1.001 + 1e-6
    if row not in ("fractions", "llava", "ferret"):  # those have no labels
        assert found.label == label


FORMS = {
    "fractions": "[0.10, 0.20, 0.30, 0.90]",
    "llava": "[0.10, 0.20, 0.30, 0.90]",
    "sphinx": "<p>cat</p>[0.100, 0.200, 0.300, 0.900]",
    "sphinx_v": "<p>cat</p>[0.100, 0.200, 0.300, 0.900]",
    "ferret": "[100, 200, 300, 900]",
    "qwen2_vl": "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(100,200),(300,900)<|box_end|>",
    "qwen2_5_vl": '{"bbox_2d": [10, 20, 30, 90], "label": "cat"}',
    "qwen3_vl": '{"bbox_2d": [100, 200, 300, 900], "label": "cat"}',
    "internvl": "<ref>cat</ref><box>[[100, 200, 300, 900]]</box>",
    "molmo": '<point x="20.0" y="55.0" alt="cat">cat</point>',
    "kosmos2": "<phrase>cat</phrase><object><patch_index_0195><patch_index_0905></object>",
    "paligemma": "<loc0204><loc0102><loc0921><loc0307> cat",
    "florence2": "cat<loc_100><loc_200><loc_300><loc_900>",
}


@pytest.mark.parametrize("row", CODECS)
def test_the_written_form(row: str) -> None:
    box = Box(10, 20, 30, 90, label="cat")
    assert codec(row).write(box, HUNDRED) == FORMS[row]
    assert "cat" not in codec(row).write(box, HUNDRED, labels=False)


@pytest.mark.parametrize("row", CODECS)
def test_several_regions_come_back_in_order(row: str) -> None:
    made = codec(row)
    boxes = [Box(10, 20, 50, 60, label="a"), Box(30, 40, 80, 90, label="a"), Box(0, 0, 40, 40)]
    reading = made.read(made.write(boxes, HUNDRED), HUNDRED)
    assert not reading.skipped and len(reading.regions) == 3
    for found, box in zip(reading.regions, boxes, strict=True):
        if made.boxes:
            assert found.bounds() == pytest.approx(box.bounds(), abs=100 / 31)


@pytest.mark.parametrize(
    ("row", "text", "regions", "skipped"),
    [
        ("sphinx", "<p>two cups</p> [0.1,0.2,0.3,0.4;0.5,0.6,0.7,0.8] and [1, 2]", 2, 0),
        ("sphinx", "[0.1, 0.2, 1.3, 0.4]", 0, 1),
        ("ferret", "a dog [0, 0, 1001, 500] [3] [10, 20, 30, 40] [5, 6]", 2, 1),
        ("qwen2_vl", "person(123,456),(789,999)", 1, 0),
        ("qwen2_vl", "(1,2),(3,4),(5,6) and (2000,1),(2,3)", 0, 2),
        (
            "qwen2_5_vl",
            '```json\n[{"bbox_2d": [1, 2, 30, 40], "label": "a"}, {"bbox_2d": [1, 2',
            1,
            1,
        ),
        ("qwen2_5_vl", '{"bbox_2d": [1, 2, 300, 40]} {"point_2d": [5, "x"]}', 0, 2),
        ("qwen3_vl", '{"point_2d": [500, 250], "label": "tip of \\"it\\""}', 1, 0),
        ("internvl", "[[10, 20, 30, 40], [50, 60, 70, 80]]", 2, 0),
        ("internvl", "<box>[[10, 20, 30]]</box><box>[[10, 20, 9999, 40]]</box>", 0, 2),
        ("molmo", '<points x1="10" y1="20.5" x2="30" y2="140" alt="eyes">eyes</points>', 1, 1),
        ("molmo", '<point y="3" alt="x">x</point><point x="3">', 0, 2),
        ("kosmos2", "<object><patch_index_0000><patch_index_1023></object>", 1, 0),
        ("kosmos2", "<object><patch_index_0000><patch_index_1024></object>", 0, 1),
        ("kosmos2", "<object><patch_index_0000></object>", 0, 1),
        (
            "paligemma",
            "<loc0001><loc0002><loc0500><loc0600><seg001> cat ; <loc0001><loc0002>",
            1,
            1,
        ),
        ("paligemma", "<loc0001><loc0002><loc1024><loc0600> cat", 0, 1),
        ("florence2", "car<loc_1><loc_2><loc_30><loc_40><loc_5><loc_6><loc_70><loc_80>", 2, 0),
        ("florence2", "car<poly><loc_1><loc_2><loc_30><loc_2><loc_5><loc_66></poly>", 1, 0),
        ("florence2", "car<loc_1><loc_2><loc_30>, <loc_1><loc_2><loc_30><loc_1000>", 0, 2),
    ],
)
def test_readings(row: str, text: str, regions: int, skipped: int) -> None:
    reading = codec(row).read(text, HUNDRED)
    assert (len(reading.regions), len(reading.skipped)) == (regions, skipped), reading
    assert all(one.why and one.text for one in reading.skipped)


@pytest.mark.parametrize("row", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(
    "odd", ['"x"', "[1, 2, 3]", "[]", "null", "7", '["a", 1, 2, 3]', "[[1, 2, 3, 4]]"]
)
def test_what_is_skipped_stands_as_it_was_written(row: str, odd: str) -> None:
    bad = f'{{"bbox_2d": {odd}, "label": "a"}}'
    reading = codec(row).read(f"{FORMS[row]} and {bad} and {FORMS[row]}", HUNDRED)
    assert len(reading.regions) == 2
    assert [one.text for one in reading.skipped] == [bad]


@pytest.mark.parametrize("row", CODECS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_answer_makes_reading_fail(row: str, data: st.DataObject) -> None:
    form = FORMS[row]
    pieces = data.draw(
        st.lists(
            st.sampled_from([form, form[:-9], form[5:], "9" * 400, "[[", "]]", ";", "-1", "}"])
            | st.text(max_size=8),
            max_size=8,
        )
    )
    for found in codec(row).read("".join(pieces), HUNDRED, [Point(1, 1)]).regions:
        assert all(0 <= value <= 100 for value in found.bounds())


def test_a_label_with_signs_survives_molmo_and_json() -> None:
    for row in ("molmo", "qwen2_5_vl"):
        label = 'a "<b> & c'
        (found,) = (
            codec(row).read(codec(row).write(Point(5, 6, label=label), HUNDRED), HUNDRED).regions
        )
        assert found.label == label


def test_sphinx_v_names_the_regions_of_the_question() -> None:
    made = codec("sphinx_v")
    asked = [Box(1, 2, 3, 4), Box(5, 6, 7, 8)]
    assert made.names(asked) == ["<Region 1>", "<Region 2>"]
    assert made.names([Point(1, 2), Point(3, 4)]) == ["<Mark 1>", "<Mark 2>"]
    assert made.names([Point(1, 2), asked[0]]) == ["<Region 1>", "<Region 2>"]
    reading = made.read("<Region 2>: roof\n<Region 1>: lion\n<Region 9>: no", HUNDRED, asked)
    assert [(r, r.label) for r in reading.regions] == [(asked[1], "roof"), (asked[0], "lion")]
    assert reading.skipped[0].why == "the question has no region 9"
    again = made.read("<Region 1> is left of <Region 2>; <Region 1>: cat", HUNDRED, asked)
    assert [r.label for r in again.regions] == ["cat", ""]


def test_qwen_2_5_counts_pixels_of_the_resized_picture() -> None:
    view = seen("smart_resize", 3000, 1000)
    assert view.tile[0] % 28 == view.tile[1] % 28 == 0 and view.tile[0] < 3000
    text = json.dumps({"bbox_2d": [0, 0, view.tile[0] // 2, view.tile[1]]})
    (box,) = codec("qwen2_5_vl").read(text, view).regions
    assert box.bounds() == pytest.approx((0, 0, 1500, 1000))


def test_the_frame_may_be_said_otherwise() -> None:
    view = seen("pad", 100, 50)
    box = Box(0, 0, 100, 50)
    assert codec("llava").write(box, view) == "[0.00, 0.25, 1.00, 0.75]"
    assert codec("llava", frame="picture").write(box, view) == "[0.00, 0.00, 1.00, 1.00]"


def test_outlines_and_masks_are_written_as_their_bounds() -> None:
    shape = Polygon(((10, 20), (30, 20), (30, 90)))
    mask = Mask.of(shape, 100, 100)
    for row in CODECS:
        box = codec(row).write(Box(*shape.bounds()), HUNDRED)
        assert codec(row).write(shape, HUNDRED) == box
        assert codec(row).write(mask, HUNDRED) == codec(row).write(Box(*mask.bounds()), HUNDRED)


def test_boxes_of_the_sphinx_demo_land_on_the_same_pixels() -> None:
    """SPHINX's own demo truncates to whole pixels and keeps what leaves the picture."""
    file = case_path("sphinx/metrics/metrics.json")
    made = codec("sphinx")
    compared = 0
    for case in json.loads(file.read_text())["demo_boxes"]:
        for size, boxes in case["pixel_boxes_xyxy"].items():
            width, height = map(int, size.split("x"))
            view = seen("pad", width, height)
            regions = made.read(case["text"], view).regions
            found = sorted(r.bounds() for r in regions if isinstance(r, Box))
            cut = [(max(b[0], 0), max(b[1], 0), min(b[2], width), min(b[3], height)) for b in boxes]
            assert len(found) == len(cut)
            for ours, theirs in zip(found, sorted(cut), strict=True):
                assert ours == pytest.approx(theirs, abs=1.01)
                compared += 1
    assert compared > 5


@pytest.mark.parametrize("row", CODECS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(places=st.tuples(st.floats(0, 1), st.floats(0, 1)), thin=st.sampled_from([0, 1e-9, 1e-4]))
def test_nothing_is_written_that_is_not_read(
    row: str, places: tuple[float, float], thin: float
) -> None:
    view = View.whole(640, 480)
    x, y = places[0] * 639, places[1] * 479
    point: Region = Point(x, y)
    for region in (point, Box(x, 0, x + max(thin, 1e-7), 480), Box(0, y, 640, y + 1e-3)):
        reading = codec(row).read(codec(row).write(region, view), view)
        assert len(reading.regions) == 1 and not reading.skipped


TORTURE = [
    "[",
    "[[1,",
    "[[1],",
    "[ [ ",
    "<point ",
    '<point x="',
    "<ref>",
    "<ref>a</ref><box>",
    "<p>a</p>",
    "<object>",
    "<loc_1>",
    "<loc0001>",
    "(1,2),",
    '{"bbox_2d": [',
    '{"label": "',
    "<|object_ref_start|>",
    "a1=",
    "a",
    " ",
]


@pytest.mark.parametrize("row", CODECS)
def test_reading_takes_time_in_proportion_to_the_text(row: str) -> None:
    """Reading ends: where it took time with the square, each of these would take an hour."""
    made = codec(row)
    for piece in TORTURE:
        text = "<point " * (piece == "a") + piece * (300_000 // len(piece))
        for end in ("]", ">"):
            for found in made.read(text + end, HUNDRED).regions:
                assert all(0 <= value <= 100 for value in found.bounds())


@pytest.mark.parametrize("row", CODECS)
def test_a_region_says_where_it_stands(row: str) -> None:
    made, view = (
        codec(row),
        seen("pad" if "pad" in STRATEGIES else next(iter(STRATEGIES)), 640, 480),
    )
    regions = [Box(40, 60, 200, 220, label="cup"), Box(300, 100, 500, 400, label="hut")]
    written = made.write(regions, view)
    found = made.read(f"Here: {written}\nand no more", view)
    assert len(found.spans) == len(found.numbers) == len(found.regions) == 2
    for start, end in found.spans:
        assert len("Here: ") <= start < end <= len("Here: ") + len(written) + 1
    assert set(found.numbers) == {None}
