"""Region encoders: a drawn point, box, polygon, stroke or mask becomes one vector.

A region arrives as a row of `omnimix.media.region.REGION_WIDTH` numbers: its kind, its bounds and 16
points inside it, all as fractions of the picture's first tile.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt, MultipleOf
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from omnimix.encoders.base import Encoder, EncoderSpec, Features
from omnimix.errors import RecipeError
from omnimix.media.region import REGION_WIDTH

KINDS = 5


class PointsBoxesEncoder(Encoder):
    """Points and boxes by their positions alone, in random Fourier features as SAM has them.

    The rules are those of the visual prompt encoder of arXiv 2403.20271. Two of them are quirks of the
    original, kept because the weights were trained with them: SAM's shift by half a pixel is added to
    fractions, and a real mark at the very corner (0, 0) counts as none.

    The names of the parameters are the original's. `point_embeddings` are what is added to a point: filler,
    real; `box_embeddings` to a box: filler, real (whole), first corner, second corner.
    """

    matrix: Tensor

    def __init__(self, spec: PointsBoxes) -> None:
        super().__init__()
        half = spec.width // 2
        self.register_buffer("matrix", torch.randn(2, half // 2))
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, half) for _ in range(2))
        sizes = (spec.width, spec.width, half, half)
        self.box_embeddings = nn.ModuleList(nn.Embedding(1, size) for size in sizes)
        self.up = nn.Linear(half, spec.width)
        nn.init.xavier_uniform_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.features = Features(spec.slots, spec.width)

    def forward(self, tiles: Float[Tensor, "tiles slots 37"]) -> Float[Tensor, "tiles slots d"]:
        rows = prompts(tiles).to(self.matrix.dtype)
        points = (rows[..., 2:] == -1).flatten(1).all(dim=1)
        return torch.where(points[:, None, None], self._points(rows), self._boxes(rows))

    def _points(self, rows: Float[Tensor, "tiles slots 4"]) -> Float[Tensor, "tiles slots d"]:
        real = (rows[..., :2] != 0).any(dim=-1, keepdim=True)
        filler, mark = _vectors(self.point_embeddings)
        found: Tensor = self.up(self._code(rows[..., :2]) + torch.where(real, mark, filler))
        return found

    def _boxes(self, rows: Float[Tensor, "tiles slots 4"]) -> Float[Tensor, "tiles slots d"]:
        filler, whole, first, second = _vectors(self.box_embeddings)
        corners = (self._code(rows[..., :2]) + first, self._code(rows[..., 2:]) + second)
        real = (rows != 0).any(dim=-1, keepdim=True)
        return torch.cat(corners, dim=-1) + torch.where(real, whole, filler)

    def _code(self, spots: Float[Tensor, "tiles slots 2"]) -> Float[Tensor, "tiles slots half"]:
        waves = 2 * math.pi * ((2 * (spots + 0.5) - 1) @ self.matrix)
        return torch.cat([waves.sin(), waves.cos()], dim=-1)


def _vectors(tables: nn.ModuleList) -> list[nn.Parameter]:
    return [table.get_parameter("weight") for table in tables]


def prompts(tiles: Float[Tensor, "tiles slots 37"]) -> Float[Tensor, "tiles slots 4"]:
    """Rows of regions as coordinates alone: a point is [x, y, -1, -1], a box its two corners.

    Fillers are of the kind of the item's first region: a point or a box at (0, 0).
    """
    kind = tiles[..., :1]
    kind = torch.where(kind < 0, kind[:, :1], kind)  # fillers are written as zeros
    spots, ends = tiles[..., 1:5].split(2, dim=-1)
    return torch.cat([spots, torch.where(kind == 0, torch.full_like(ends, -1.0), ends)], dim=-1)


class PointsBoxes(EncoderSpec):
    """Regions by their coordinates; `slots` regions stand in one item.

    Attributes:
        width: numbers of each region's vector, a multiple of 4.
        slots: regions of an item; fewer are filled up.
    """

    kind: Literal["points_boxes"] = "points_boxes"
    width: Annotated[int, MultipleOf(4), Gt(0)] = 512
    slots: Annotated[int, Gt(0)] = 1

    def build(self, source: Features | None = None) -> Encoder:
        return PointsBoxesEncoder(self)


class RegionPoolEncoder(Encoder):
    """The picture's features under the region, averaged, beside where it lies.

    Reading the features spares the language model the slow lesson of binding coordinates to places.
    """

    def __init__(self, spec: RegionPool, source: Features) -> None:
        super().__init__()
        self.waves = spec.waves
        self.kinds = nn.Embedding(KINDS + 1, source.width)
        nn.init.normal_(self.kinds.weight, std=0.02)
        self.features = Features(1, source.width + 8 * spec.waves)

    def forward(
        self,
        tiles: Float[Tensor, "tiles slots 37"],
        source: Float[Tensor, "tiles d rows columns"] | None = None,
    ) -> Float[Tensor, "tiles slots d2"]:
        if source is None:
            raise RecipeError("a region_pool encoder needs the feature map of a picture")
        slots = tiles.shape[1]
        points = tiles[..., 5:].reshape(tiles.shape[0], slots, -1, 2)
        # align_corners=False: fraction 0 is the outer edge of the first cell, as pixels are.
        grid = (points * 2 - 1).to(source.dtype)
        found = functional.grid_sample(
            source, grid, mode="bilinear", padding_mode="border", align_corners=False
        )
        pooled = found.mean(-1).transpose(1, 2)
        kind = self.kinds(tiles[..., 0].long() + 1)
        scales = math.pi * 2.0 ** torch.arange(self.waves, device=tiles.device)
        angles = tiles[..., 1:5, None] * scales
        where = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
        return torch.cat([pooled + kind.to(pooled.dtype), where.to(pooled.dtype)], dim=-1)


class RegionPool(EncoderSpec):
    """Regions by the features under them.

    Attributes:
        source: the modality whose feature map is read (its first branch's first encoder).
        waves: octaves of the position code.
    """

    kind: Literal["region_pool"] = "region_pool"
    source: str = "image"
    waves: int = 8
    looks_at: ClassVar[bool] = True

    def build(self, source: Features | None = None) -> Encoder:
        if source is None or source.grid is None:
            raise RecipeError(
                f"region_pool looks at {self.source!r}, which has no feature map on a grid",
                hint="name an earlier modality whose first encoder keeps its patches",
            )
        return RegionPoolEncoder(self, source)


__all__ = ["REGION_WIDTH", "PointsBoxes", "RegionPool", "prompts"]
