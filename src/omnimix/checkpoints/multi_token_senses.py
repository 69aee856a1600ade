"""The modalities of multi_token: which encoder each has, and its words in a recipe.

The words are those of a shipped recipe (`Sense.recipe`); what a folder of the encoder says of its own sizes is
laid over them, so that a stand-in of another size opens like the release.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnimix.checkpoints import parts as places
from omnimix.checkpoints.base import read_json
from omnimix.checkpoints.multi_token_tables import Projector
from omnimix.checkpoints.tables import Ignore, Rename, Table
from omnimix.compose import recipe as recipes
from omnimix.errors import CheckpointError

BIN = (*places.CONFIGS, "pytorch_model*.bin")
SAFE = (*places.CONFIGS, *places.WEIGHTS)


@dataclass(frozen=True)
class Sense:
    """One modality of the reference.

    Attributes:
        name: ours.
        hub: hub id of its encoder.
        recipe: the shipped recipe with its words.
        files: patterns of what has to be fetched.
        sized: lays the sizes of an encoder's folder over the modality's words.
        table: keys of the encoder's file, for the place of the encoder on our tree.
        told: the small files of a folder of which `sized` makes the words again.
    """

    name: str
    hub: str
    recipe: str
    files: tuple[str, ...]
    sized: Callable[[dict[str, Any], Path, Mapping[str, Any]], None]
    table: Callable[[str, Mapping[str, Any]], Table]
    told: Callable[[Mapping[str, Any]], dict[str, Any]]


def words_of(sense: Sense, projector: Projector, place: Path, options: Mapping[str, Any]) -> Any:
    """The words of a modality in a recipe.

    Args:
        projector: what its keys say.
        place: folder of its encoder.
        options: `pad_non_square_images`.
    """
    pooled = projector.tokens is not None
    name = f"{sense.recipe}_pool" if sense.name == "image" and pooled else sense.recipe
    words: dict[str, Any] = copy.deepcopy(
        recipes.load(name).modalities[sense.name].dump()  # as written, defaults left out
    )
    sense.sized(words, place, options)
    connector: dict[str, Any] = {"kind": "mlp", "depth": projector.depth}
    if pooled:
        connector = {"kind": "token_mlp", "tokens": projector.tokens, "depth": projector.depth}
    words["branches"][0]["connector"] = connector
    return words


def _inner(found: Mapping[str, Any], word: str, kind: str) -> dict[str, Any]:
    """A tower's configuration inside that of a whole model; early files write it twice."""
    own = found if found.get("model_type") == kind else found.get(word) or {}
    again = found.get(f"{word}_dict")
    return {**own, **(again if isinstance(again, Mapping) else {})}


def _chosen(found: Mapping[str, Any], words: tuple[str, ...]) -> dict[str, Any]:
    return {word: found[word] for word in words if found.get(word) is not None}


# --- image ---

_CLIP_WORDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
)
_CLIP_DEFAULTS = {
    "model_type": "clip_vision_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
}
"""What a CLIP configuration means by a word that it leaves out."""


def _clip(words: dict[str, Any], place: Path, options: Mapping[str, Any]) -> None:
    config = places.config(place, "image encoder")
    vision = _inner(config, "vision_config", "clip_vision_model")
    (encoder,) = words["branches"][0]["encoders"]
    encoder["config"] = {**_CLIP_DEFAULTS, **_chosen(vision, _CLIP_WORDS)}
    processor = read_json(place / "preprocessor_config.json") or {}
    (step,) = words["steps"]
    side = encoder["config"]["image_size"]
    shorter, size = (_side(processor.get(word), side) for word in ("size", "crop_size"))
    step["size"] = size
    if shorter != size:
        step["shorter"] = shorter
    normal = encoder["steps"][0]
    for word, ours in (("image_mean", "mean"), ("image_std", "std")):
        normal[ours] = list(processor.get(word) or normal[ours])
    if options.get("pad_non_square_images"):
        fill = [int(channel * 255) for channel in normal["mean"]]
        words["steps"].insert(0, {"kind": "pad", "fill": fill})


def _side(said: Any, default: int) -> int:
    """A size in a processor's configuration: a number, or a table."""
    if isinstance(said, Mapping):
        said = said.get("shortest_edge", said.get("height"))
    return int(said) if said is not None else int(default)


def _clip_table(ours: str, words: Mapping[str, Any]) -> Table:
    (encoder,) = words["branches"][0]["encoders"]
    depth = int(encoder["config"]["num_hidden_layers"])
    layer = encoder.get("layer")
    behind = range(depth + 1 + layer, depth) if layer is not None else range(0)
    return Table(
        Ignore("vision_model.embeddings.position_ids", "computed, not learned"),
        *(
            Ignore(f"vision_model.encoder.layers.{i}.*", "lies behind the layer that is read")
            for i in behind
        ),
        Rename("vision_model.*", f"{ours}tower.*"),
        Ignore("text_model.*", "CLIP's text tower is used by nobody"),
        Ignore("visual_projection.*", "belongs to CLIP's own loss"),
        Ignore("text_projection.*", "belongs to CLIP's own loss"),
        Ignore("logit_scale", "belongs to CLIP's own loss"),
    )


def _clip_files(words: Mapping[str, Any]) -> dict[str, Any]:
    (encoder,) = words["branches"][0]["encoders"]
    step, normal = words["steps"][-1], encoder["steps"][0]
    size = int(step["size"])
    return {
        "config.json": {"model_type": "clip", "vision_config": dict(encoder["config"])},
        "preprocessor_config.json": {
            "crop_size": size,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": list(normal["mean"]),
            "image_std": list(normal["std"]),
            "resample": 3,
            "size": int(step.get("shorter", size)),
        },
    }


SENSES: dict[str, Sense] = {
    "vision_clip": Sense(
        "image",
        "openai/clip-vit-large-patch14-336",
        "multi_token",
        BIN,
        _clip,
        _clip_table,
        _clip_files,
    ),
}
"""By the reference's names."""

BUILDERS: dict[str, tuple[str, ...]] = {
    "vision_clip": ("vision_clip",),
    "vision_clip_pool": ("vision_clip",),
    "audio_whisper": ("audio_whisper",),
    "audio_clap": ("audio_clap",),
    "video_xclip": ("video_xclip",),
    "imagebind": ("imagebind",),
    "document_gte": ("document_gte",),
    "document_gte_x16": ("document_gte",),
}
"""The modalities that a builder makes. How many tokens each gives is told by its projector."""


def sense(name: str, where: str) -> Sense:
    """A modality by the reference's name.

    Raises:
        CheckpointError: it is none of the published ones.
    """
    if name not in SENSES:
        raise CheckpointError(
            f"unknown modality {name!r}",
            where=where,
            hint=f"the published ones are {', '.join(SENSES)}; open others from a recipe of your own",
        )
    return SENSES[name]
