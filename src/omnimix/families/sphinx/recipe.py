"""The recipe of a SPHINX checkpoint: the shipped one of its type, with the sizes that its shapes tell.

How the encoders are mixed stands in the recipes (`sphinx.yaml`, ...); here are only numbers that differ
where a model is not of the released size. A shape tells every size but the number of heads, which has to
be said for encoders of other widths than the released ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from omnimix import config
from omnimix.compose import recipe as recipes
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError
from omnimix.families.sphinx import marked as sphinx_v
from omnimix.families.sphinx.names import PREFIX

TYPES: dict[str, str] = {
    "llama_ens": "sphinx",
    "llama_ens5": "sphinx_1k",
    "llama_ens10": "sphinx_672",
    sphinx_v.LLAMA_TYPE: "sphinx_v",
}
"""`llama_type` of a meta.json to the shipped recipe; a type with further modalities is a further row."""

Sizes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Shape of every foreign key."""

HEADS = {
    "clip_heads": {1024: 16},
    "dino_heads": {1536: 24},
    "vit_heads": {1408: 16},
    "qformer_heads": {768: 12},
}
"""Heads of each encoder by its width, as released; for other widths the word has to be said."""

ACTIVATIONS = ("gelu", "quick_gelu")

CONTEXT = 4096
"""`max_seq_len` of the reference's loader where the caller says nothing."""


@dataclass(frozen=True)
class Facts:
    """What a recipe is made of.

    Attributes:
        llama_type: a key of `TYPES`.
        args: the configuration: Meta's six words or the trainer's dump.
        sizes: shape of every foreign key.
        context: most positions of a sequence, those of the picture included.
        heads: said for encoders of other than the released widths, see `HEADS`.
        activation: of CLIP: `gelu` (exact), or `quick_gelu` as in its original training.
        tokenizer: words of the tokenizer.
    """

    llama_type: str
    args: Mapping[str, Any]
    sizes: Sizes
    context: int = CONTEXT
    heads: Mapping[str, int] = field(default_factory=dict)
    activation: str = "gelu"
    tokenizer: Mapping[str, Any] | None = None


