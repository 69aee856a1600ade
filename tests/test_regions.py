"""Regions: their forms in JSON, as masks, as run lengths and as PNG."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from omnimix import masks
from omnimix.errors import RegionError
from omnimix.regions import (
    Box,
    Mask,
    Point,
    Polygon,
    Region,
    Stroke,
    check_region,
    from_json,
    to_json,
)

QUICK = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def pictures(draw: st.DrawFn) -> np.ndarray:
    """Masks from empty to full, with long and short runs."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    share = draw(st.sampled_from([0.0, 0.03, 0.5, 0.97, 1.0]))
    seed = draw(st.integers(0, 10**6))
    return np.random.default_rng(seed).random((height, width)) < share


@QUICK
@given(pixels=pictures())
def test_run_lengths_and_png_come_back_exactly(pixels: np.ndarray) -> None:
    mask = Mask(pixels, label="it")
    for data in (mask.rle(), mask.rle(compressed=False)):
        assert np.array_equal(Mask.from_rle(json.loads(json.dumps(data))).pixels, pixels)
    assert np.array_equal(Mask.from_png(mask.png()).pixels, pixels)
    again = from_json(to_json(mask))
    assert isinstance(again, Mask) and again.label == "it"
    assert np.array_equal(again.pixels, pixels)


def test_the_strings_are_those_of_pycocotools() -> None:
    """Stated by pycocotools 2.0.11 (`mask.encode`)."""
    small = np.zeros((5, 7), dtype=bool)
    small[1:3, 2:5] = True
    assert Mask(small).rle() == {"size": [5, 7], "counts": ";230009"}
    small[4, 6] = True
    assert Mask(small).rle()["counts"] == ";230008O"
    assert Mask(small).rle(compressed=False)["counts"] == [11, 2, 3, 2, 3, 2, 11, 1]
    large = np.zeros((700, 900), dtype=bool)
    large[100:600, 50:800] = True
    large[300:310] = False
    assert Mask(large).rle()["counts"].startswith("lXR1X6:j2n5VMRJj2n5VMRJj2n5VMRJ")


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"size": [5, 7]},
        {"size": [5], "counts": [35]},
        {"size": [5, 7], "counts": [34]},
        {"size": [5, 7], "counts": [36]},
        {"size": [5, 7], "counts": [-1, 36]},
        {"size": [5, 7], "counts": [35.0]},
        {"size": [5, 7], "counts": 35},
        {"size": [5, 7], "counts": ""},
        {"size": [5, 7], "counts": "o" * 5000},
        {"size": [5, 7], "counts": "zz\u00ff"},
        {"size": [5, 7], "counts": "11"},
        {"size": [10**6, 10**6], "counts": [10**12]},
        {"size": [0, 0], "counts": []},
        {"size": ["5", 7], "counts": [35]},
    ],
)
def test_broken_run_lengths_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(RegionError) as caught:
        Mask.from_rle(data, where="mask.json")
    assert caught.value.where == "mask.json" and caught.value.hint


def test_masks_from_pictures(tmp_path: Path) -> None:
    grey = np.array([[0, 127, 128, 255]], dtype=np.uint8)
    wanted = [[False, False, True, True]]
    clear = np.zeros((1, 4, 4), dtype=np.uint8)
    clear[..., 3] = grey
    for picture in (Image.fromarray(grey), Image.fromarray(clear)):
        file = tmp_path / "mask.png"
        picture.save(file)
        assert Mask.from_png(file).pixels.tolist() == wanted
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(RegionError):
        Mask.from_png(file)
    with pytest.raises(RegionError, match="no such file"):
        Mask.from_png(tmp_path / "none.png")
    jpeg = io.BytesIO()
    Image.fromarray(grey).save(jpeg, "JPEG")
    with pytest.raises(RegionError, match="no PNG"):
        Mask.from_png(jpeg.getvalue())
    with pytest.raises(RegionError, match="is not taken"):
        masks.check_size(9000, 9000)


