"""A run folder of the Prismatic trainer, and the parts that it does not hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from omnimix.checkpoints.files import write_json
from omnimix.compose.processor import Processor
from omnimix.families.prismatic.names import CHECKPOINT
from omnimix.families.prismatic.recipe import Words, plain

SECTION = (
    "model_id",
    "vision_backbone_id",
    "llm_backbone_id",
    "arch_specifier",
    "image_resize_strategy",
    "llm_max_length",
)
"""Words of the model section of config.json."""


def folder(
    words: Words, tensors: Mapping[str, Mapping[str, Tensor]], processor: Processor, out: Path
) -> list[Path]:
    """Write a run folder and, under `backbones`, the parts that a run folder does not hold.

    `parts.json` says where they lie, so that the folder can be opened anywhere; Prismatic's own loader
    takes them from the hub and ignores both.

    Args:
        tensors: under their keys, of the checkpoint and of each encoder's part.
    """
    vision, llm = out / "backbones" / "vision", out / "backbones" / "llm"
    for place in (out / "checkpoints", vision, llm):
        place.mkdir(parents=True, exist_ok=True)
    section = {word: getattr(words, word) for word in SECTION}
    places = {"llm": "backbones/llm"}
    files = [write_json(out / "config.json", {"model": section, "stage": "finetune"})]
    files.append(out / "checkpoints" / "latest-checkpoint.pt")
    torch.save({"model": _nested(tensors[CHECKPOINT])}, files[-1])
    for part in tensors:
        if part != CHECKPOINT:
            places[part] = f"backbones/vision/{part}.safetensors"
            save_file({key: _alone(t) for key, t in tensors[part].items()}, out / places[part])
            files.append(out / places[part])
    facts = {"image_size": words.image_size, "vision": words.vision}
    files.append(write_json(out / "parts.json", {"places": places, "words": facts}))
    write_json(llm / "config.json", {**plain(words.llm), "vocab_size": words.tokens})
    write_json(llm / "tokenizer_config.json", {"clean_up_tokenization_spaces": words.tidy})
    processor.weave.tokenizer.save(llm)
    return [*files, *sorted(llm.iterdir())]


def _nested(flat: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Keys `model.<group>.<name>` as the trainer nests them, the projector's group first."""
    groups: dict[str, dict[str, Tensor]] = {"projector": {}, "llm_backbone": {}}
    for key, tensor in flat.items():
        _, group, name = key.split(".", 2)
        groups[group][name] = _alone(tensor)
    return groups


def _alone(tensor: Tensor) -> Tensor:
    """A tensor with memory of its own: a view would save all that it looks into."""
    return tensor.detach().cpu().contiguous().clone()