def hidden(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Meta's width of the gated network."""
    width = int(2 * 4 * dim / 3)
    if multiplier is not None:
        width = int(multiplier * width)
    return multiple_of * -(-width // multiple_of)


def language(facts: Facts, where: str) -> dict[str, Any]:
    """Words of transformers' Llama configuration.

    Raises:
        CheckpointError: a word that is missing, or one that contradicts a shape.
    """
    args = facts.args
    absent = [word for word in ("dim", "n_layers", "n_heads", "multiple_of") if word not in args]
    if absent:
        raise CheckpointError(
            f"the configuration lacks {', '.join(absent)}",
            where=where,
            hint="it holds dim, n_layers, n_heads, multiple_of, norm_eps: Meta's params.json will do",
        )
    heads = int(args["n_heads"])
    width = hidden(int(args["dim"]), int(args["multiple_of"]), args.get("ffn_dim_multiplier"))
    words: dict[str, Any] = {
        "model_type": "llama",
        "vocab_size": facts.sizes[f"{PREFIX}tok_embeddings.weight"][0],
        "hidden_size": int(args["dim"]),
        "intermediate_size": width,
        "num_hidden_layers": int(args["n_layers"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(args.get("n_kv_heads") or heads),
        "rms_norm_eps": float(args.get("norm_eps", 1e-5)),
        "max_position_embeddings": facts.context,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    theta, scaling = args.get("rope_theta", 10000), args.get("rope_scaling")
    if float(theta) != 10000.0:
        words["rope_theta"] = float(theta)
    if scaling is not None:
        # The reference multiplies positions, transformers divides them.
        words["rope_scaling"] = {"rope_type": "linear", "factor": 1.0 / float(scaling)}
    _agree(facts.sizes, words, where)
    return words


def _agree(sizes: Sizes, words: Mapping[str, Any], where: str) -> None:
    dim, heads = words["hidden_size"], words["num_attention_heads"]
    layer = f"{PREFIX}layers.0."
    wanted = {
        f"{PREFIX}tok_embeddings.weight": (words["vocab_size"], dim),
        f"{layer}attention.wq.weight": (dim, dim),
        f"{layer}attention.wk.weight": (dim // heads * words["num_key_value_heads"], dim),
        f"{layer}feed_forward.w1.weight": (words["intermediate_size"], dim),
    }
    for key, shape in wanted.items():
        if key in sizes and sizes[key] != shape:
            raise CheckpointError(
                f"the configuration makes {key} {list(shape)}, the shards hold {list(sizes[key])}",
                where=where,
                hint="config.json and the shards must come from one release",
            )


def build(facts: Facts, name: str, where: str) -> Recipe:
    """The recipe.

    Raises:
        CheckpointError: keys that are missing, or words that contradict shapes.
    """
    shipped = TYPES[facts.llama_type]
    data = recipes.with_base(config.read_yaml(recipes.shipped(shipped)), shipped)
    data["name"] = name
    try:
        data["language"] = {"kind": "causal_lm", "config": language(facts, where)}
        for modality, fit in MODALITIES.items():
            if modality in data["modalities"]:
                fit(data["modalities"][modality], facts)
    except KeyError as error:
        raise CheckpointError(
            f"no such key in the shards: {error.args[0]}",
            where=where,
            hint="an encoder is missing; copy the whole checkpoint, and name Meta's Llama first",
        ) from None
    if facts.tokenizer is not None:
        data["tokenizer"] = dict(facts.tokenizer)
    return config.validate(Recipe, data, where)


def image(words: dict[str, Any], facts: Facts) -> None:
    """Lay the sizes of the four encoders over the words of the image modality."""
    qformer = words["branches"][0]["encoders"][0]
    clip, convnext, dino = words["branches"][1]["encoders"]
    _qformer(qformer, facts)
    _clip(clip, facts)
    _convnext(convnext, facts.sizes)
    _dino(dino, facts)


Fit: TypeAlias = Callable[[dict[str, Any], Facts], None]


def region(words: dict[str, Any], facts: Facts) -> None:
    """Lay the size of the prompt encoder over the words of the region modality."""
    sphinx_v.fit(words, facts.sizes)


MODALITIES: dict[str, Fit] = {"image": image, sphinx_v.REGION: region}
"""For each modality of the shipped recipes, what lays a checkpoint's sizes over its words."""


def count(sizes: Sizes, pattern: str) -> int:
    """How many numbered layers there are under a pattern such as `llma.layers.*.`."""
    regex = re.compile(re.escape(pattern).replace(r"\*", r"(\d+)"))
    return len({found[1] for key in sizes if (found := regex.match(key))})


def _heads(word: str, width: int, facts: Facts) -> int:
    said = facts.heads.get(word)
    found = said if said is not None else HEADS[word].get(width)
    if found is None:
        raise CheckpointError(
            f"an encoder is {width} wide, the released one {next(iter(HEADS[word]))}, and no file "
            "tells its number of heads",
            hint=f"give it with --part {word}=N",
        )
    if width % int(found):
        raise CheckpointError(
            f"{word} is {found}, which does not divide the encoder's width {width}",
            hint="give the number that the encoder was made with",
        )
    return int(found)


def _given(words: dict[str, Any], args: Mapping[str, Any], released: Mapping[str, Any]) -> None:
    """Arguments of a timm model, where they are not those that its name stands for."""
    if dict(args) != dict(released):
        words["args"] = {**words.get("args", {}), **args}


def _clip(words: dict[str, Any], facts: Facts) -> None:
    key = f"{PREFIX}clip.visual."
    width, _, patch, _ = facts.sizes[f"{key}conv1.weight"]
    block = f"{key}transformer.resblocks."
    args = {
        "embed_dim": width,
        "depth": count(facts.sizes, f"{block}*."),
        "num_heads": _heads("clip_heads", width, facts),
        "mlp_ratio": facts.sizes[f"{block}0.mlp.c_fc.weight"][0] / width,
        "patch_size": patch,
    }
    released = {
        "embed_dim": 1024,
        "depth": 24,
        "num_heads": 16,
        "mlp_ratio": 4.0,
        "patch_size": 14,
    }
    _given(words, args, released)
    if facts.activation != "gelu":
        words["args"] = {**words.get("args", {}), "act_layer": facts.activation}


def _convnext(words: dict[str, Any], sizes: Sizes) -> None:
    stages = f"{PREFIX}openclip_convnext_xxl.stages."
    number = count(sizes, f"{stages}*.")
    depths = [count(sizes, f"{stages}{i}.blocks.*.") for i in range(number)]
    dims = [sizes[f"{stages}{i}.blocks.0.gamma"][0] for i in range(number)]
    released = {"depths": [3, 4, 30, 3], "dims": [384, 768, 1536, 3072]}
    _given(words, {"depths": depths, "dims": dims}, released)


def _dino(words: dict[str, Any], facts: Facts) -> None:
    key = f"{PREFIX}dinov2_vitg14."
    width, _, patch, _ = facts.sizes[f"{key}patch_embed.proj.weight"]
    packed = facts.sizes[f"{key}blocks.0.mlp.w12.weight"][0]
    args = {
        "embed_dim": width,
        "depth": count(facts.sizes, f"{key}blocks.*."),
        "num_heads": _heads("dino_heads", width, facts),
        # timm rounds down; half a row more keeps the number whole.
        "mlp_ratio": (packed + 0.5) / width,
        "patch_size": patch,
    }
    released = {
        "embed_dim": 1536,
        "depth": 40,
        "num_heads": 24,
        "mlp_ratio": 8192.5 / 1536,
        "patch_size": 14,
    }
    _given(words, args, released)
    grid = math.isqrt(facts.sizes[f"{key}pos_embed"][1] - 1)
    words["positions"] = {**words["positions"], "grid": grid}


def _qformer(words: dict[str, Any], facts: Facts) -> None:
    key, sizes = f"{PREFIX}qformer.", facts.sizes
    vit, asks = f"{key}vision_model.", f"{key}qformer.encoder.layer."
    width, _, patch, _ = sizes[f"{vit}embeddings.patch_embedding.weight"]
    _, queries, inner = sizes[f"{key}query_tokens"]
    looks = sorted(
        int(key.removeprefix(asks).split(".")[0])
        for key in sizes
        if key.startswith(asks) and key.endswith("crossattention.attention.query.weight")
    )
    depth = count(sizes, f"{asks}*.")
    grid = math.isqrt(sizes[f"{vit}embeddings.position_embedding"][1] - 1)
    words["num_query_tokens"] = queries
    words["vision_config"] |= {
        "hidden_size": width,
        "intermediate_size": sizes[f"{vit}encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": count(sizes, f"{vit}encoder.layers.*."),
        "num_attention_heads": _heads("vit_heads", width, facts),
        "image_size": grid * patch,
        "patch_size": patch,
    }
    words["qformer_config"] |= {
        "hidden_size": inner,
        "intermediate_size": sizes[f"{asks}0.intermediate_query.dense.weight"][0],
        "num_hidden_layers": depth,
        "num_attention_heads": _heads("qformer_heads", inner, facts),
        "cross_attention_frequency": looks[1] - looks[0] if looks[1:] else depth,
        "encoder_hidden_size": width,
    }
