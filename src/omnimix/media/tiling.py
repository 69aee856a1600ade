"""Tiling: a picture as an overview and a grid of close-ups."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Literal, TypeAlias

from annotated_types import MinLen
from PIL import Image

from omnimix.errors import RecipeError
from omnimix.media.steps import BLACK, Colour, Filter, Side, resample
from omnimix.media.tiles import Step, Tiles

Grid: TypeAlias = tuple[Side, Side]

GRIDS: tuple[Grid, ...] = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""Columns and rows that LLaVA-NeXT chooses from, and arXiv 2408.08872 after it, in this order."""


class AnyRes(Step):
    """The whole picture squashed to a square, then the picture fitted into the best grid.

    The grid's tiles follow row by row, as in LLaVA-NeXT.

    Attributes:
        size: side of every tile in pixels.
        grids: columns and rows to choose from; on a full tie the earlier one is taken.
        fill: colour around a picture that does not fill its grid.
        interpolation: how pixels are mixed.
    """

    kind: Literal["anyres"] = "anyres"
    size: Side
    grids: Annotated[tuple[Grid, ...], MinLen(1)] = GRIDS
    fill: Colour = BLACK
    interpolation: Filter = "bicubic"

    def best_grid(self, width: int, height: int) -> Grid:
        """The grid that keeps most of the picture's pixels, then the one that wastes the least."""

        def merit(grid: Grid) -> tuple[int, int]:
            wide, high = grid[0] * self.size, grid[1] * self.size
            scale = min(wide / width, high / height)
            shown = min(int(width * scale) * int(height * scale), width * height)
            return shown, shown - wide * high

        return max(self.grids, key=merit)  # max returns the first of equals

    def fitted(self, picture: Image.Image, grid: Grid) -> Image.Image:
        """The picture as large as the grid allows, centred on the fill colour."""
        width, height = picture.size
        wide, high = grid[0] * self.size, grid[1] * self.size
        scale_x, scale_y = wide / width, high / height
        if scale_x < scale_y:
            size = (wide, min(math.ceil(height * scale_x), high))
        else:
            size = (min(math.ceil(width * scale_y), wide), high)
        canvas = Image.new("RGB", (wide, high), self.fill)
        resized = picture.resize(size, resample(self.interpolation))
        canvas.paste(resized, ((wide - size[0]) // 2, (high - size[1]) // 2))
        return canvas

    def __call__(self, tiles: Tiles) -> Tiles:
        """One tile to 1 + columns * rows; the frame stays, as the first shows the whole picture.

        Raises:
            RecipeError: the item is in several tiles already.
        """
        if len(tiles.pictures) != 1:
            raise RecipeError(
                f"anyres got {len(tiles.pictures)} tiles, it starts from one picture",
                hint="use one tiling step, before the tensor steps",
            )
        (picture,) = tiles.pictures
        grid = self.best_grid(*picture.size)
        canvas = self.fitted(picture, grid)
        s = self.size
        cut = [
            canvas.crop((column * s, row * s, (column + 1) * s, (row + 1) * s))
            for row in range(grid[1])
            for column in range(grid[0])
        ]
        whole = picture.resize((s, s), resample(self.interpolation))
        return replace(tiles, pictures=(whole, *cut), grid=grid)
