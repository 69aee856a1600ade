"""Writing SPHINX folders: what the reference's loader accepts, in any number of shards that it permits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnimix.checkpoints import shards, tables
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError, OmnimixError
from omnimix.families.sphinx import (
    folder as sphinx_folder,
    reader as sphinx,
    recipe as sphinx_recipe,
)
from omnimix.families.sphinx.names import CUTS, PREFIX
from omnimix.families.sphinx.recipe import CONTEXT, HEADS, TYPES, Facts
from omnimix.language.tokenizer import SentencePieceTokenizer

CLIP_TEXT: dict[str, tuple[int, ...]] = {
    "positional_embedding": (77, 768),
    "text_projection": (768, 768),
    "logit_scale": (),
    "visual.proj": (1024, 768),
    "token_embedding.weight": (49408, 768),
    "ln_final.weight": (768,),
    "ln_final.bias": (768,),
}
"""What is left of CLIP's text tower in a release; nobody uses it, loaders that count keys want it."""

CLIP_WIDTH = 1024


def tensors(model: MultimodalLM) -> dict[str, Tensor]:
    """Every tensor under the foreign names; keys that nobody uses are zeros.

    CLIP's text tower is left out where CLIP is not of the released size: its sizes are then not known,
    and the reference only warns of missing keys.
    """
    state = model.state_dict()
    plan = sphinx.recipe_table(model.recipe).writing(state)
    assert not plan.unknown and not plan.missing, (plan.unknown, plan.missing)
    found = tables.write(plan, state)
    like = found[f"{PREFIX}dinov2_vitg14.cls_token"]
    found[f"{PREFIX}dinov2_vitg14.mask_token"] = torch.zeros_like(like[0])
    if found[f"{PREFIX}clip.visual.class_embedding"].shape[0] == CLIP_WIDTH:
        found |= {f"{PREFIX}clip.{key}": like.new_zeros(shape) for key, shape in CLIP_TEXT.items()}
    return found


def write(model: MultimodalLM, processor: Processor, out: Path, number: int = 1) -> list[Path]:
    """A folder of `number` shards with everything that belongs to it.

    The weights are stored as bfloat16 (or float16) where that loses nothing, else as float32.

    Raises:
        CheckpointError: the recipe cannot be expressed, or the weights cannot be cut so.
    """
    found = tensors(model)
    llama_type, args, words = facts_of(processor.recipe, found)
    divisible(args, number)
    files = shards.save(found, CUTS, number, out, narrowest(found.values()))
    processor.tokenizer.save(out)
    files.append(out / "tokenizer.model")
    texts = {"config.json": args, "meta.json": {"llama_type": llama_type}}
    if words:
        # No word of the reference's: sizes that it has in its code.
        texts["parts.json"] = {"words": words}
    for name, data in texts.items():
        (out / name).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        files.append(out / name)
    return files


def recut(source: Path, out: Path, number: int) -> list[Path]:
    """The same checkpoint in another number of shards; every key, as it is, one shard in memory at a time.

    Raises:
        CheckpointError: no folder of SPHINX, or weights that cannot be cut so.
    """
    (folder,) = sphinx_folder.folders([source])
    if folder.names is sphinx_folder.DIFFERENCE:
        raise CheckpointError("a difference is not cut anew", where=str(source))
    stored, _ = sphinx_folder.whole([folder])
    if folder.config is not None:
        divisible(json.loads(folder.config.read_text(encoding="utf-8")), number)
    files = shards.save(stored, CUTS, number, out)
    for beside in (folder.config, folder.meta, folder.tokenizer, source / "parts.json"):
        if beside is not None and beside.is_file():
            files.append(Path(shutil.copyfile(beside, out / beside.name)))
    return files


def divisible(args: Mapping[str, Any], number: int) -> None:
    """Refuse a number of shards that would cut through a head.

    Raises:
        CheckpointError: with the numbers that are possible.
    """
    heads = int(args["n_heads"])
    kv_heads = int(args.get("n_kv_heads") or heads)
    good = [n for n in range(1, kv_heads + 1) if kv_heads % n == 0 and heads % n == 0]
    if number not in good:
        raise CheckpointError(
            f"{heads} heads ({kv_heads} of keys) cannot be shared by {number} shards",
            hint=f"possible are {', '.join(map(str, good))}",
        )


