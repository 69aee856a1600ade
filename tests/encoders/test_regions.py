"""SPHINX-V's prompt encoder against the golden case, and its rules one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from omnimix.compose import recipe
from omnimix.encoders.base import Features
from omnimix.encoders.regions import (
    PointsBoxes,
    PointsBoxesEncoder,
    RegionPool,
    RegionPoolEncoder,
    prompts,
)
from omnimix.media.region import FILLER, RegionOpener
from omnimix.media.tiles import Frame, Tiles
from omnimix.types import Box, Mask, Point, Polygon, Region, Stroke
from tests.cases import golden

CASE = "sphinx_v/ens5_vp"
RECIPE = recipe.load("sphinx_v")
OPENER = RECIPE.modalities["region"].opens
SLOTS = 10


def frame_of(width: int, height: int) -> Frame:
    """Where a picture lies after the recipe's own steps."""
    tiles = Tiles.of(Image.new("RGB", (width, height)))
    for step in RECIPE.modalities["image"].steps:
        tiles = step(tiles)
    return tiles.frame


def item(regions: list[Region], width: int, height: int) -> Tensor:
    assert isinstance(OPENER, RegionOpener)
    frame = frame_of(width, height)
    rows = [OPENER.encode(region, frame, (width, height)) for region in regions]
    return torch.stack(rows + [FILLER] * (SLOTS - len(rows)))[None]


def region_of(numbers: list[float]) -> Region:
    if len(numbers) == 2:
        return Point(*numbers)
    x, y, width, height = numbers
    return Box(x, y, x + width, y + height)


