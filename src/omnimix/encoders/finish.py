"""Finishing steps: what is done to an encoder's features before encoders are joined.

Each knows the sizes it makes before anything runs, so that a recipe that does not fit is refused
when it is read.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, nn

from omnimix.encoders.base import Features, Finish
from omnimix.errors import RecipeError


def _grid(features: Features, word: str) -> tuple[int, int]:
    """The grid that a step needs, without tokens in front of it.

    Raises:
        RecipeError: prefix tokens are still there, or the features lie on no grid.
    """
    if features.prefix:
        raise RecipeError(
            f"{word} got {features.prefix} prefix tokens in front of the patches ({features})",
            hint="put drop_prefix before it",
        )
    if features.grid is None:
        raise RecipeError(
            f"{word} needs features that lie on a grid, got {features}",
            hint="remove it, or use an encoder that gives patches",
        )
    return features.grid


class DropPrefixModule(nn.Module):
    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, x: Float[Tensor, "tiles n d"]) -> Float[Tensor, "tiles n2 d"]:
        return x[:, self.prefix :]


class DropPrefix(Finish):
    """Removes class token and registers."""

    kind: Literal["drop_prefix"] = "drop_prefix"

    def sizes(self, features: Features) -> Features:
        return Features(features.tokens - features.prefix, features.width, features.grid)

    def build(self, features: Features) -> nn.Module:
        return DropPrefixModule(features.prefix)


class PixelShuffleModule(nn.Module):
    def __init__(self, grid: tuple[int, int], factor: int) -> None:
        super().__init__()
        self.grid = grid
        self.factor = factor

    def forward(self, x: Float[Tensor, "tiles n d"]) -> Float[Tensor, "tiles n2 d2"]:
        (rows, columns), f = self.grid, self.factor
        blocks = x.reshape(x.shape[0], rows // f, f, columns // f, f, x.shape[-1])
        return blocks.permute(0, 1, 3, 2, 4, 5).reshape(
            x.shape[0], (rows // f) * (columns // f), f * f * x.shape[-1]
        )


class PixelShuffle(Finish):
    """Every block of `factor` x `factor` patches becomes one token, `factor`^2 times as wide.

    Blocks are in reading order, and so are the patches of a block within its token.

    Attributes:
        factor: patches along each side of a block; 2 by default.
    """

    kind: Literal["pixel_shuffle"] = "pixel_shuffle"
    factor: Annotated[int, Gt(0)] = 2

    def sizes(self, features: Features) -> Features:
        """Sizes after joining.

        Raises:
            RecipeError: the grid is no multiple of `factor`, or prefix tokens are still there.
        """
        rows, columns = _grid(features, "pixel_shuffle")
        f = self.factor
        if rows % f or columns % f:
            raise RecipeError(
                f"pixel_shuffle with factor {f} cannot divide a grid of {rows} x {columns}",
                hint="choose a picture size whose patches per side are a multiple of the factor",
            )
        grid = (rows // f, columns // f)
        return Features(grid[0] * grid[1], features.width * f * f, grid)

    def build(self, features: Features) -> nn.Module:
        self.sizes(features)
        return PixelShuffleModule(_grid(features, "pixel_shuffle"), self.factor)


class RepeatCellsModule(nn.Module):
    def __init__(self, grid: tuple[int, int], factor: int) -> None:
        super().__init__()
        self.grid = grid
        self.factor = factor

    def forward(self, x: Float[Tensor, "tiles n d"]) -> Float[Tensor, "tiles n2 d"]:
        cells = x.reshape(x.shape[0], *self.grid, x.shape[-1])
        for axis in (1, 2):
            cells = cells.repeat_interleave(self.factor, dim=axis)
        return cells.flatten(1, 2)


class RepeatCells(Finish):
    """Every cell is repeated `factor` x `factor` times, so that a coarse grid meets a finer one.

    So ConvNeXt's 8 x 8 meets the 16 x 16 of ViTs beside it (arXiv 2311.07575).

    Attributes:
        factor: copies of a cell along each side; 2 by default.
    """

    kind: Literal["repeat_cells"] = "repeat_cells"
    factor: Annotated[int, Gt(0)] = 2

    def sizes(self, features: Features) -> Features:
        rows, columns = _grid(features, "repeat_cells")
        grid = (rows * self.factor, columns * self.factor)
        return Features(grid[0] * grid[1], features.width, grid)

    def build(self, features: Features) -> nn.Module:
        return RepeatCellsModule(_grid(features, "repeat_cells"), self.factor)


class PrependMeanModule(nn.Module):
    def forward(self, x: Float[Tensor, "tiles n d"]) -> Float[Tensor, "tiles n2 d"]:
        return torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)


class PrependMean(Finish):
    """The mean of all tokens goes in front, where other encoders have their class token."""

    kind: Literal["prepend_mean"] = "prepend_mean"

    def sizes(self, features: Features) -> Features:
        if features.prefix:
            raise RecipeError(
                f"prepend_mean got {features.prefix} prefix tokens in front ({features})",
                hint="put drop_prefix before it",
            )
        return Features(features.tokens + 1, features.width, features.grid, prefix=1)

    def build(self, features: Features) -> nn.Module:
        self.sizes(features)
        return PrependMeanModule()


class Norm(Finish):
    """A learned LayerNorm over the width.

    Attributes:
        eps: added to the variance; 1e-5 by default.
    """

    kind: Literal["norm"] = "norm"
    eps: Annotated[float, Gt(0)] = 1e-5

    def sizes(self, features: Features) -> Features:
        return features

    def build(self, features: Features) -> nn.Module:
        return nn.LayerNorm(features.width, eps=self.eps)
