"""What a connector is: features of a tile to vectors the language model reads."""

from __future__ import annotations

import abc

from jaxtyping import Bool, Float
from torch import Tensor, nn

from omnimix.config import Held, Spec


class Connector(nn.Module, abc.ABC):
    """`[tiles, n, width_in] -> [tiles, m, width_out]`, m known when built."""

    tokens_out: int

    @abc.abstractmethod
    def forward(
        self,
        features: Float[Tensor, "tiles n width_in"],
        mask: Bool[Tensor, "tiles n"] | None = None,
    ) -> Float[Tensor, "tiles m width_out"]:
        """`mask` is True where a feature may be looked at; connectors without attention ignore it."""


class ConnectorSpec(Spec):
    """Words of a connector in a recipe; `build` makes it once the sizes on both sides are known.

    `weights` is where it begins in training: a hub id, a folder in the hub's layout or one file.

    Attributes:
        weights: where it begins in training: a hub id, a folder in the hub's layout or one file; None
            begins with fresh weights.
        dtype: the type that its weights are held in while they are frozen in training, `bfloat16` for half the
            memory; what learns is held in float32.
    """

    kind: str
    weights: str | None = None
    dtype: Held | None = None

    @abc.abstractmethod
    def build(self, tokens_in: int, width_in: int, width_out: int) -> Connector: ...