def test_regions_as_masks() -> None:
    assert (
        Mask.of(Box(1, 2, 4, 5), 10, 10).pixels.nonzero()[0].tolist() == [2] * 3 + [3] * 3 + [4] * 3
    )
    assert Mask.of(Box(1, 2, 4, 5), 10, 10).bounds() == (1, 2, 4, 5)
    assert Mask.of(Point(3.7, 9), 10, 10).bounds() == (3, 9, 4, 10)
    triangle = Mask.of(Polygon(((0, 0), (10, 0), (0, 10))), 10, 10)
    assert triangle.area() == pytest.approx(50, abs=5) and not triangle.pixels[9, 9]
    line = Mask.of(Stroke(((2, 5), (8, 5)), 3, label="a"), 10, 10)
    assert line.label == "a" and line.pixels[5, 2:9].all() and not line.pixels[9].any()
    with pytest.raises(RegionError, match="outside"):
        Mask.of(Box(20, 20, 30, 30), 10, 10)
    with pytest.raises(RegionError, match="covers no pixel"):
        Mask.of(Box(1.6, 1.6, 2.4, 2.4), 10, 10)


def test_boxes_by_corner_and_size() -> None:
    box = Box.from_xywh(10, 20, 30, 40, label="a")
    assert box == Box(10, 20, 40, 60) and box.label == "a"
    assert box.xywh == (10, 20, 30, 40)


def test_json_both_ways() -> None:
    regions: list[Region] = [
        Point(1, 2.5, label="tip"),
        Box(1, 2, 3, 4),
        Polygon(((1, 2), (3, 4), (5, 0))),
        Stroke(((1, 2), (3, 4)), 7.0),
    ]
    for region in regions:
        again = from_json(json.dumps(to_json(region)))
        assert again == region and again.label == region.label
    assert from_json({"xywh": [1, 2, 3, 4]}) == Box(1, 2, 4, 6)
    mask = Mask.of(Box(1, 1, 3, 3), 5, 4)
    inline = from_json({"png": base64.b64encode(mask.png()).decode()})
    assert isinstance(inline, Mask) and np.array_equal(inline.pixels, mask.pixels)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{", "no JSON"),
        ("[1, 2]", "an object, not a list"),
        ({}, "this one has none"),
        ({"box": [1, 2, 3, 4], "point": [1, 2]}, "point and box"),
        ({"box": [1, 2, 3]}, "box takes 4 numbers"),
        ({"box": [1, 2, 3, True]}, "box takes 4 numbers"),
        ({"box": "1234"}, "box takes 4 numbers"),
        ({"point": [1, float("nan")]}, "not finite"),
        ({"point": [1, 2], "labl": "a"}, "unknown word 'labl'"),
        ({"point": [1, 2], "label": 3}, "label is no text"),
        ({"polygon": [[1, 2], [3, 4]]}, "at least 3 points"),
        ({"polygon": [1, 2, 3]}, "takes 2 numbers"),
        ({"stroke": []}, "at least one point"),
        ({"png": "mask.png"}, "base64 text"),
        ({"png": "%%"}, "base64 text"),
        ({"rle": [1]}, "size and counts"),
    ],
)
def test_json_that_is_no_region_is_refused(data: Any, said: str) -> None:
    with pytest.raises(RegionError, match=said) as caught:
        from_json(data, where="record 7")
    assert caught.value.where == "record 7"


def test_files_are_read_only_where_allowed(tmp_path: Path) -> None:
    file = tmp_path / "m.png"
    file.write_bytes(Mask.of(Box(0, 0, 2, 2), 4, 4).png())
    with pytest.raises(RegionError):
        from_json({"png": str(file)})
    assert isinstance(from_json({"png": str(file)}, files=True), Mask)


HUGE = [10**400, -(10**400), 1e300, -1e308, float("inf"), float("nan"), 1e7, 10**6 + 1]


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("kind", ["point", "box", "xywh", "polygon", "stroke", "width"])
def test_numbers_beyond_any_picture_are_refused(kind: str, number: float) -> None:
    near: dict[str, list[Any]] = {
        "point": [1, 2],
        "box": [1, 2, 3, 4],
        "xywh": [1, 2, 3, 4],
        "polygon": [[1, 2], [3, 4], [5, 6]],
        "stroke": [[1, 2], [3, 4]],
    }
    data: dict[str, Any] = {"stroke": near["stroke"], "width": number}
    if kind != "width":
        data = {kind: near[kind]}
        (data[kind][1] if isinstance(data[kind][0], list) else data[kind])[0] = number
    with pytest.raises(RegionError, match=r"beyond 1,000,000|not finite"):
        from_json(data)


