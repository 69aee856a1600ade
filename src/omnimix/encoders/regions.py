"""Region encoders: a drawn point, box, polygon, stroke or mask becomes one vector.

A region arrives as a row of `omnimix.media.region.REGION_WIDTH` numbers: its kind, its bounds and 16
points inside it, all as fractions of the picture's first tile.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from omnimix.encoders.base import Encoder, EncoderSpec, Features
from omnimix.errors import RecipeError
from omnimix.media.region import REGION_WIDTH

KINDS = 5


class PointsBoxesEncoder(Encoder):
    """Positions alone, in random Fourier features (Tancik et al. 2020; SAM's prompt encoder).

    Filler rows (kind -1) get a vector of their own.
    """

    matrix: Tensor

    def __init__(self, spec: PointsBoxes) -> None:
        super().__init__()
        half = spec.width // 4
        self.register_buffer("matrix", torch.randn(2, half))
        self.kinds = nn.Embedding(KINDS + 1, spec.width)
        self.features = Features(spec.slots, spec.width)

    def forward(self, tiles: Float[Tensor, "tiles slots 37"]) -> Float[Tensor, "tiles slots d"]:
        corners = tiles[..., 1:5].unflatten(-1, (2, 2)).to(self.matrix.dtype)
        waves = 2 * math.pi * (2 * corners - 1) @ self.matrix
        code = torch.cat([waves.sin(), waves.cos()], dim=-1).flatten(-2)
        kind = tiles[..., 0].long() + 1
        known = torch.where(kind[..., None] > 0, code, torch.zeros_like(code))
        found: Tensor = known + self.kinds(kind)
        return found


class PointsBoxes(EncoderSpec):
    """Regions by their coordinates; `slots` regions stand in one item."""

    kind: Literal["points_boxes"] = "points_boxes"
    width: int = 512
    slots: int = 1

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


__all__ = ["REGION_WIDTH", "PointsBoxes", "RegionPool"]
