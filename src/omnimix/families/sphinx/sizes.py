"""Sizes of SPHINX's four encoders (and SPHINX-V's of prompts): as released, and as shapes of weights tell them.

A shape tells every size but the number of heads, which has to be said for encoders of other than the released
widths. What is released is asked of timm and of the shipped recipes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeAlias

from omnimix import config
from omnimix.checkpoints.files import heads, layers
from omnimix.compose import recipe as recipes
from omnimix.families.sphinx.names import CLIP, CONVNEXT, DINO, PROMPTS, QFORMER, REGION

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Shape of every foreign key."""

HEADS = {
    "clip_heads": ("clip", "args"),
    "dino_heads": ("dino", "args"),
    "vit_heads": ("qformer", "vision_config"),
    "qformer_heads": ("qformer", "qformer_config"),
}
"""Words for the number of heads of encoders of other than the released widths, and where the recipe has it."""

VIT = ("embed_dim", "depth", "num_heads", "mlp_ratio", "patch_size")
BLIP = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def shipped(name: str) -> dict[str, Any]:
    """The words of a shipped recipe, its base's included."""
    return recipes.with_base(config.read_yaml(recipes.shipped(name)), name)


def encoders_of(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The words of each encoder in those of a recipe."""
    first, second = data["modalities"]["image"]["branches"]
    found = dict(
        zip(
            ("qformer", "clip", "convnext", "dino"),
            first["encoders"] + second["encoders"],
            strict=True,
        )
    )
    if REGION in data["modalities"]:
        (found["prompts"],) = data["modalities"][REGION]["branches"][0]["encoders"]
    return found


@cache
def _released() -> dict[str, dict[str, Any]]:
    """The words of each encoder as released; the sizes that a name of timm stands for are asked without memory."""
    import timm
    import torch

    encoders = encoders_of(shipped("sphinx"))
    for name in ("clip", "convnext", "dino"):
        with torch.device("meta"):
            trunk: Any = timm.create_model(encoders[name]["model"], pretrained=False)
        if name == "convnext":
            dims = [stage["num_chs"] for stage in trunk.feature_info]
            args: dict[str, Any] = {
                "depths": [len(stage.blocks) for stage in trunk.stages],
                "dims": dims,
            }
        else:
            width, block = trunk.embed_dim, trunk.blocks[0]
            args = {
                "embed_dim": width,
                "depth": len(trunk.blocks),
                "num_heads": block.attn.num_heads,
                "mlp_ratio": _ratio(block.mlp.fc1.out_features, width),
                "patch_size": trunk.patch_embed.patch_size[0],
            }
        encoders[name]["args"] = args
    return encoders


def _widths(encoders: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Width and heads of each encoder that says them, by the word of `HEADS`."""
    pairs = (("embed_dim", "num_heads"), ("hidden_size", "num_attention_heads"))
    found = {}
    for word, (encoder, group) in HEADS.items():
        sizes = encoders[encoder].get(group, {})
        for width, number in pairs:
            if width in sizes and number in sizes:
                found[word] = int(sizes[width]), int(sizes[number])
    return found


def heads_said(encoders: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """The words of `HEADS` without which a folder of these encoders cannot be read."""
    known = _widths(_released())
    return {word: pair[1] for word, pair in _widths(encoders).items() if pair != known[word]}


def measured(name: str, shapes: Shapes, said: Mapping[str, Any]) -> dict[str, Any]:
    """What is laid over the shipped words of each encoder."""
    clip = _vit(shapes, f"{CLIP}visual.", "conv1", "transformer.resblocks.", "mlp.c_fc")
    dino = _vit(shapes, DINO, "patch_embed.proj", "blocks.", "mlp.w12")
    stages = f"{CONVNEXT}stages."
    numbers = range(layers(shapes, stages))
    trunks: dict[str, dict[str, Any]] = {
        "clip": clip | {"num_heads": _heads("clip_heads", clip["embed_dim"], said)},
        "dino": dino | {"num_heads": _heads("dino_heads", dino["embed_dim"], said)},
        "convnext": {
            "depths": [layers(shapes, f"{stages}{i}.blocks.") for i in numbers],
            "dims": [shapes[f"{stages}{i}.blocks.0.gamma"][0] for i in numbers],
        },
    }
    found: dict[str, Any] = {
        trunk: {"args": {} if args == _released()[trunk]["args"] else args}
        for trunk, args in trunks.items()
    }
    found["dino"]["positions"] = {"grid": math.isqrt(shapes[f"{DINO}pos_embed"][1] - 1)}
    found["qformer"] = _qformer(shapes, said)
    if "prompts" in encoders_of(shipped(name)):
        found["prompts"] = {"width": shapes[f"{PROMPTS}up.weight"][0]}
    return found


def _heads(word: str, width: int, said: Mapping[str, Any]) -> int:
    return heads(word, word.replace("_heads", " encoder"), width, _widths(_released())[word], said)


def _ratio(rows: int, width: int) -> float:
    # timm rounds the product down; half a row more keeps the number whole.
    return (rows + 0.5) / width


def _vit(shapes: Shapes, prefix: str, patches: str, blocks: str, mlp: str) -> dict[str, Any]:
    width, _, patch, _ = shapes[f"{prefix}{patches}.weight"]
    return {
        "embed_dim": width,
        "depth": layers(shapes, f"{prefix}{blocks}"),
        "mlp_ratio": _ratio(shapes[f"{prefix}{blocks}0.{mlp}.weight"][0], width),
        "patch_size": patch,
    }


def _qformer(shapes: Shapes, said: Mapping[str, Any]) -> dict[str, Any]:
    vit, asks = f"{QFORMER}vision_model.", f"{QFORMER}qformer.encoder.layer."
    width, _, patch, _ = shapes[f"{vit}embeddings.patch_embedding.weight"]
    _, queries, inner = shapes[f"{QFORMER}query_tokens"]
    depth = layers(shapes, asks)
    looks = [
        i for i in range(depth) if f"{asks}{i}.crossattention.attention.query.weight" in shapes
    ]
    grid = math.isqrt(shapes[f"{vit}embeddings.position_embedding"][1] - 1)
    vision = (
        width,
        shapes[f"{vit}encoder.layers.0.mlp.fc1.weight"][0],
        layers(shapes, f"{vit}encoder.layers."),
        _heads("vit_heads", width, said),
    )
    queried = (
        inner,
        shapes[f"{asks}0.intermediate_query.dense.weight"][0],
        depth,
        _heads("qformer_heads", inner, said),
    )
    return {
        "num_query_tokens": queries,
        "vision_config": dict(zip(BLIP, vision, strict=True))
        | {"image_size": grid * patch, "patch_size": patch},
        "qformer_config": dict(zip(BLIP, queried, strict=True))
        | {
            "cross_attention_frequency": looks[1] - looks[0] if looks[1:] else depth,
            "encoder_hidden_size": width,
        },
    }