@pytest.mark.parametrize("number", HUGE)
def test_regions_of_python_have_the_same_limits(number: float) -> None:
    for region in (
        Point(number, 1),
        Box(-1, -1, number, 5),
        Polygon(((1, 2), (3, number), (5, 6))),
        Stroke(((1, 2), (number, 3))),
        Stroke(((1, 2), (3, 4)), width=number),
    ):
        with pytest.raises(RegionError, match=r"beyond 1,000,000|not finite"):
            check_region(region, 640, 480)


@pytest.mark.parametrize("width", [0, -1, -1e5])
def test_a_stroke_has_a_width(width: float) -> None:
    with pytest.raises(RegionError, match="above 0"):
        from_json({"stroke": [[1, 2], [3, 4]], "width": width})
    with pytest.raises(RegionError, match="above 0"):
        check_region(Stroke(((1, 2), (3, 4)), width), 640, 480)


def test_outlines_have_an_end() -> None:
    points = tuple((float(i % 600), float(i % 400)) for i in range(4097))
    for kind in ("polygon", "stroke"):
        with pytest.raises(RegionError, match="4097 points; at most 4096"):
            from_json({kind: [list(point) for point in points]})
        from_json({kind: [list(point) for point in points[1:]]})
    with pytest.raises(RegionError, match="at most 4096"):
        check_region(Polygon(points), 640, 480)


def test_a_mask_may_be_as_large_as_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.new("L", (4, 3), 255).save(buffer, "PNG")
    content = buffer.getvalue()
    monkeypatch.setattr(masks, "MOST_BYTES", len(content))
    assert masks.from_png(content, None).all()
    with pytest.raises(RegionError, match="more than"):
        masks.from_png(content + b"\0", None)


@pytest.mark.parametrize("thickness", [6, 7.5, 12, 19])
def test_a_brush_is_round_at_its_ends(thickness: float) -> None:
    pixels = masks.brushed([(30, 20)], thickness, 60, 40)
    rows, columns = np.nonzero(pixels)
    assert abs(pixels.sum() - np.pi * (thickness / 2) ** 2) < 4 * thickness
    for spots, middle in ((rows, 20), (columns, 30)):
        assert abs(spots.min() + spots.max() - 2 * middle) <= 1
        assert abs(spots.max() - spots.min() - thickness) <= 1


def test_small_boxes_overlap_as_large_ones() -> None:
    small = Box(0, 0, 0.4, 0.5)
    assert small.iou(small) == 1 and small.iou(Box(0, 0, 0.4, 0.25)) == pytest.approx(0.5)
    assert Box(2, 2, 2, 2).iou(Box(2, 2, 2, 2)) == 0


@pytest.mark.parametrize(("files", "said"), [(True, "ends in .png, or base64"), (False, "base64")])
def test_a_word_that_is_no_png_is_told_what_may_stand_there(files: bool, said: str) -> None:
    with pytest.raises(RegionError, match=said) as caught:
        from_json({"png": "*"}, files=files)
    assert files == ("a path" in str(caught.value))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_mask_of_any_depth_begins_at_half(kind: type) -> None:
    half = (int(np.iinfo(kind).max) + 1) // 2
    file = io.BytesIO()
    Image.fromarray(np.array([[0, half - 1, half, 2 * half - 1]], dtype=kind)).save(file, "PNG")
    assert masks.from_png(file.getvalue()).tolist() == [[False, False, True, True]]


def test_the_largest_mask_is_taken_and_none_above_it() -> None:
    masks.check_size(masks.MOST_PIXELS // 4, 4)
    with pytest.raises(RegionError):
        masks.check_size(masks.MOST_PIXELS // 4 + 1, 4)


def test_a_label_is_named() -> None:
    """A fifth number or word by its place alone would pass for one."""
    for made in (lambda: Box(1, 2, 3, 4, "cup"), lambda: Point(1, 2, "cup")):  # type: ignore[misc]
        with pytest.raises(TypeError):
            made()
