"""Writing SPHINX folders: what the reference's loader accepts, in any number of shards that it permits."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from omnimix.checkpoints import shards
from omnimix.checkpoints.files import read_json, write_json
from omnimix.checkpoints.writing import narrowest
from omnimix.compose.processor import Processor
from omnimix.errors import CheckpointError
from omnimix.families.sphinx.names import CLIP, CUTS, DINO
from omnimix.families.sphinx.recipe import CONTEXT, Words
from omnimix.families.sphinx.shards import look, stacked, whole
from omnimix.families.sphinx.sizes import heads_said

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


def with_unused(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors and, as zeros, those of a release that nobody uses.

    CLIP's text tower is left out where CLIP is not of the released size: its sizes are then not known,
    and the reference only warns of missing keys.
    """
    like = tensors[f"{DINO}cls_token"]
    unused = {f"{DINO}mask_token": like.new_zeros(like.shape[1:])}
    if tensors[f"{CLIP}visual.class_embedding"].shape[0] == CLIP_WIDTH:
        unused |= {f"{CLIP}{key}": like.new_zeros(shape) for key, shape in CLIP_TEXT.items()}
    return {**tensors, **unused}


def folder(
    words: Words, tensors: Mapping[str, Tensor], processor: Processor, out: Path, number: int
) -> list[Path]:
    """A folder of `number` shards with everything that belongs to it.

    The weights are stored as bfloat16 (or float16) where that loses nothing, else as float32.

    Raises:
        CheckpointError: the weights cannot be cut so.
    """
    divisible(words.args, number)
    files = shards.save(with_unused(tensors), CUTS, number, out, narrowest(tensors.values()))
    processor.weave.tokenizer.save(out)
    files.append(out / "tokenizer.model")
    texts: dict[str, Any] = {
        "config.json": words.args,
        "meta.json": {"llama_type": words.llama_type},
    }
    if facts := _facts(words):
        # No word of the reference's: sizes that it has in its code.
        texts["parts.json"] = {"words": facts}
    return files + [write_json(out / name, data) for name, data in texts.items()]


def _facts(words: Words) -> dict[str, Any]:
    """Words that no file of the reference's has, where they differ from what is taken without them."""
    facts: dict[str, Any] = heads_said(words.encoders)
    activation = words.encoders["clip"].get("args", {}).get("act_layer", "gelu")
    if activation != "gelu":
        facts["clip_activation"] = activation
    if words.args["max_seq_len"] != CONTEXT:
        facts["max_seq_len"] = words.args["max_seq_len"]
    return facts


def recut(source: Path, out: Path, number: int) -> list[Path]:
    """The same checkpoint in another number of shards; every key, as it is, one shard in memory at a time.

    Raises:
        CheckpointError: no folder of SPHINX, or weights that cannot be cut so.
    """
    layout = look(source)
    if layout is None:
        raise CheckpointError("there are no shards of SPHINX", where=str(source))
    stored, _ = whole(stacked(layout))
    if layout.config is not None:
        divisible(read_json(layout.config) or {}, number)
    files = shards.save(stored, CUTS, number, out)
    for beside in (layout.config, layout.meta, layout.tokenizer, source / "parts.json"):
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
