"""What a SPHINX folder says, and the recipe that this is: its words to ours and back.

How the encoders are mixed stands in the shipped recipe of each type; over it lie sizes, where a model
has other than the released ones (`omnimix.families.sphinx.sizes`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from omnimix import config
from omnimix.compose import recipe as recipes
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError
from omnimix.families.sphinx.names import PREFIX
from omnimix.families.sphinx.sizes import BLIP, VIT, Shapes, encoders_of, measured, shipped
from omnimix.registry import did_you_mean

TYPES: dict[str, str] = {
    "llama_ens": "sphinx",
    "llama_ens5": "sphinx_1k",
    "llama_ens10": "sphinx_672",
    "llama_ens5_vp": "sphinx_v",
}
"""`llama_type` of a meta.json to the shipped recipe."""

ACTIVATIONS = ("gelu", "quick_gelu")

CONTEXT = 4096
"""`max_seq_len` of the reference's loader where the caller says nothing; the file's own number is ignored."""

_LLAMA = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "vocab_size": "vocab_size",
    "norm_eps": "rms_norm_eps",
    "max_seq_len": "max_position_embeddings",
}
"""Words of Meta's configuration that transformers has under another name."""

_SIZES: dict[str, dict[str, tuple[str, ...]]] = {
    "qformer": {
        "num_query_tokens": (),
        "vision_config": (*BLIP, "image_size", "patch_size"),
        "qformer_config": (*BLIP, "cross_attention_frequency", "encoder_hidden_size"),
    },
    "clip": {"args": (*VIT, "act_layer")},
    "convnext": {"args": ("depths", "dims")},
    "dino": {"args": VIT, "positions": ("grid",)},
    "prompts": {"width": ()},
}
"""For each encoder the words of the recipe that a folder tells, and the words inside them."""


@dataclass(frozen=True)
class Words:
    """What a folder says.

    Attributes:
        name: of the model.
        llama_type: a key of `TYPES`.
        args: the configuration in Meta's words, `vocab_size` and `max_seq_len` being the true ones.
        encoders: for each encoder of `_SIZES` what is laid over the shipped recipe.
        tokenizer: name of its file.
    """

    name: str
    llama_type: str
    args: Mapping[str, Any]
    encoders: Mapping[str, Mapping[str, Any]]
    tokenizer: str = "tokenizer.model"


def words(
    name: str,
    llama_type: str,
    args: Mapping[str, Any],
    shapes: Shapes,
    said: Mapping[str, Any] | None = None,
) -> Words:
    """What the files of a folder say.

    Args:
        args: Meta's six words or the trainer's dump.
        said: words that no file tells: `HEADS`, `clip_activation`, `max_seq_len`.

    Raises:
        CheckpointError: words or keys that are missing, or that contradict each other.
    """
    said = said or {}
    absent = [word for word in ("dim", "n_layers", "n_heads", "multiple_of") if word not in args]
    if absent:
        raise CheckpointError(
            f"the configuration lacks {', '.join(absent)}",
            hint="it holds dim, n_layers, n_heads, multiple_of, norm_eps: Meta's params.json will do",
        )
    try:
        rows = shapes[f"{PREFIX}tok_embeddings.weight"][0]
        context = int(said.get("max_seq_len", CONTEXT))
        args = {**args, "vocab_size": rows, "max_seq_len": context}
        encoders = measured(TYPES[llama_type], shapes, said)
    except KeyError as error:
        raise CheckpointError(
            f"no such key in the shards: {error.args[0]}",
            hint="an encoder is missing; copy the whole checkpoint, and name Meta's Llama first",
        ) from None
    # CLIP has exact GELU unless the encoders' own weights were asked for when it was built.
    own = "quick_gelu" if args.get("load_pretrained_visual_encoder") else "gelu"
    activation = str(said.get("clip_activation", own))
    if activation not in ACTIVATIONS:
        hint = did_you_mean(activation, ACTIVATIONS)
        raise CheckpointError(f"unknown clip_activation {activation!r}", hint=hint)
    if activation != "gelu":
        encoders["clip"]["args"]["act_layer"] = activation
    return Words(name, llama_type, args, encoders)


