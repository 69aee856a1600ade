"""Picture steps: sizes, offsets, and that the frame says where every pixel went."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from pydantic import ValidationError

from omnimix.errors import MediaError, RecipeError
from omnimix.media import steps as steps_module
from omnimix.media.steps import (
    CentreCrop,
    Letterbox,
    Pad,
    Resize,
    ResizeCrop,
    Rounding,
    crop_offset,
)
from omnimix.media.tensor_steps import Normalize, Quadrants, Renormalize, TensorResize
from omnimix.media.tiles import Frame, Step, Tiles
from omnimix.media.tiling import AnyRes

CHAINS: list[tuple[Step, ...]] = [
    (Resize(size=64),),
    (Resize(size=(80, 48), interpolation="bilinear"),),
    (Pad(), Resize(size=64)),
    (Letterbox(size=64),),
    (Letterbox(size=56, shortest_edge=62),),
    (ResizeCrop(size=48, shortest_edge=64),),
    (ResizeCrop(size=48, rounding="floor"),),
    (CentreCrop(size=(60, 300)),),
    (Pad(), ResizeCrop(size=56, shortest_edge=64), CentreCrop(size=50)),
    (AnyRes(size=64),),
]


def marked(width: int, height: int, x: int, y: int) -> Image.Image:
    """Black with a white square of 9 pixels whose middle is at (x + 0.5, y + 0.5)."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[y - 4 : y + 5, x - 4 : x + 5] = 255
    return Image.fromarray(pixels)


@settings(deadline=None, max_examples=60)
@given(
    chain=st.sampled_from(CHAINS),
    width=st.integers(40, 160),
    height=st.integers(40, 160),
    at=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_marked_pixel_lands_where_the_frame_says(
    chain: tuple[Step, ...], width: int, height: int, at: tuple[float, float]
) -> None:
    x, y = 4 + int(at[0] * (width - 9)), 4 + int(at[1] * (height - 9))
    tiles = reduce(lambda t, step: step(t), chain, Tiles.of(marked(width, height, x, y)))
    tile = np.asarray(tiles.pictures[0])[..., 0].astype(float)
    u, v = tiles.frame.place(x + 0.5, y + 0.5)
    left, top = tiles.frame.place(x - 4, y - 4)
    right, bottom = tiles.frame.place(x + 5, y + 5)
    if min(left, top) < 0.06 or max(right, bottom) > 0.94:
        return  # cut off by a crop, or smeared at the border: its middle cannot be measured
    rows, columns = np.mgrid[: tile.shape[0], : tile.shape[1]] + 0.5
    assert abs((tile * columns).sum() / tile.sum() - u * tile.shape[1]) < 0.6
    assert abs((tile * rows).sum() / tile.sum() - v * tile.shape[0]) < 0.6
    assert tiles.frame.back(u, v) == pytest.approx((x + 0.5, y + 0.5))
    assert tiles.size == (width, height)


@given(length=st.integers(1, 999), wanted=st.integers(1, 999))
def test_crop_offset_is_centred(length: int, wanted: int) -> None:
    roundings: list[Rounding] = ["even", "floor"]
    for rounding in roundings:
        offset = crop_offset(length, wanted, rounding)
        assert abs(2 * offset - (length - wanted)) <= 1
    assert crop_offset(7, 4, "even") == 2
    assert crop_offset(7, 4, "floor") == 1


def test_pad_puts_the_odd_pixel_last() -> None:
    tiles = Pad(fill=(1, 2, 3))(Tiles.of(Image.new("RGB", (4, 7), (255, 255, 255))))
    square = np.asarray(tiles.pictures[0])
    assert square.shape == (7, 7, 3)
    assert (square[:, 1:5] == 255).all()
    assert (square[:, [0, 5, 6]] == (1, 2, 3)).all()


def test_a_square_picture_is_not_copied_by_pad() -> None:
    picture = Image.new("RGB", (5, 5))
    assert Pad()(Tiles.of(picture)).pictures[0] is picture


def test_long_strips_do_not_exhaust_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (9, 300, 3), dtype=np.uint8)
    strip = Tiles.of(Image.fromarray(noise))
    usual = ResizeCrop(size=32)(strip).tensor()
    monkeypatch.setattr(steps_module, "MOST_PIXELS", 1000)
    windowed = ResizeCrop(size=32)(strip).tensor()
    assert (usual.int() - windowed.int()).abs().max() <= 1
    for step in (Pad(), Letterbox(size=32)):
        with pytest.raises(MediaError, match="too long to be padded"):
            step(strip)


