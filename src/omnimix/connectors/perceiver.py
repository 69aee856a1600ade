"""The perceiver resampler of Flamingo (arXiv 2204.14198): learned latents look at the features.

State keys are those of OpenFlamingo and what is made from it: `latents`, `layers.L.0.{norm_media,norm_latents,to_q,to_kv,to_out}`, `layers.L.1.{0,1,3}`, `norm`,
`projection`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Gt
from jaxtyping import Bool, Float
from torch import Tensor, nn

from omnimix.connectors.base import Connector, ConnectorSpec


class LatentAttention(nn.Module):
    """Latents as queries; features followed by the latents themselves as keys and values."""

    def __init__(self, width: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * dim_head
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(
        self,
        features: Float[Tensor, "tiles n width"],
        latents: Float[Tensor, "tiles m width"],
        visible: Bool[Tensor, "tiles 1 1 keys"] | None,
    ) -> Float[Tensor, "tiles m width"]:
        latents = self.norm_latents(latents)
        keys, values = self.to_kv(torch.cat([self.norm_media(features), latents], dim=1)).chunk(
            2, dim=-1
        )
        seen = F.scaled_dot_product_attention(
            self._split(self.to_q(latents)),
            self._split(keys),
            self._split(values),
            attn_mask=visible,
        )
        return cast(Tensor, self.to_out(seen.transpose(1, 2).flatten(2)))

    def _split(self, x: Tensor) -> Tensor:
        """`[tiles, n, heads * d] -> [tiles, heads, n, d]`."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


def _feed_forward(width: int, mult: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, mult * width, bias=False),
        nn.GELU(),
        nn.Linear(mult * width, width, bias=False),
    )


class PerceiverResampler(Connector):
    """Any number of features to a fixed number of latents, then to the language model's width."""

    def __init__(self, spec: Perceiver, width_in: int, width_out: int) -> None:
        super().__init__()
        self.tokens_out = spec.latents
        self.latents = nn.Parameter(torch.randn(spec.latents, width_in))
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    LatentAttention(width_in, spec.heads, spec.dim_head),
                    _feed_forward(width_in, spec.ff_mult),
                ]
            )
            for _ in range(spec.depth)
        )
        self.norm = nn.LayerNorm(width_in)
        self.projection = nn.Linear(width_in, width_out)

    def forward(
        self,
        features: Float[Tensor, "tiles n width_in"],
        mask: Bool[Tensor, "tiles n"] | None = None,
    ) -> Float[Tensor, "tiles m width_out"]:
        latents = self.latents.expand(features.shape[0], -1, -1)
        visible = None
        if mask is not None:
            # The latents always see themselves, so a tile of nothing but padding has a result too.
            visible = F.pad(mask.bool(), (0, self.tokens_out), value=True)[:, None, None, :]
        for attention, feed_forward in cast("Iterable[tuple[nn.Module, nn.Module]]", self.layers):
            latents = attention(features, latents, visible) + latents
            latents = feed_forward(latents) + latents
        return cast(Tensor, self.projection(self.norm(latents)))


class Perceiver(ConnectorSpec):
    """Words of the resampler; the defaults are the sizes of arXiv 2408.08872.

    Attributes:
        latents: learned vectors, and so the tokens that come out of a tile.
        depth: layers, each of attention and a feed-forward part.
        heads: of an attention.
        dim_head: width of a head.
        ff_mult: width of the feed-forward part, as a multiple of the features' width.
    """

    kind: Literal["perceiver"] = "perceiver"
    latents: Annotated[int, Gt(0)] = 128
    depth: Annotated[int, Gt(0)] = 6
    heads: Annotated[int, Gt(0)] = 16
    dim_head: Annotated[int, Gt(0)] = 96
    ff_mult: Annotated[int, Gt(0)] = 4

    def build(self, tokens_in: int, width_in: int, width_out: int) -> Connector:
        return PerceiverResampler(self, width_in, width_out)
