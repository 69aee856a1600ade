"""Encoders of texts: BERT and its like, one vector for a chunk of text or one for each token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from omnimix._transformers import restore_ids
from omnimix.encoders.base import Encoder, EncoderSpec, Features
from omnimix.encoders.hub_words import completed, loaded
from omnimix.errors import RecipeError
from omnimix.hf_config import known, make


class TextTower(Encoder):
    """The mean of the last states over the tokens that are there.

    Parameters have transformers' names behind `tower.`.
    """

    def __init__(self, spec: TextEncoder) -> None:
        super().__init__()
        from transformers import AutoModel

        config = make(spec.config)
        words = {"add_pooling_layer": False} if config.model_type in _POOLED else {}
        self.tower: nn.Module = AutoModel.from_config(config, attn_implementation="sdpa", **words)
        self.most = int(getattr(config, "max_position_embeddings", 0)) or None
        self.features = Features(1, int(config.hidden_size))

    def forward(self, tiles: Int[Tensor, "tiles tokens"]) -> Float[Tensor, "tiles 1 d"]:
        if self.most is not None and tiles.shape[1] > self.most:
            raise RecipeError(
                f"a text of {tiles.shape[1]} tokens is longer than the encoder's {self.most}",
                hint="lower the word 'max_length' of the step tokenize",
            )
        there = tiles >= 0
        states: Tensor = self.tower(
            input_ids=tiles.clamp(min=0), attention_mask=there.long()
        ).last_hidden_state
        weights = there.to(states.dtype)[..., None]
        return (states * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1)

    def init_non_persistent_buffers(self) -> None:
        restore_ids(self)


_POOLED = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "mpnet"})
"""Types whose own pooling layer, which nobody reads here, can be left out."""


class TextEncoder(EncoderSpec):
    """A text encoder of transformers (GTE, BERT ...); the step `tokenize` makes what it reads.

    Attributes:
        config: words of its configuration, `model_type` among them.
    """

    kind: Literal["text"] = "text"
    config: Annotated[dict[str, Any], known()]

    @classmethod
    def complete(cls, words: Mapping[str, Any], place: Path) -> dict[str, Any]:
        return dict(completed(words, place, ""))

    def stored(
        self, module: nn.Module, tensors: Mapping[str, Tensor], place: Path
    ) -> Mapping[str, Tensor]:
        return loaded("AutoModel", place, make(self.config), tensors)

    def build(self, source: Features | None = None) -> Encoder:
        return TextTower(self)
