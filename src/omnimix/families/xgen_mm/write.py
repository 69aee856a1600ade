"""Writing xGen-MM's layouts: what its own loaders accept, key by key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnimix.checkpoints import tables, writing
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.families.xgen_mm.names import TOWER, table
from omnimix.families.xgen_mm.recipe import MARKS, RESAMPLER, VISION, Facts

CHECKPOINT = r"checkpoint_(\d+)\.pt"
"""The name of a trainer's file."""


def write(facts: Facts, model: MultimodalLM, processor: Processor, out: Path) -> list[Path]:
    """The layout that the name asks for: `checkpoint_N.pt` is a trainer's file, another `.pt` the
    converter's bare state dict, anything else a hub folder.
    """
    if out.suffix != ".pt":
        return hub(facts, model, processor, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if re.fullmatch(CHECKPOINT, out.name):
        torch.save(trainer(facts, model), out)
    else:
        torch.save(tensors(facts, model), out)
    return [out]


def tensors(
    facts: Facts, model: MultimodalLM, prefix: str = "", tower: bool = True
) -> dict[str, Tensor]:
    """Every tensor under the foreign names.

    The pooling head, which nobody uses and our model does not hold, is written as zeros, so that loaders
    which count keys find all of them.

    Args:
        prefix: see `names.PREFIXES`.
        tower: whether the vision encoder is written.
    """
    state = {k: v for k, v in model.state_dict().items() if tower or TOWER not in k}
    plan = table(prefix, facts.used).writing(state)
    assert not plan.unknown and not plan.missing, (plan.unknown, plan.missing)
    theirs = tables.write(plan, state)
    if tower:
        like = state[f"{TOWER}post_layernorm.weight"]
        for name, shape in _head(facts).items():
            theirs[f"{prefix}vision_encoder.head.{name}"] = like.new_zeros(shape)
    return {name: tensor.contiguous() for name, tensor in sorted(theirs.items())}


def _head(facts: Facts) -> dict[str, tuple[int, ...]]:
    """Shapes of SigLIP's pooling head."""
    width, inner = int(facts.tower.hidden_size), int(facts.tower.intermediate_size)
    return {
        "probe": (1, 1, width),
        "attention.in_proj_weight": (3 * width, width),
        "attention.in_proj_bias": (3 * width,),
        "attention.out_proj.weight": (width, width),
        "attention.out_proj.bias": (width,),
        "layernorm.weight": (width,),
        "layernorm.bias": (width,),
        "mlp.fc1.weight": (inner, width),
        "mlp.fc1.bias": (inner,),
        "mlp.fc2.weight": (width, inner),
        "mlp.fc2.bias": (width,),
    }


def trainer(facts: Facts, model: MultimodalLM, ddp: bool = False) -> dict[str, Any]:
    """What the reference's trainer and notebook take, as at the end of epoch 0.

    Args:
        ddp: as under DDP: keys with `module.`, the frozen vision encoder left out.
    """
    state = tensors(facts, model, "module." if ddp else "", tower=not ddp)
    return {"epoch": 0, "step": None, "model_state_dict": state}


def hub(facts: Facts, model: MultimodalLM, processor: Processor, out: Path) -> list[Path]:
    """A hub folder: configuration, processor, tokenizer and shards."""
    out.mkdir(parents=True, exist_ok=True)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    files = {
        "config.json": _config(facts, dtype),
        "preprocessor_config.json": _preprocessor(facts),
        "generation_config.json": _generation(facts),
        **_tokenizer(facts, int(processor.tokenizer.base)),  # type: ignore[attr-defined]
    }
    for name, words in files.items():
        (out / name).write_text(json.dumps(words, indent=2) + "\n", encoding="utf-8")
    model_file = out / "tokenizer.model"
    (out / processor.tokenizer.save(out)).replace(model_file)
    shards = writing.save(out, tensors(facts, model, "vlm."))
    return [*(out / name for name in files), model_file, *shards]


def _config(facts: Facts, dtype: str) -> dict[str, Any]:
    encoder: dict[str, Any] = {"model_type": "xgenmm_vision_encoder"}
    if facts.aspect != "none":
        encoder |= {"image_aspect_ratio": facts.aspect, "anyres_patch_sampling": facts.sampling}
    if facts.aspect == "anyres":
        encoder["anyres_grids"] = _pixels(facts)
    if dict(facts.vision) != VISION:
        # The reference has one tower and so no words for its sizes; these are read back here alone.
        encoder["omnimix_sizes"] = dict(facts.vision)
    resampler: dict[str, Any] = {
        "model_type": "xgenmm_vision_tokenizer",
        "num_vis_tokens": facts.latents,
        "vis_feature_dim": facts.tower.hidden_size,
        "lang_embedding_dim": facts.phi.hidden_size,
    }
    if dict(facts.resampler) != RESAMPLER:
        resampler |= facts.resampler
    name = "XGenMMModelForConditionalGeneration"
    return {
        "architectures": [name],
        "auto_map": {
            "AutoConfig": "modeling_xgenmm.XGenMMConfig",
            "AutoModelForVision2Seq": f"modeling_xgenmm.{name}",
        },
        "model_type": "xgenmm",
        "text_config": {
            "model_type": "phi3",
            "initial_tokenizer_len": facts.used,
            **facts.text,
        },
        "vision_encoder_config": encoder,
        "vision_tokenizer_config": resampler,
        "torch_dtype": dtype,
    }


def _pixels(facts: Facts) -> list[list[int]]:
    return [[width * facts.side, height * facts.side] for width, height in facts.grids]


def _preprocessor(facts: Facts) -> dict[str, Any]:
    return {
        "auto_map": {"AutoImageProcessor": "image_processing_blip_3.Blip3ImageProcessor"},
        "do_resize": True,
        "grids": _pixels(facts),
        "image_mean": list(facts.mean),
        "image_processor_type": "Blip3ImageProcessor",
        "image_std": list(facts.std),
        "interpolation_mode": "bicubic",
        "resize_mode": "squash",
        "size": [facts.side, facts.side],
    }


def _generation(facts: Facts) -> dict[str, Any]:
    ids = {token.content: token.id for token in facts.tokenizer.added_tokens}
    words = {
        "bos_token_id": facts.phi.bos_token_id,
        "eos_token_id": ids.get("<|end|>", facts.phi.eos_token_id),
        "pad_token_id": facts.phi.pad_token_id,
    }
    return {word: i for word, i in words.items() if i is not None}


def _tokenizer(facts: Facts, plain: int) -> dict[str, Any]:
    """The tokenizer's files as its own loader knows them; it adds the three marks itself.

    Args:
        plain: ids of the SentencePiece model, in which a few of the added tokens lie.
    """
    spec = facts.tokenizer
    own = [token for token in spec.added_tokens if token.content not in MARKS]
    special = {spec.bos_token, spec.eos_token, spec.unk_token, spec.pad_token}
    texts = {
        "bos_token": spec.bos_token,
        "eos_token": spec.eos_token,
        "pad_token": spec.pad_token,
        "unk_token": spec.unk_token,
    }
    config = {
        "add_bos_token": facts.add_bos,
        "add_eos_token": False,
        "added_tokens_decoder": {
            str(token.id): {
                "content": token.content,
                "lstrip": token.lstrip,
                "normalized": False,
                "rstrip": token.rstrip,
                "single_word": False,
                "special": token.content in special or token.rstrip,
            }
            for token in own
        },
        "clean_up_tokenization_spaces": False,
        "legacy": False,
        "model_max_length": facts.phi.max_position_embeddings,
        "padding_side": "left",
        "tokenizer_class": "LlamaTokenizer",
        **texts,
    }
    return {
        "tokenizer_config.json": config,
        "special_tokens_map.json": texts,
        "added_tokens.json": {token.content: token.id for token in own if token.id >= plain},
    }