def test_shorter_below_size_is_refused() -> None:
    with pytest.raises(ValidationError, match="less than size"):
        ResizeCrop(size=224, shortest_edge=200)


@pytest.mark.parametrize("kind", [Resize, ResizeCrop, Letterbox, CentreCrop, AnyRes])
def test_size_must_be_positive(kind: type[Step]) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate({"size": 0})


@given(width=st.integers(1, 3000), height=st.integers(1, 3000))
def test_anyres_takes_one_of_its_grids(width: int, height: int) -> None:
    step = AnyRes(size=384)
    assert step.best_grid(width, height) in step.grids


def test_anyres_prefers_the_earlier_grid_on_a_tie() -> None:
    assert AnyRes(size=10, grids=((1, 2), (2, 1))).best_grid(10, 10) == (1, 2)
    assert AnyRes(size=10, grids=((2, 1), (1, 2))).best_grid(10, 10) == (2, 1)


def test_anyres_starts_from_one_picture() -> None:
    tiles = AnyRes(size=8)(Tiles.of(Image.new("RGB", (20, 10))))
    assert tiles.grid == (2, 1)
    assert len(tiles.pictures) == 3
    with pytest.raises(RecipeError, match="one picture"):
        AnyRes(size=8)(tiles)


def test_normalize_keeps_a_floating_tensor_and_its_input() -> None:
    step = Normalize(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    pixels = torch.rand(2, 3, 4, 4)
    before = pixels.clone()
    result = step.on_tensor(pixels)
    assert torch.equal(pixels, before)
    whole = (pixels * 255).round().to(torch.uint8)
    torch.testing.assert_close(step.on_tensor(whole), result, atol=0.01, rtol=0)


def test_renormalize_is_normalize_of_the_plain_pixels() -> None:
    one, other = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    plain = torch.rand(1, 3, 5, 5)
    first = Normalize(mean=one[0], std=one[1]).on_tensor(plain)
    step = Renormalize(from_mean=one[0], from_std=one[1], mean=other[0], std=other[1])
    wanted = Normalize(mean=other[0], std=other[1]).on_tensor(plain)
    torch.testing.assert_close(step.on_tensor(first), wanted)


def test_quadrants_of_nine_are_in_reading_order() -> None:
    pixels = torch.rand(1, 3, 12, 12)
    tiles = Quadrants(size=4, per_side=3)(Tiles.of(Image.new("RGB", (9, 9))).with_pixels(pixels))
    assert tiles.grid == (3, 3)
    assert tiles.frame == Frame.whole(9, 9)
    assert tiles.tensor().shape == (10, 3, 4, 4)
    assert torch.equal(tiles.tensor()[6], pixels[0, :, 4:8, 8:12])


def test_quadrants_of_a_batch_stay_together() -> None:
    pixels = torch.rand(2, 3, 8, 8)
    step = Quadrants(size=4)
    each = torch.cat([step.on_tensor(p[None]) for p in pixels])
    assert torch.equal(step.on_tensor(pixels), each)


@pytest.mark.parametrize(
    "step",
    [
        Quadrants(size=4),
        TensorResize(size=4),
        Renormalize(from_mean=(0, 0, 0), from_std=(1, 1, 1), mean=(0, 0, 0), std=(1, 1, 1)),
    ],
)
def test_whole_numbers_are_refused(step: Quadrants | TensorResize | Renormalize) -> None:
    with pytest.raises(RecipeError, match="normalize"):
        step.on_tensor(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_quadrants_refuse_another_size() -> None:
    with pytest.raises(RecipeError, match="8 x 8"):
        Quadrants(size=4).on_tensor(torch.zeros(1, 3, 9, 9))
