"""Vision towers of transformers, built from a small configuration in the recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from omnimix._transformers import restore_ids
from omnimix.encoders.base import Encoder, EncoderSpec, Features
from omnimix.errors import RecipeError
from omnimix.hf_config import known, make


class VisionTower(Encoder):
    """CLIP, SigLIP and their like: `hidden_states[layer]`, the normed last state, or the pooled one."""

    def __init__(self, spec: TransformersVision) -> None:
        super().__init__()
        from transformers import AutoModel

        config = make(spec.config)
        side, patch = int(config.image_size), int(config.patch_size)
        layers = int(config.num_hidden_layers)
        self.layer = spec.layer
        self.pooled = spec.pooled
        if spec.pooled and spec.layer is not None:
            raise RecipeError(
                "the pooled output is made of the last layer", hint="leave 'layer' out"
            )
        if spec.layer is not None:
            # hidden_states has one entry more than there are layers; what lies behind is not built.
            index = spec.layer + layers + 1 if spec.layer < 0 else spec.layer
            if not 0 <= index <= layers:
                raise RecipeError(f"layer {spec.layer} is outside a tower of {layers} layers")
            config.num_hidden_layers = index
        model = AutoModel.from_config(config, attn_implementation="sdpa")
        self.tower: nn.Module = getattr(model, "vision_model", model)
        if spec.pooled:
            self.features = Features(1, int(config.hidden_size))
            return
        grid = side // patch
        prefix = 1 if _has_class_token(config.model_type) else 0
        self.features = Features(
            grid * grid + prefix, int(config.hidden_size), (grid, grid), prefix
        )

    def forward(self, tiles: Shaped[Tensor, "tiles 3 h w"]) -> Float[Tensor, "tiles n d"]:
        output = self.tower(pixel_values=tiles, output_hidden_states=self.layer is not None)
        if self.pooled:
            pooled: Tensor = output.pooler_output
            return pooled[:, None]
        features: Tensor = (
            output.last_hidden_state if self.layer is None else output.hidden_states[-1]
        )
        return features

    def init_non_persistent_buffers(self) -> None:
        restore_ids(self)


def _has_class_token(model_type: str) -> bool:
    return not model_type.startswith("siglip")


class TransformersVision(EncoderSpec):
    """A vision tower of transformers.

    Attributes:
        config: words of its configuration, `model_type` among them.
        layer: which entry of `hidden_states` is read (-2: second to last); None reads the last state
            after the final norm.
        pooled: the tower's own pooled output, one vector.
    """

    kind: Literal["transformers"] = "transformers"
    config: Annotated[dict[str, Any], known()]
    layer: int | None = None
    pooled: bool = False

    def build(self, source: Features | None = None) -> Encoder:
        return VisionTower(self)


class QFormerTower(Encoder):
    """ViT, then a Q-Former that asks it with learned queries (BLIP-2)."""

    def __init__(self, spec: Blip2QFormer) -> None:
        super().__init__()
        from transformers import Blip2Config, Blip2QFormerModel, Blip2VisionModel

        config = Blip2Config(
            vision_config=dict(spec.vision_config),
            qformer_config=dict(spec.qformer_config),
            num_query_tokens=spec.num_query_tokens,
        )
        self.vision_model = Blip2VisionModel(config.vision_config)
        self.query_tokens = nn.Parameter(
            torch.zeros(1, spec.num_query_tokens, config.qformer_config.hidden_size)
        )
        self.qformer = Blip2QFormerModel(config.qformer_config)
        self.features = Features(spec.num_query_tokens, int(config.qformer_config.hidden_size))

    def forward(self, tiles: Shaped[Tensor, "tiles 3 h w"]) -> Float[Tensor, "tiles n d"]:
        seen = self.vision_model(pixel_values=tiles).last_hidden_state
        queries = self.query_tokens.expand(seen.shape[0], -1, -1)
        found: Tensor = self.qformer(
            query_embeds=queries, encoder_hidden_states=seen
        ).last_hidden_state
        return found


class Blip2QFormer(EncoderSpec):
    """BLIP-2's vision model and Q-Former: `num_query_tokens` tokens per tile.

    Attributes:
        vision_config: words of transformers' Blip2VisionConfig.
        qformer_config: words of transformers' Blip2QFormerConfig.
        num_query_tokens: number of learned queries.
    """

    kind: Literal["blip2_qformer"] = "blip2_qformer"
    vision_config: Annotated[dict[str, Any], known("blip_2_vision_model")] = {}
    qformer_config: Annotated[dict[str, Any], known("blip_2_qformer")] = {}
    num_query_tokens: int = 32

    def build(self, source: Features | None = None) -> Encoder:
        return QFormerTower(self)