def narrowest(found: Iterable[Tensor]) -> torch.dtype:
    """The smallest floating type that holds all numbers exactly."""
    kept = [torch.bfloat16, torch.float16]
    for tensor in found:
        kept = [dtype for dtype in kept if torch.equal(tensor, tensor.to(dtype).to(tensor.dtype))]
        if not kept:
            return torch.float32
    return kept[0]


def facts_of(
    recipe: Recipe, found: Mapping[str, Tensor]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The type, the configuration and the words that no file of the reference's has.

    Raises:
        CheckpointError: no SPHINX: something in the recipe has no words there.
    """
    refusal = CheckpointError(
        f"the recipe {recipe.name!r} cannot be written as SPHINX",
        where=recipe.name,
        hint=f"that takes the modalities of one of the recipes {', '.join(TYPES.values())} and a Llama",
    )
    if not isinstance(recipe.tokenizer, SentencePieceTokenizer):
        raise refusal
    try:
        args = _args(recipe)
        words = _words(recipe)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise refusal from None
    sizes = {key: tuple(tensor.shape) for key, tensor in found.items()}
    for llama_type in TYPES:
        facts = Facts(
            llama_type,
            args,
            sizes,
            context=args["max_seq_len"],
            heads={word: words[word] for word in HEADS if word in words},
            activation=words.get("clip_activation", "gelu"),
        )
        try:
            again = sphinx_recipe.build(facts, recipe.name, recipe.name)
        except OmnimixError:
            continue
        ours, theirs = (r.language.hf_config().to_dict() for r in (again, recipe))
        if again.modalities == recipe.modalities and ours == theirs:
            return llama_type, args, words
    raise refusal


def _args(recipe: Recipe) -> dict[str, Any]:
    """The trainer's dump of its arguments."""
    text = recipe.language.hf_config()
    rope = dict(text.rope_parameters)
    if rope.get("rope_type", "default") not in ("default", "linear"):
        raise ValueError("another kind of rotary scaling")
    dim, heads = int(text.hidden_size), int(text.num_attention_heads)
    kv_heads = int(text.num_key_value_heads)
    multiple, multiplier = _rounding(dim, int(text.intermediate_size))
    theta = float(rope["rope_theta"])
    return {
        "dim": dim,
        "n_layers": int(text.num_hidden_layers),
        "n_heads": heads,
        "n_kv_heads": None if kv_heads == heads else kv_heads,
        "vocab_size": int(text.vocab_size),
        "multiple_of": multiple,
        "ffn_dim_multiplier": multiplier,
        "norm_eps": float(text.rms_norm_eps),
        "rope_theta": int(theta) if theta.is_integer() else theta,
        "max_batch_size": 32,
        "max_seq_len": int(text.max_position_embeddings),
        "rope_scaling": 1.0 / rope["factor"] if "factor" in rope else None,
        "load_pretrained_visual_encoder": False,
    }


def _rounding(dim: int, width: int) -> tuple[int, float | None]:
    """`multiple_of` and `ffn_dim_multiplier` that make this width; Llama 2's 256 where it does."""
    for multiple in (256, *(2**i for i in range(12, -1, -1))):
        if sphinx_recipe.hidden(dim, multiple, None) == width:
            return multiple, None
    # Half a row more, since the product is rounded down.
    return 1, (width + 0.5) / int(2 * 4 * dim / 3)


def _words(recipe: Recipe) -> dict[str, Any]:
    """Words of `sphinx.WORDS` that differ from what the reader would take by itself."""
    image = recipe.modalities["image"].dump()
    asks = image["branches"][0]["encoders"][0]
    clip, _, dino = image["branches"][1]["encoders"]
    given: dict[str, Any] = {}
    for word, args, width in (
        ("clip_heads", clip.get("args", {}), "embed_dim"),
        ("dino_heads", dino.get("args", {}), "embed_dim"),
    ):
        if "num_heads" in args and HEADS[word].get(args[width]) != args["num_heads"]:
            given[word] = int(args["num_heads"])
    for word, part in (
        ("vit_heads", "vision_config"),
        ("qformer_heads", "qformer_config"),
    ):
        heads = int(asks[part]["num_attention_heads"])
        if HEADS[word].get(asks[part]["hidden_size"]) != heads:
            given[word] = heads
    activation = clip.get("args", {}).get("act_layer", "gelu")
    if activation != "gelu":
        given["clip_activation"] = activation
    context = int(recipe.language.hf_config().max_position_embeddings)
    if context != CONTEXT:
        given["max_seq_len"] = context
    return given
