"""Writing xGen-MM's layouts: what its own loaders accept, key by key (golden/specs/xgen_mm.md section 6)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from omnimix.checkpoints import tables
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError
from omnimix.families.xgen_mm import folder as xgen_mm, recipe as xgen_recipe
from omnimix.families.xgen_mm.recipe import MARKS, Facts
from omnimix.language.slow_llama import SlowLlama
from omnimix.media.tiling import GRIDS

SHARD_BYTES = 5_000_000_000
"""Most bytes of one file of weights, as the hub's releases have it."""


def facts_of(recipe: Recipe) -> Facts:
    """What `xgen_recipe.build` would make this very model of.

    Raises:
        CheckpointError: no xGen-MM: something in the recipe has no words there.
    """
    refusal = CheckpointError(
        f"the recipe {recipe.name!r} cannot be written as xGen-MM",
        where=recipe.name,
        hint="that takes Phi-3 with a head bias, a SigLIP tower, a perceiver, and the tokenizer slow_llama",
    )
    image = recipe.modalities.get("image")
    head, tokenizer = recipe.language.head, recipe.tokenizer
    if image is None or head is None or head.width is None or not isinstance(tokenizer, SlowLlama):
        raise refusal
    try:
        facts = _facts(recipe, image.dump(), head.width, tokenizer)
        again = xgen_recipe.build(facts, recipe.name, recipe.name)
    except (KeyError, IndexError, TypeError, ValueError):
        raise refusal from None
    same = (
        again.modalities == recipe.modalities
        and again.language.hf_config().to_dict() == recipe.language.hf_config().to_dict()
        and again.language.head == head
    )
    if not same:
        raise refusal
    return facts


def _facts(recipe: Recipe, image: Mapping[str, Any], width: int, tokenizer: SlowLlama) -> Facts:
    text = dict(recipe.language.config)
    text.pop("model_type")
    text["vocab_size"] = int(text["vocab_size"]) - len(MARKS)
    if text.get("sliding_window") is not None:
        text["sliding_window"] = int(text["sliding_window"]) - 1
    branch = image["branches"][0]
    encoder, connector = branch["encoders"][0], branch["connector"]
    vision = {k: v for k, v in encoder["config"].items() if k not in _NOT_SIZES}
    steps = image["steps"]
    first = steps[0]
    aspect = {"anyres": "anyres", "pad": "pad"}.get(first["kind"], "none")
    arrange = image.get("arrange") or {}
    pixels = encoder["steps"][0]
    return Facts(
        text=text,
        vision=vision,
        tokenizer=tokenizer,
        own_tokens=width - len(MARKS),
        latents=int(connector.get("latents", 128)),
        resampler={
            word: int(connector.get(word, default))
            for word, default in xgen_recipe.RESAMPLER.items()
        },
        aspect=aspect,
        sampling=arrange.get("kind") != "flat",
        grids=tuple(tuple(grid) for grid in first.get("grids", GRIDS)),
        mean=tuple(pixels["mean"]),
        std=tuple(pixels["std"]),
        add_bos=recipe.template.bos,
        chat=recipe.template.system is not None,
    )


_NOT_SIZES = ("model_type", "vision_use_head")


def tensors(model: MultimodalLM, prefix: str, tower: bool = True) -> dict[str, Tensor]:
    """Every tensor under the foreign names.

    The pooling head, which nobody uses and our model does not hold, is written as zeros, so that loaders
    which count keys find all of them.

    Args:
        prefix: see `xgen_mm.PREFIXES`.
        tower: whether the vision encoder is written.
    """
    facts = facts_of(model.recipe)
    state = {k: v for k, v in model.state_dict().items() if tower or xgen_mm.TOWER not in k}
    plan = xgen_mm.table(prefix, facts.own_tokens).writing(state)
    assert not plan.unknown and not plan.missing, (plan.unknown, plan.missing)
    found = tables.write(plan, state)
    if tower:
        like = state[f"{xgen_mm.TOWER}post_layernorm.weight"]
        found |= {
            f"{prefix}vision_encoder.head.{name}": like.new_zeros(shape)
            for name, shape in _head(facts.vision).items()
        }
    return {name: tensor.contiguous() for name, tensor in sorted(found.items())}


def _head(vision: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of SigLIP's pooling head."""
    width, inner = int(vision["hidden_size"]), int(vision["intermediate_size"])
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


def write(model: MultimodalLM, processor: Processor, out: Path) -> list[Path]:
    """The layout that the name asks for: `checkpoint_N.pt` is a trainer's file, another `.pt` the
    converter's bare state dict, anything else a hub folder.
    """
    if out.suffix != ".pt":
        return hub(model, processor, out)
    if xgen_mm.CHECKPOINT.match(out.name):
        return [trainer(model, out)]
    return [bare(model, out)]


def bare(model: MultimodalLM, out: Path) -> Path:
    """The converter's state dict without a wrapper."""
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors(model, ""), out)
    return out


