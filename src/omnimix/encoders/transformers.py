"""Vision towers of transformers, built from a small configuration in the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from omnimix._transformers import quiet, restore_ids
from omnimix.encoders.base import Encoder, EncoderSpec, Features
from omnimix.errors import RecipeError
from omnimix.hf_config import known, make, unknown
from omnimix.hub import read_json


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


def told(place: Path, side: str = "") -> dict[str, Any]:
    """The words of a configuration in a folder of the hub, its defaults left out.

    Args:
        side: the word under which a configuration of several networks has the one that is meant.

    Raises:
        RecipeError: there is none, or transformers does not know it.
    """
    from transformers import AutoConfig

    try:
        whole = AutoConfig.from_pretrained(place, local_files_only=True)
    except (ValueError, OSError, TypeError, KeyError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise RecipeError(
            f"transformers cannot read the configuration ({line[:160].rstrip('.')})",
            where=str(place),
            hint="name a folder in the hub's layout, or write the words of `config`",
        ) from None
    found = getattr(whole, side, whole) if side else whole
    words = found.to_diff_dict() | {"model_type": found.model_type}
    idle = {*_SAYS_NOTHING, *unknown(found, words)}
    return {w: v for w, v in words.items() if v is not None and w not in idle}


_SAYS_NOTHING = frozenset(
    {"_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"}
)


def completed(words: Mapping[str, Any], place: Path, side: str, word: str = "config") -> Any:
    """The words of an encoder with the configuration of a folder below its own."""
    if not place.is_dir():
        return dict(words)
    return {**words, word: {**told(place, side), **words.get(word, {})}}


def normalized(words: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """The words of an encoder of pictures, with the normalisation of the processor in its folder.

    Raises:
        RecipeError: neither the words nor the folder say one.
    """
    said = read_json(place / "preprocessor_config.json") or {} if place.is_dir() else {}
    said = said.get("image_processor", said)
    if "steps" in words:
        return dict(words)
    if "image_mean" not in said or "image_std" not in said:
        raise RecipeError(
            "nothing says how pictures are normalized for the encoder",
            where=str(place),
            hint="write steps: [{kind: normalize, mean: [...], std: [...]}]",
        )
    step = {"kind": "normalize", "mean": said["image_mean"], "std": said["image_std"]}
    return {**words, "steps": [step]}


def loaded(name: str, place: Path, config: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tensors of a folder as transformers reads them into a class of its own, which knows older names.

    Args:
        name: of the class.
        tensors: what one file holds, where `place` is no folder.
    """
    if not place.is_dir():
        return tensors
    import transformers

    try:
        with quiet():
            model, report = getattr(transformers, name).from_pretrained(
                place,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                local_files_only=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RecipeError(
            f"transformers cannot read the weights ({line.rstrip('.')})",
            where=str(place),
            hint="the configuration in the recipe must be that of the files",
        ) from None
    return {n: t for n, t in model.state_dict().items() if n not in report["missing_keys"]}


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

    @classmethod
    def complete(cls, words: Mapping[str, Any], place: Path) -> dict[str, Any]:
        return normalized(completed(words, place, "vision_config"), place)

    def stored(
        self, module: nn.Module, tensors: Mapping[str, Tensor], place: Path
    ) -> Mapping[str, Tensor]:
        found: Mapping[str, Tensor] = loaded("AutoModel", place, make(self.config), tensors)
        return found

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
