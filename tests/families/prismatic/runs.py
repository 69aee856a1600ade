"""Made-up run folders, laid out key by key as golden/specs/prismatic.md says and by none of our own writers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from tests.cases import case_path

SIZE, WIDTH, TOKENS = 64, 16, {"llama2": 640, "phi-2": 704}
SHRUNK = {"embed_dim": 16, "depth": 3, "num_heads": 2}

# Section 2 and registry_tables.json: streams of the checkpoint's own names, and timm's names.
ENCODERS: dict[str, dict[str, str]] = {
    "clip-vit-b": {"vision": "vit_base_patch16_clip_224"},
    "clip-vit-l": {"vision": "vit_large_patch14_clip_224"},
    "clip-vit-l-336px": {"vision": "vit_large_patch14_clip_336"},
    "siglip-vit-b16-224px": {"vision": "vit_base_patch16_siglip_224"},
    "siglip-vit-b16-256px": {"vision": "vit_base_patch16_siglip_256"},
    "siglip-vit-b16-384px": {"vision": "vit_base_patch16_siglip_384"},
    "siglip-vit-so400m": {"vision": "vit_so400m_patch14_siglip_224"},
    "siglip-vit-so400m-384px": {"vision": "vit_so400m_patch14_siglip_384"},
    "dinov2-vit-l": {"vision": "vit_large_patch14_reg4_dinov2"},
    "in1k-vit-l": {"vision": "vit_large_patch16_224"},
    "dinoclip-vit-l-336px": {
        "dino": "vit_large_patch14_reg4_dinov2",
        "clip": "vit_large_patch14_clip_336",
    },
    "dinosiglip-vit-so-224px": {
        "dino": "vit_large_patch14_reg4_dinov2",
        "siglip": "vit_so400m_patch14_siglip_224",
    },
    "dinosiglip-vit-so-384px": {
        "dino": "vit_large_patch14_reg4_dinov2",
        "siglip": "vit_so400m_patch14_siglip_384",
    },
}

# Section 5 and 7: kind of the language model, its tokenizer here, and the style of its prompts.
LLMS = {
    "llama2-7b-pure": ("llama", "llama2", "pure"),
    "llama2-13b-pure": ("llama", "llama2", "pure"),
    "llama2-7b-chat": ("llama", "llama2", "llama2_chat"),
    "llama2-13b-chat": ("llama", "llama2", "llama2_chat"),
    "vicuna-v15-7b": ("llama", "llama2", "vicuna_v15"),
    "vicuna-v15-13b": ("llama", "llama2", "vicuna_v15"),
    "mistral-v0.1-7b-pure": ("mistral", "llama2", "pure"),
    "mistral-v0.1-7b-instruct": ("mistral", "llama2", "mistral_prismatic"),
    "phi-2-3b": ("phi", "phi-2", "phi"),
}


def projector(arch: str, vision: int, out: int) -> dict[str, Tensor]:
    """Section 4: which layers there are, and under which keys."""
    shapes = {
        "linear": {"projector": (out, vision)},
        "gelu-mlp": {"projector.0": (out, vision), "projector.2": (out, out)},
        "fused-gelu-mlp": {
            "projector.0": (4 * vision, vision),
            "projector.2": (out, 4 * vision),
            "projector.4": (out, out),
        },
    }[arch.removeprefix("no-align+")]
    return {
        f"{name}.{kind}": torch.randn(shape if kind == "weight" else shape[:1]) * 0.1
        for name, shape in shapes.items()
        for kind in ("weight", "bias")
    }


def made(place: Path, vision: str, llm: str, arch: str, strategy: str = "resize-naive") -> Path:
    """A run folder with its parts in a folder `backbones` beside it; returns the run."""
    torch.manual_seed(0)
    kind, words, _ = LLMS[llm]
    run, backbones = place / "run", place / "backbones"
    (run / "checkpoints").mkdir(parents=True)
    (backbones / "vision").mkdir(parents=True)
    shutil.copytree(
        case_path(f"prismatic/text_and_data/tokenizers/{words}"),
        backbones / "llm",
        copy_function=shutil.copyfile,
    )
    config = {
        "model_type": kind,
        "hidden_size": WIDTH,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    (backbones / "llm" / "config.json").write_text(json.dumps(config))
    language = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**config, vocab_size=TOKENS[words])
    )
    width = 0
    for part, name in ENCODERS[vision].items():
        trunk: Any = timm.create_model(
            name, pretrained=False, img_size=SIZE, dynamic_img_size=False, **SHRUNK
        )
        save_file(trunk.state_dict(), backbones / "vision" / f"any_{part}.safetensors")
        width += SHRUNK["embed_dim"]
    section = {
        "model_id": "made-up",
        "vision_backbone_id": vision,
        "llm_backbone_id": llm,
        "arch_specifier": arch,
        "image_resize_strategy": strategy,
        "llm_max_length": 300,
    }
    (run / "config.json").write_text(json.dumps({"model": section, "stage": "finetune"}))
    state = {f"llm.{key}": tensor.clone() for key, tensor in language.state_dict().items()}
    stored = {"model": {"projector": projector(arch, width, WIDTH), "llm_backbone": state}}
    torch.save(stored, run / "checkpoints" / "latest-checkpoint.pt")
    return run


def words(vision: str) -> dict[str, Any]:
    """What no file tells of such a stand-in."""
    return {"image_size": SIZE, "vision": dict.fromkeys(ENCODERS[vision], SHRUNK)}
