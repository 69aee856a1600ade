"""Arrangements: what happens to the features of one item's tiles between encoder and connector."""

from __future__ import annotations

import abc
import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from omnimix.config import Spec
from omnimix.errors import RecipeError


class Arrange(Spec):
    """Reorders the features of one item and says which of them show the picture and not padding."""

    kind: str

    @abc.abstractmethod
    def __call__(
        self,
        features: Float[Tensor, "tiles n d"],
        size: tuple[int, int],
        grid: tuple[int, int],
    ) -> tuple[Float[Tensor, "groups m d"], Bool[Tensor, "groups m"]]:
        """Features in groups, and a mask that is True where one may be looked at.

        Each group goes through the connector alone. Items may differ in m; the modality fills up the
        shorter ones and masks what it filled.

        Args:
            features: of all tiles of one item, the tile of the whole picture first.
            size: width and height of the original in pixels.
            grid: columns and rows of the tiles after the first.
        """

    def groups(self, tiles: int) -> int:
        """How many groups come out of an item of so many tiles."""
        return tiles


class RowBands(Arrange):
    """The tiles' features as horizontal bands of the whole picture (arXiv 2408.08872).

    The tiles are joined to one map of `rows * k` by `columns * k` features, which is then cut flat
    into groups of `k * k`. With more than one column a group is therefore no tile but a run of the
    map in reading order: released weights were trained this way. Features of the black border, put there to fit the grid, are masked. The first tile (the whole
    picture) is untouched.
    """

    kind: Literal["row_bands"] = "row_bands"

    def __call__(
        self,
        features: Float[Tensor, "tiles n d"],
        size: tuple[int, int],
        grid: tuple[int, int],
    ) -> tuple[Float[Tensor, "tiles n d"], Bool[Tensor, "tiles n"]]:
        """See `Arrange`.

        Raises:
            RecipeError: the features lie on no square grid, or the tiles do not fill `grid`.
        """
        tiles, n, width = features.shape
        mask = torch.ones(tiles, n, dtype=torch.bool, device=features.device)
        whole = _joined(self.kind, features, grid)
        if whole is None:
            return features, mask
        bands = whole.reshape(tiles - 1, n, width)
        kept = _kept(size, whole.shape[1], whole.shape[0])
        mask[1:] = kept.reshape(tiles - 1, n).to(features.device)
        return torch.cat([features[:1], bands]), mask


class Flat(Arrange):
    """One sequence of the first tile and the joined map of the others.

    What shows no picture is cut away instead of masked, and the connector sees the item as a whole, so that
    a perceiver gives the same number of tokens for every picture (arXiv 2408.08872, without sampling of tiles).
    """

    kind: Literal["flat"] = "flat"

    def __call__(
        self,
        features: Float[Tensor, "tiles n d"],
        size: tuple[int, int],
        grid: tuple[int, int],
    ) -> tuple[Float[Tensor, "1 m d"], Bool[Tensor, "1 m"]]:
        """See `Arrange`.

        Raises:
            RecipeError: the features lie on no square grid, or the tiles do not fill `grid`.
        """
        whole = _joined(self.kind, features, grid)
        flat = features[0]
        if whole is not None:
            kept = _kept(size, whole.shape[1], whole.shape[0])
            flat = torch.cat([flat, whole[kept.to(features.device)]])
        return flat[None], torch.ones(1, len(flat), dtype=torch.bool, device=features.device)

    def groups(self, tiles: int) -> int:
        return 1


def _joined(
    kind: str, features: Float[Tensor, "tiles n d"], grid: tuple[int, int]
) -> Float[Tensor, "height width d"] | None:
    """The map that the tiles after the first make up; None where there is but one tile."""
    tiles, n, width = features.shape
    columns, rows = grid
    side = math.isqrt(n)
    if tiles != 1 + columns * rows:
        raise RecipeError(
            f"{kind} got {tiles} tiles for a grid of {columns} x {rows}",
            hint="put the step anyres in the modality's steps",
        )
    if tiles == 1:
        return None
    if side * side != n:
        raise RecipeError(
            f"{kind} needs features on a square grid, {n} is no square",
            hint="drop the prefix tokens with the finishing step drop_prefix",
        )
    cells = features[1:].reshape(rows, columns, side, side, width)
    return cells.permute(0, 2, 1, 3, 4).reshape(rows * side, columns * side, width)


def _kept(size: tuple[int, int], map_width: int, map_height: int) -> Bool[Tensor, "rows columns"]:
    """Where the picture lies on a map that it was fitted into, centred; True inside."""
    width, height = size
    kept = torch.zeros(map_height, map_width, dtype=torch.bool)
    if width / height > map_width / map_height:
        border = (map_height - int(height * (map_width / width))) // 2
        kept[border : map_height - border] = True
    else:
        border = (map_width - int(width * (map_height / height))) // 2
        kept[:, border : map_width - border] = True
    return kept