def recipe(said: Words) -> Recipe:
    """The recipe of a folder."""
    data = shipped(TYPES[said.llama_type])
    for name, encoder in encoders_of(data).items():
        encoder.update(config.merge(encoder, said.encoders.get(name, {})))
    data["name"] = said.name
    data["language"] = {"kind": "causal_lm", "config": _language(said.args)}
    data["tokenizer"] = {"kind": "sentencepiece", "path": said.tokenizer}
    return config.validate(Recipe, data, said.name)


def words_of(model: Recipe) -> Words:
    """The inverse of `recipe`; whether it is one is for the caller to prove.

    Raises:
        LookupError, ValueError: something has no word there.
    """
    encoders = {
        name: {
            word: _inside(encoder[word], inner)
            for word, inner in _SIZES[name].items()
            if word in encoder
        }
        for name, encoder in encoders_of(model.dump()).items()
    }
    clip = encoders["clip"].get("args", {})
    if clip.get("act_layer", "gelu") not in ACTIVATIONS:
        raise ValueError(f"CLIP's activation {clip['act_layer']!r} has no name there")
    return Words(model.name, _type_of(model), _args(model), encoders)


def _type_of(model: Recipe) -> str:
    """The type whose shipped recipe prepares pictures as a recipe does and has its modalities."""
    for llama_type, name in TYPES.items():
        shipped = recipes.load(name).modalities
        same = shipped.keys() == model.modalities.keys()
        if same and shipped["image"].steps == model.modalities["image"].steps:
            return llama_type
    raise LookupError(f"no llama_type prepares its items so; known are {', '.join(TYPES)}")


def _inside(value: Any, words: Iterable[str]) -> Any:
    return {word: value[word] for word in words if word in value} if words else value


# --- the language model ---


def hidden(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Meta's width of the gated network."""
    width = int(2 * 4 * dim / 3)
    if multiplier is not None:
        width = int(multiplier * width)
    return multiple_of * -(-width // multiple_of)


def rounding(dim: int, width: int) -> tuple[int, float | None]:
    """`multiple_of` and `ffn_dim_multiplier` that make this width; Llama 2's 256 where it does."""
    for multiple in (256, *(2**i for i in range(12, -1, -1))):
        if hidden(dim, multiple, None) == width:
            return multiple, None
    # Half a row more, since the product is rounded down.
    return 1, (width + 0.5) / int(2 * 4 * dim / 3)


def _language(args: Mapping[str, Any]) -> dict[str, Any]:
    """Words of transformers' Llama configuration."""
    args = {"norm_eps": 1e-5, **args, "n_kv_heads": args.get("n_kv_heads") or args["n_heads"]}
    width = hidden(int(args["dim"]), int(args["multiple_of"]), args.get("ffn_dim_multiplier"))
    words: dict[str, Any] = {
        "model_type": "llama",
        **{ours: args[theirs] for theirs, ours in _LLAMA.items()},
        "intermediate_size": width,
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
    return words


def _args(model: Recipe) -> dict[str, Any]:
    """The trainer's dump of its arguments."""
    llama = model.language.hf_config()
    rope = dict(llama.rope_parameters)
    if rope.get("rope_type", "default") not in ("default", "linear"):
        raise ValueError(f"the rotary scaling {rope['rope_type']!r} has no word there")
    args: dict[str, Any] = {theirs: getattr(llama, ours) for theirs, ours in _LLAMA.items()}
    if args["n_kv_heads"] == args["n_heads"]:
        args["n_kv_heads"] = None
    multiple, multiplier = rounding(args["dim"], int(llama.intermediate_size))
    theta = float(rope["rope_theta"])
    return args | {
        "multiple_of": multiple,
        "ffn_dim_multiplier": multiplier,
        "rope_theta": int(theta) if theta.is_integer() else theta,
        "rope_scaling": 1.0 / rope["factor"] if "factor" in rope else None,
        "max_batch_size": 32,
        "load_pretrained_visual_encoder": False,
    }
