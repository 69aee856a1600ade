"""Connectors without attention: every feature token is projected on its own.

All are stacks of plain layers whose parameters are named `0.weight`, `2.weight`, ... as in the
released checkpoints. GELU is the exact (erf) one and every linear layer has a bias.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Gt
from jaxtyping import Bool, Float
from torch import Tensor, nn

from omnimix.connectors.base import Connector, ConnectorSpec


class Layers(Connector):
    """Layers one after the other, with the state keys of a bare `nn.Sequential`."""

    def __init__(self, layers: list[nn.Module], tokens_out: int) -> None:
        super().__init__()
        self.tokens_out = tokens_out
        for index, layer in enumerate(layers):
            self.add_module(str(index), layer)

    def forward(
        self,
        features: Float[Tensor, "tiles n width_in"],
        mask: Bool[Tensor, "tiles n"] | None = None,
    ) -> Float[Tensor, "tiles m width_out"]:
        for layer in self.children():
            features = layer(features)
        return features


class PerToken(Connector):
    """One stack per output token, all on the same input; outputs joined on the token axis."""

    def __init__(self, stacks: list[nn.Sequential], tokens_out: int) -> None:
        super().__init__()
        self.tokens_out = tokens_out
        self.mlps = nn.ModuleList(stacks)

    def forward(
        self,
        features: Float[Tensor, "tiles n width_in"],
        mask: Bool[Tensor, "tiles n"] | None = None,
    ) -> Float[Tensor, "tiles m width_out"]:
        return torch.cat([mlp(features) for mlp in self.mlps], dim=1)


def _mlp_layers(width_in: int, width_out: int, depth: int) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Linear(width_in, width_out)]
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(width_out, width_out)]
    return layers


class Linear(ConnectorSpec):
    """One linear layer. State keys `0.weight`, `0.bias`."""

    kind: Literal["linear"] = "linear"

    def build(self, tokens_in: int, width_in: int, width_out: int) -> Connector:
        return Layers([nn.Linear(width_in, width_out)], tokens_in)


class Mlp(ConnectorSpec):
    """`depth` linear layers with GELU between them; the hidden width is the language model's.

    State keys `0.`, `2.`, ..., the places between them being activations.

    Attributes:
        depth: linear layers; 2 by default, 1 is `linear`.
    """

    kind: Literal["mlp"] = "mlp"
    depth: Annotated[int, Gt(0)] = 2

    def build(self, tokens_in: int, width_in: int, width_out: int) -> Connector:
        return Layers(_mlp_layers(width_in, width_out, self.depth), tokens_in)


class FusedMlp(ConnectorSpec):
    """The projector of arXiv:2402.07865 for two encoders: V -> 4V -> D -> D. State keys `0.`, `2.`, `4.`."""

    kind: Literal["fused_mlp"] = "fused_mlp"

    def build(self, tokens_in: int, width_in: int, width_out: int) -> Connector:
        layers = [
            nn.Linear(width_in, 4 * width_in),
            nn.GELU(),
            nn.Linear(4 * width_in, width_out),
            nn.GELU(),
            nn.Linear(width_out, width_out),
        ]
        return Layers(layers, tokens_in)


class LinearNorm(ConnectorSpec):
    """A linear layer, then LayerNorm (arXiv 2311.07575). State keys `0.`, `1.`.

    Attributes:
        eps: added to the variance by LayerNorm; 1e-5 by default.
    """

    kind: Literal["linear_norm"] = "linear_norm"
    eps: Annotated[float, Gt(0)] = 1e-5

    def build(self, tokens_in: int, width_in: int, width_out: int) -> Connector:
        layers = [nn.Linear(width_in, width_out), nn.LayerNorm(width_out, eps=self.eps)]
        return Layers(layers, tokens_in)


class TokenMlp(ConnectorSpec):
    """`tokens` MLPs on the same input vector, each of which makes one token.

    More than one input vector gives `tokens * n` outputs, the first MLP's first. State keys
    `mlps.T.0.`, `mlps.T.2.` for token T.

    Attributes:
        tokens: how many tokens are made of one input vector.
        depth: linear layers of each MLP; 2 by default.
    """

    kind: Literal["token_mlp"] = "token_mlp"
    tokens: Annotated[int, Gt(0)]
    depth: Annotated[int, Gt(0)] = 2

    def build(self, tokens_in: int, width_in: int, width_out: int) -> Connector:
        stacks = [
            nn.Sequential(*_mlp_layers(width_in, width_out, self.depth)) for _ in range(self.tokens)
        ]
        return PerToken(stacks, self.tokens * tokens_in)
