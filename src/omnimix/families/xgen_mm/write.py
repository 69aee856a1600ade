"""The files of xGen-MM's layouts, as its own loaders accept them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel

from omnimix.checkpoints import writing
from omnimix.checkpoints.files import write_json
from omnimix.compose.processor import Processor
from omnimix.families.xgen_mm import tokenizer
from omnimix.families.xgen_mm.recipe import RESAMPLER, VISION, Facts

_MODEL = "XGenMMModelForConditionalGeneration"


def pooling_head(facts: Facts, like: Tensor) -> dict[str, Tensor]:
    """SigLIP's pooling head as zeros: nobody uses it, but loaders that count keys find all of them."""
    with torch.device("meta"):
        tower = AutoModel.from_config(facts.tower)
    keys = {name.partition("head.")[2]: t.shape for name, t in tower.state_dict().items()}
    return {f"head.{name}": like.new_zeros(shape) for name, shape in keys.items() if name}


def hub(facts: Facts, tensors: Mapping[str, Tensor], processor: Processor, out: Path) -> list[Path]:
    """A hub folder: configuration, processor, tokenizer and shards."""
    out.mkdir(parents=True, exist_ok=True)
    plain = int(processor.weave.tokenizer.base)  # type: ignore[attr-defined]  # every SlowLlama has it
    length = facts.phi.max_position_embeddings
    files = {
        "config.json": _config(facts, next(iter(tensors.values())).dtype),
        "preprocessor_config.json": _preprocessor(facts),
        "generation_config.json": _generation(facts),
        **tokenizer.files(facts.tokenizer, facts.add_bos, length, plain),
    }
    written = [write_json(out / name, words) for name, words in files.items()]
    return [*written, out / processor.weave.tokenizer.save(out), *writing.save(out, tensors)]


def _config(facts: Facts, dtype: torch.dtype) -> dict[str, Any]:
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
    text = {"model_type": "phi3", "initial_tokenizer_len": facts.used, **facts.text}
    return {
        "architectures": [_MODEL],
        "auto_map": {
            "AutoConfig": "modeling_xgenmm.XGenMMConfig",
            "AutoModelForVision2Seq": f"modeling_xgenmm.{_MODEL}",
        },
        "model_type": "xgenmm",
        "text_config": text,
        "vision_encoder_config": encoder,
        "vision_tokenizer_config": resampler,
        "torch_dtype": str(dtype).removeprefix("torch."),
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
    ends = {token.id for token in facts.tokenizer.added_tokens if token.content == "<|end|>"}
    words = {
        "bos_token_id": facts.phi.bos_token_id,
        "eos_token_id": next(iter(ends), facts.phi.eos_token_id),
        "pad_token_id": facts.phi.pad_token_id,
    }
    return {word: i for word, i in words.items() if i is not None}
