"""X-CLIP of transformers: the frames of a clip as one vector."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from omnimix._transformers import restore_ids
from omnimix.encoders.base import Encoder, EncoderSpec, Features
from omnimix.hf_config import known

_TEXT = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 8}


class XClipTower(Encoder):
    """X-CLIP's video side: frames that exchange messages, projected, joined over time, of length 1.

    Parameters have transformers' names (`vision_model`, `visual_projection`, `mit`).
    """

    def __init__(self, spec: XClip) -> None:
        super().__init__()
        from transformers import XCLIPConfig, XCLIPModel

        # The text side is built as small as it can be, and dropped.
        text = {**_TEXT, "num_attention_heads": 1, "projection_dim": spec.projection_dim}
        config = XCLIPConfig(
            text_config=text,
            vision_config=dict(spec.vision_config),
            projection_dim=spec.projection_dim,
        )
        whole = XCLIPModel(config)
        self.vision_model: nn.Module = whole.vision_model
        self.visual_projection: nn.Module = whole.visual_projection
        self.mit: nn.Module = whole.mit
        self.features = Features(1, spec.projection_dim)

    def forward(self, tiles: Float[Tensor, "tiles frames 3 h w"]) -> Float[Tensor, "tiles 1 d"]:
        seen = self.vision_model(pixel_values=tiles.flatten(0, 1)).pooler_output
        frames: Tensor = self.visual_projection(seen).unflatten(0, tiles.shape[:2])
        joined: Tensor = self.mit(frames).pooler_output
        return functional.normalize(joined, dim=-1)[:, None]

    def init_non_persistent_buffers(self) -> None:
        restore_ids(self)


class XClip(EncoderSpec):
    """X-CLIP's video side; the step `clip` makes what it sees, of `num_frames` frames.

    Attributes:
        vision_config: words of transformers' XCLIPVisionConfig; `mit_hidden_size` is the width.
        projection_dim: of the joint space.
    """

    kind: Literal["xclip"] = "xclip"
    vision_config: Annotated[dict[str, Any], known("xclip_vision_model")] = {}
    projection_dim: int = 512

    def build(self, source: Features | None = None) -> Encoder:
        return XClipTower(self)