def test_golden_rows_features_and_a_mixed_batch() -> None:
    folder, facts, expected = golden(CASE)
    shard = torch.load(
        folder / "checkpoint/consolidated.00-of-02.model.pth", weights_only=True, mmap=True
    )["model"]
    names = {"pe_layer.positional_encoding_gaussian_matrix": "matrix"}
    encoder = RECIPE.modalities["region"].branches[0].encoders[0].build()
    start = "llma.vp_encoder."
    stored = {k.removeprefix(start): v.float() for k, v in shard.items() if k.startswith(start)}
    encoder.load_state_dict({names.get(k, k): v for k, v in stored.items()})
    items: list[Tensor] = []
    for i, asked in enumerate(facts["results"]["sparse_vp"]):
        # The reference cuts the list of a call to its ten slots; here more are refused before.
        regions = [region_of(numbers) for numbers in asked["vps"][:SLOTS]]
        items.append(item(regions, *asked["size_wh"]))
        assert torch.equal(prompts(items[-1])[0], expected[f"vp.{i}.sparse"])
        torch.testing.assert_close(
            encoder(items[-1])[0], expected[f"vp.{i}.embed"], rtol=0, atol=1e-6
        )
    together = encoder(torch.cat([items[0], items[1]]))
    torch.testing.assert_close(
        together, torch.stack([expected["vp.0.embed"], expected["vp.1.embed"]]), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("size", [(320, 213), (213, 320), (101, 100), (100, 101), (64, 64)])
def test_rows_are_rounded_as_python_rounds_the_exact_fraction(size: tuple[int, int]) -> None:
    width, height = size
    side, dx, dy = max(size), max(0, (height - width) // 2), max(0, (width - height) // 2)
    points = [(x, (x * 7) % height) for x in range(width)]
    for start in range(0, len(points), SLOTS):
        part = points[start : start + SLOTS]
        found = prompts(item([Point(x, y) for x, y in part], width, height))[0, : len(part)]
        wanted = [[round((x + dx) / side, 3), round((y + dy) / side, 3), -1, -1] for x, y in part]
        assert torch.equal(found, torch.tensor(wanted, dtype=torch.float32))


def test_fillers_are_of_the_kind_of_the_first_region() -> None:
    point, box = Point(1, 2), Box(1, 2, 30, 40)
    assert prompts(item([point, box], 100, 100))[0, 2:].tolist() == [[0, 0, -1, -1]] * 8
    assert prompts(item([box, point], 100, 100))[0, 2:].tolist() == [[0, 0, 0, 0]] * 8


def test_a_point_among_boxes_is_coded_as_a_box_and_alone_as_a_point() -> None:
    torch.manual_seed(0)
    encoder = PointsBoxes(width=16, slots=SLOTS).build()
    assert isinstance(encoder, PointsBoxesEncoder)
    alone = encoder(item([Point(10, 20)], 100, 100))[0, 0]
    among = encoder(item([Box(1, 2, 30, 40), Point(10, 20)], 100, 100))[0, 1]
    assert not torch.allclose(alone, among)
    expected = encoder._boxes(torch.tensor([[[0.1, 0.2, -1.0, -1.0]]]))[0, 0]
    torch.testing.assert_close(among, expected)


def test_a_point_at_the_corner_counts_as_filler() -> None:
    torch.manual_seed(0)
    encoder = PointsBoxes(width=16, slots=SLOTS).build()
    found = encoder(item([Point(0, 0), Point(50, 50)], 100, 100))[0]
    torch.testing.assert_close(found[0], found[2])
    assert not torch.allclose(found[0], found[1])


def stroke_mask(rows: slice, columns: slice) -> Mask:
    pixels = np.zeros((100, 100), dtype=bool)
    pixels[rows, columns] = True
    return Mask(pixels)


@pytest.mark.parametrize(
    ("region", "corners"),
    [
        (stroke_mask(slice(5, 8), slice(10, 31)), (10, 5, 30, 7)),
        (stroke_mask(slice(5, 6), slice(10, 11)), (10, 5, 10, 5)),
        (Polygon(((10, 5), (30.5, 5), (30.5, 20))), (10, 5, 30, 19)),
        (Stroke(((10, 20), (40, 60)), width=4), (8, 18, 41, 61)),
        (Stroke(((1, 20), (99, 60)), width=10), (0, 15, 99, 64)),
    ],
)
def test_a_drawing_becomes_the_box_of_its_pixels_inclusive(
    region: Region, corners: tuple[int, ...]
) -> None:
    assert prompts(item([region], 100, 100))[0, 0].tolist() == pytest.approx(
        [v / 100 for v in corners], abs=1e-7
    )


def test_golden_drawn_layers() -> None:
    folder, facts, expected = golden(CASE)
    demo: dict[str, Any] = facts["results"]["demo"]
    masks = []
    for name in demo["layers"]:
        # A painted pixel is one whose channels do not add up to zero.
        layer = np.asarray(Image.open(folder / "inputs" / name).convert("RGBA")).sum(axis=-1) > 0
        if layer.any():
            masks.append(Mask(layer))
    with Image.open(folder / "inputs" / demo["image"]) as picture:
        size = picture.size
    assert torch.equal(prompts(item(list(masks), *size))[0], expected["demo.freeform_sparse"])


def test_other_recipes_keep_the_shape_of_a_drawing() -> None:
    row = RegionOpener().encode(stroke_mask(slice(5, 8), slice(10, 31)), Frame.whole(100, 100))
    assert row[0] == 4
    assert row[1:5].tolist() == pytest.approx([0.1, 0.05, 0.31, 0.08])


def test_region_pool_reads_cells_where_their_pixels_lie() -> None:
    """Fraction 0 is the outer edge of the first cell: the middle of cell k of n lies at (k + 1/2) / n."""
    columns = 4
    spec = RegionPool(source="image")
    encoder = RegionPoolEncoder(spec, Features(columns * columns, 1, (columns, columns)))
    torch.nn.init.zeros_(encoder.kinds.weight)
    ramp = torch.arange(float(columns)).expand(1, 1, columns, columns)
    for cell in range(columns):
        row = torch.zeros(1, 1, 37)
        row[..., 5:].view(1, 1, -1, 2)[..., 0] = (cell + 0.5) / columns
        found = encoder(row, ramp)
        assert found[0, 0, 0].item() == pytest.approx(cell, abs=1e-6)


def test_region_pool_between_two_cells_is_halfway() -> None:
    encoder = RegionPoolEncoder(RegionPool(source="image"), Features(4, 1, (2, 2)))
    torch.nn.init.zeros_(encoder.kinds.weight)
    source = torch.tensor([[[[0.0, 8.0], [0.0, 8.0]]]])
    row = torch.zeros(1, 1, 37)
    row[..., 5:] = (
        3 / 8
    )  # a quarter of the way from the middle of the first cell to that of the second
    assert encoder(row, source)[0, 0, 0].item() == pytest.approx(2.0)
