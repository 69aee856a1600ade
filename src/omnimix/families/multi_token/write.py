"""A model written as an output folder of multi_token's trainer.

The folder holds the adapter and the projectors as the trainer writes them. What such a folder does not hold
(base model, encoders) lies under `backbones` in the hub's layout, so that the folder can be opened anywhere;
`parts.json` says where.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from omnimix.checkpoints import writing
from omnimix.checkpoints.base import Family
from omnimix.checkpoints.files import write_json
from omnimix.compose.modality import ModalitySpec
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.families.multi_token import names as tables
from omnimix.families.multi_token.recipe import LLM, Words
from omnimix.families.multi_token.senses import SENSES
from omnimix.media.files import found as located, looking_in

if TYPE_CHECKING:
    Reader = Family[Any, Words]

NO_RANK = {"r": 1, "lora_alpha": 1.0, "lora_dropout": 0.0}
"""The adapter of a model without one: of rank 1 and zero, since the reference opens no folder without."""


def put(
    family: Reader, words: Words, model: MultimodalLM, processor: Processor, out: Path
) -> list[Path]:
    """Write the folder; returns its files.

    Raises:
        CheckpointError: what of the recipe has no counterpart there.
    """
    recipe = processor.recipe
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    connectors = {name: t for name, t in state.items() if ".connector." in name}
    path = out / "non_lora_trainables.bin"
    projectors = _narrow(family.foreign(family.names(recipe)["projectors"], connectors, recipe))
    torch.save(projectors, path)
    files = [path, *_language(family, words, state, processor, out)]
    sizes = {key: tuple(tensor.shape) for key, tensor in projectors.items()}
    places, options = {"llm": LLM}, dict[str, Any]()
    for theirs, projector in tables.projectors(sizes).items():
        places[theirs] = place = f"backbones/{theirs}"
        files += _encoder(family, theirs, state, processor, out / place)
        options |= _options(family, theirs, projector, processor, out / place)
    parts = {"places": places, "words": options}
    return [
        *files,
        write_json(out / "config.json", words.config),
        write_json(out / "parts.json", parts),
    ]


def _language(
    family: Reader, words: Words, state: Mapping[str, Tensor], processor: Processor, out: Path
) -> list[Path]:
    """The base language model in the hub's layout, and the adapter."""
    recipe = processor.recipe
    own = _below("language.", state)
    if words.adapter is None:
        table = tables.merged_table(1.0, _linear(own))
    else:
        learned = {name: tensor for name, tensor in own.items() if ".lora_" in name}
        targets = tables.adapted(family.foreign(tables.adapter_table(), learned, recipe))
        table = tables.kept_table(targets)
    theirs = family.foreign(table, own, recipe)
    adapter = {key: t for key, t in theirs.items() if key.startswith(tables.LORA)}
    folder, path = out / LLM, out / "adapter_model.safetensors"
    folder.mkdir(parents=True)
    save_file(_narrow(adapter), path)
    processor.weave.tokenizer.save(folder)
    config = {"architectures": ["MistralForCausalLM"], **recipe.language.config}
    # What the reference's peft wants to find of its LoraConfig.
    said = words.adapter or NO_RANK
    adapter_config = {
        "base_model_name_or_path": LLM,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        **{word: said[word] for word in NO_RANK},
        "peft_type": "LORA",
        "target_modules": sorted({name.rpartition(".")[2] for name in tables.adapted(adapter)}),
        "task_type": "CAUSAL_LM",
    }
    return [
        *writing.save(folder, _narrow({k: t for k, t in theirs.items() if k not in adapter})),
        write_json(folder / "config.json", config),
        write_json(folder / "tokenizer_config.json", words.tokenizer),
        path,
        write_json(out / "adapter_config.json", adapter_config),
    ]


def _linear(state: Mapping[str, Tensor]) -> list[str]:
    """The linear layers of a block, named from it on."""
    layers: dict[str, None] = {}
    for name, tensor in state.items():
        inner = name.removeprefix("language.model.layers.")
        if inner != name and name.endswith(".weight") and tensor.ndim == 2:
            layers[inner.partition(".")[2].removesuffix(".weight")] = None
    return list(layers)


def _encoder(
    family: Reader, theirs: str, state: Mapping[str, Tensor], processor: Processor, folder: Path
) -> list[Path]:
    """An encoder's folder in the hub's layout."""
    known, recipe = SENSES[theirs], processor.recipe
    own = _below(f"{known.name}.branches.0.encoders.0.", state)
    folder.mkdir(parents=True)
    stored = _narrow(family.foreign(family.names(recipe)[theirs], own, recipe))
    files = writing.save(folder, stored)
    words = recipe.modalities[known.name].dump()
    files += [write_json(folder / name, data) for name, data in known.told(words).items()]
    with looking_in(processor.weave.folders):
        for name, place in known.carried(words, folder / "model.safetensors").items():
            files.append(Path(shutil.copyfile(located(name), place)))
    return files


def _options(
    family: Reader, theirs: str, projector: tables.Projector, processor: Processor, folder: Path
) -> dict[str, Any]:
    """The words with which the reader makes this very modality of what was written.

    Raises:
        CheckpointError: it makes another one.
    """
    known, recipe = SENSES[theirs], processor.recipe
    spec = recipe.modalities[known.name]
    options = known.options(spec.dump())
    again = known.words(projector, known.spot(folder, theirs), options)
    if not known.alike(ModalitySpec.model_validate(again), spec):
        raise family.refusal(
            recipe,
            f"its {known.name} is prepared or encoded in another way than there",
            hint=f"compare it with the recipe {known.recipe}",
        )
    return options


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name.startswith(prefix)}


def _narrow(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As bfloat16 (or float16) where that loses nothing, each tensor of its own."""
    dtype = writing.narrowest(t for t in tensors.values() if t.is_floating_point())
    return {
        key: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().clone()
        for key, tensor in tensors.items()
    }
