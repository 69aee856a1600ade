"""Position embeddings on a finer grid than a tile's, brought to it in every forward.

The original DINOv2 code keeps its 37 x 37 table and samples it anew for each picture size. Its bicubic
sampling is told a *factor*, (side + 0.1) / 37, not a size, which moves every sampling point a little.
The table stays as it was stored, so that a checkpoint can be written back.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from omnimix.config import Spec
from omnimix.errors import RecipeError


class PositionsSpec(Spec):
    """The grid that a table of positions is stored on.

    Attributes:
        grid: rows (and columns) of the stored table.
        offset: added to the wanted side before the factor of the sampling is taken.
    """

    grid: Annotated[int, Gt(0)]
    offset: float = 0.1

    def install(self, trunk: Any) -> None:
        """Give a freshly built timm trunk such a table in place of its own.

        Raises:
            RecipeError: the trunk has no table of positions on a square grid.
        """
        own = getattr(trunk, "pos_embed", None)
        if not isinstance(own, nn.Parameter) or own.ndim != 3:
            raise RecipeError(
                "the trunk has no table of positions",
                where="positions",
                hint="leave 'positions' out",
            )
        rows, columns = trunk.patch_embed.grid_size
        prefix = own.shape[1] - rows * columns
        table = torch.empty(1, prefix + self.grid**2, own.shape[2]).normal_(std=0.02)
        trunk.pos_embed = nn.Parameter(table)
        sampled = Sampled(prefix, self.grid, (rows, columns), self.offset)
        # "unsafe" only says that the shape changes, which it does.
        parametrize.register_parametrization(trunk, "pos_embed", sampled, unsafe=True)


NAME = "parametrizations.pos_embed.original"
"""Where the stored table lies inside the trunk."""


class Sampled(nn.Module):
    """The stored table on the grid of the tiles; tokens in front of the patches keep their positions."""

    def __init__(self, prefix: int, grid: int, wanted: tuple[int, int], offset: float) -> None:
        super().__init__()
        self.prefix = prefix
        self.grid = grid
        self.wanted = wanted
        self.factors = tuple((side + offset) / grid for side in wanted)

    def forward(self, table: Float[Tensor, "1 n d"]) -> Float[Tensor, "1 m d"]:
        if self.wanted == (self.grid, self.grid):
            return table
        front, patches = table[:, : self.prefix], table[:, self.prefix :]
        cells = patches.float().reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        moved = functional.interpolate(
            cells, scale_factor=list(self.factors), mode="bicubic", align_corners=False
        )
        patches = moved.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)
        return torch.cat([front, patches], dim=1)
