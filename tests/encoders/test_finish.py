"""Finishing steps: the sizes they promise are those they give."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, strategies as st

from omnimix.encoders.base import Features, Finish
from omnimix.encoders.finish import DropPrefix, Norm, PixelShuffle, PrependMean, RepeatCells
from omnimix.errors import RecipeError

GRIDDED: list[Finish] = [
    DropPrefix(),
    PixelShuffle(),
    PixelShuffle(factor=1),
    RepeatCells(),
    RepeatCells(factor=3),
    PrependMean(),
    Norm(),
]


@given(step=st.sampled_from(GRIDDED), rows=st.integers(1, 4), columns=st.integers(1, 4))
def test_promised_sizes_are_given(step: Finish, rows: int, columns: int) -> None:
    before = Features(4 * rows * columns, 3, (2 * rows, 2 * columns))
    after = step.sizes(before)
    out = step.build(before)(torch.rand(2, before.tokens, before.width))
    assert out.shape == (2, after.tokens, after.width)
    assert after.grid is not None
    assert after.grid[0] * after.grid[1] + after.prefix == after.tokens


def test_drop_prefix() -> None:
    before = Features(9, 2, (2, 2), prefix=5)
    x = torch.rand(1, 9, 2)
    assert DropPrefix().sizes(before) == Features(4, 2, (2, 2))
    assert torch.equal(DropPrefix().build(before)(x), x[:, 5:])


def test_pixel_shuffle_reads_blocks_row_by_row() -> None:
    before = Features(16, 1, (4, 4))
    assert PixelShuffle().sizes(before) == Features(4, 4, (2, 2))
    out = PixelShuffle().build(before)(torch.arange(16.0).reshape(1, 16, 1))
    assert out[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_repeat_cells() -> None:
    before = Features(4, 1, (2, 2))
    out = RepeatCells().build(before)(torch.arange(4.0).reshape(1, 4, 1))
    assert out[0, :, 0].reshape(4, 4).tolist() == [
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [2, 2, 3, 3],
        [2, 2, 3, 3],
    ]


def test_prepend_mean() -> None:
    before = Features(4, 3, (2, 2))
    x = torch.rand(2, 4, 3)
    assert PrependMean().sizes(before) == Features(5, 3, (2, 2), prefix=1)
    out = PrependMean().build(before)(x)
    assert torch.equal(out[:, 0], x.mean(1))
    assert torch.equal(out[:, 1:], x)


def test_norm() -> None:
    out = Norm().build(Features(4, 8))(torch.rand(1, 4, 8))
    torch.testing.assert_close(out.mean(-1), torch.zeros(1, 4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("step", [PixelShuffle(), RepeatCells()])
@pytest.mark.parametrize(
    ("features", "word"), [(Features(5, 2, (2, 2), 1), "drop_prefix"), (Features(4, 2), "grid")]
)
def test_what_needs_a_grid_refuses_prefix_and_queries(
    step: Finish, features: Features, word: str
) -> None:
    with pytest.raises(RecipeError, match=word):
        step.sizes(features)
    with pytest.raises(RecipeError, match=word):
        step.build(features)


def test_other_refusals() -> None:
    with pytest.raises(RecipeError, match="3 x 4"):
        PixelShuffle().sizes(Features(12, 2, (3, 4)))
    with pytest.raises(RecipeError, match="drop_prefix"):
        PrependMean().sizes(Features(5, 2, (2, 2), 1))