def trainer(model: MultimodalLM, out: Path, ddp: bool = False) -> Path:
    """A file that the reference's trainer and notebook take, as at the end of epoch 0.

    Args:
        ddp: as under DDP: keys with `module.`, the frozen vision encoder left out.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    state = tensors(model, "module." if ddp else "", tower=not ddp)
    torch.save({"epoch": 0, "step": None, "model_state_dict": state}, out)
    return out


def hub(model: MultimodalLM, processor: Processor, out: Path) -> list[Path]:
    """A hub folder: configuration, processor, tokenizer and shards."""
    facts = facts_of(model.recipe)
    out.mkdir(parents=True, exist_ok=True)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    written = [
        _json(out / "config.json", _config(facts, dtype)),
        _json(out / "preprocessor_config.json", _preprocessor(facts)),
        _json(out / "generation_config.json", _generation(facts)),
        *_tokenizer(facts, processor, out),
    ]
    return written + _shards(tensors(model, "vlm."), out)


def _shards(state: Mapping[str, Tensor], out: Path, most: int = SHARD_BYTES) -> list[Path]:
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in state.items():
        if groups[-1] and size + tensor.nbytes > most:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += tensor.nbytes
    names = [f"model-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1)]
    for name, group in zip(names, groups, strict=True):
        save_file({key: state[key] for key in group}, out / name, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in state.values())},
        "weight_map": {k: n for n, group in zip(names, groups, strict=True) for k in group},
    }
    return [*(out / name for name in names), _json(out / "model.safetensors.index.json", index)]


def _config(facts: Facts, dtype: str) -> dict[str, Any]:
    text = {k: v for k, v in facts.text.items() if xgen_recipe.TEXT.get(k) != v}
    encoder: dict[str, Any] = {"model_type": "xgenmm_vision_encoder"}
    if facts.aspect != "none":
        encoder |= {"image_aspect_ratio": facts.aspect, "anyres_patch_sampling": facts.sampling}
    if facts.aspect == "anyres":
        encoder["anyres_grids"] = _pixels(facts)
    if dict(facts.vision) != xgen_recipe.VISION:
        # The reference has one tower and so no words for its sizes; these are read back here alone.
        encoder["omnimix_sizes"] = dict(facts.vision)
    resampler: dict[str, Any] = {
        "model_type": "xgenmm_vision_tokenizer",
        "num_vis_tokens": facts.latents,
        "vis_feature_dim": facts.vision["hidden_size"],
        "lang_embedding_dim": facts.text["hidden_size"],
    }
    if dict(facts.resampler) != xgen_recipe.RESAMPLER:
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
            "initial_tokenizer_len": facts.own_tokens,
            **text,
        },
        "vision_encoder_config": encoder,
        "vision_tokenizer_config": resampler,
        "torch_dtype": dtype,
    }


def _pixels(facts: Facts) -> list[list[int]]:
    side = int(facts.vision["image_size"])
    return [[width * side, height * side] for width, height in facts.grids]


def _preprocessor(facts: Facts) -> dict[str, Any]:
    side = int(facts.vision["image_size"])
    return {
        "auto_map": {"AutoImageProcessor": "image_processing_blip_3.Blip3ImageProcessor"},
        "do_resize": True,
        "grids": _pixels(facts),
        "image_mean": list(facts.mean),
        "image_processor_type": "Blip3ImageProcessor",
        "image_std": list(facts.std),
        "interpolation_mode": "bicubic",
        "resize_mode": "squash",
        "size": [side, side],
    }


def _generation(facts: Facts) -> dict[str, Any]:
    ids = {token.text: token.id for token in facts.tokenizer.added}
    found = {
        "bos_token_id": facts.text.get("bos_token_id"),
        "eos_token_id": ids.get("<|end|>", facts.text.get("eos_token_id")),
        "pad_token_id": facts.text.get("pad_token_id"),
    }
    return {word: i for word, i in found.items() if i is not None}


def _tokenizer(facts: Facts, processor: Processor, out: Path) -> list[Path]:
    """The tokenizer as its own loader knows it; it adds the three marks itself."""
    spec = facts.tokenizer
    name = processor.tokenizer.save(out)
    if name != "tokenizer.model":
        shutil.move(out / name, out / "tokenizer.model")
    own = [token for token in spec.added if token.text not in MARKS]
    special = {spec.bos, spec.eos, spec.unk, spec.pad}
    config = {
        "add_bos_token": facts.add_bos,
        "add_eos_token": False,
        "added_tokens_decoder": {
            str(token.id): {
                "content": token.text,
                "lstrip": token.lstrip,
                "normalized": False,
                "rstrip": token.rstrip,
                "single_word": False,
                "special": token.text in special or token.rstrip,
            }
            for token in own
        },
        "bos_token": spec.bos,
        "clean_up_tokenization_spaces": False,
        "eos_token": spec.eos,
        "legacy": False,
        "model_max_length": facts.text.get("max_position_embeddings", 4096),
        "pad_token": spec.pad,
        "padding_side": "left",
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": spec.unk,
    }
    words = ("bos_token", "eos_token", "pad_token", "unk_token")
    return [
        out / "tokenizer.model",
        _json(out / "tokenizer_config.json", config),
        _json(out / "special_tokens_map.json", {word: config[word] for word in words}),
        _json(
            out / "added_tokens.json",
            {token.text: token.id for token in own if token.id >= len(_plain(processor))},
        ),
    ]


def _plain(processor: Processor) -> range:
    """Ids of the SentencePiece model itself."""
    size: int = processor.tokenizer.base  # type: ignore[attr-defined]
    return range(size)


def _json(path: Path, words: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(words, indent=2) + "\n", encoding="utf-8")
    return path
