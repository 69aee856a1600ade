"""A model written as an output folder of multi_token's trainer.

The folder holds the adapter and the projectors as the trainer writes them. What such a folder does not hold
(base model, encoders) lies under `backbones` in the hub's layout, so that the folder can be opened anywhere;
`parts.json` says where.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from omnimix.checkpoints import writing
from omnimix.checkpoints.base import Family
from omnimix.compose.modality import ModalitySpec
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.families.multi_token import imagebind, names as tables
from omnimix.families.multi_token.recipe import LLM, Words
from omnimix.families.multi_token.senses import SENSES, alike, words_of
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
    table = family.names(recipe)["projectors"]
    projectors = family.foreign(table, connectors, recipe)
    torch.save(_narrow(projectors), path)
    files = [path, *_language(family, words, state, processor, out)]
    places, facts = {"llm": LLM}, dict[str, Any]()
    for theirs in words.senses:
        places[theirs] = f"backbones/{theirs}"
        files += _encoder(family, theirs, state, processor, out / places[theirs])
        facts |= _facts(family, theirs, projectors, recipe, out / places[theirs])
    files.append(_json(out / "config.json", words.config))
    files.append(_json(out / "parts.json", {"places": places, "words": facts}))
    return files


def _language(
    family: Reader,
    words: Words,
    state: Mapping[str, Tensor],
    processor: Processor,
    out: Path,
) -> list[Path]:
    """The base language model in the hub's layout, and the adapter."""
    recipe = processor.recipe
    own = {name: tensor for name, tensor in state.items() if name.startswith("language.")}
    if words.adapter is None:
        table = tables.merged_table(1.0, _linear(own))
    else:
        learned = {name: tensor for name, tensor in own.items() if ".lora_" in name}
        targets = tables.adapted(family.foreign(tables.adapter_table(), learned, recipe))
        table = tables.kept_table(targets)
    found = family.foreign(table, own, recipe)
    adapter = {key: t for key, t in found.items() if key.startswith(tables.LORA)}
    folder = out / LLM
    folder.mkdir(parents=True)
    base = _narrow({key: t for key, t in found.items() if key not in adapter})
    files = writing.save(folder, base)
    config = {"architectures": ["MistralForCausalLM"], **recipe.language.config}
    files.append(_json(folder / "config.json", config))
    processor.tokenizer.save(folder)
    files.append(_json(folder / "tokenizer_config.json", words.tokenizer))
    path = out / "adapter_model.safetensors"
    save_file(_narrow(adapter), path)
    told = _adapter_config(words.adapter or NO_RANK, tables.adapted(adapter))
    return [*files, path, _json(out / "adapter_config.json", told)]


def _linear(state: Mapping[str, Tensor]) -> list[str]:
    """The linear layers of a block, named from it on."""
    layers: dict[str, None] = {}
    for name, tensor in state.items():
        inner = name.removeprefix("language.model.layers.")
        if inner != name and name.endswith(".weight") and tensor.ndim == 2:
            layers[inner.partition(".")[2].removesuffix(".weight")] = None
    return list(layers)


def _adapter_config(words: Mapping[str, Any], targets: Iterable[str]) -> dict[str, Any]:
    """The words of peft's LoraConfig that the reference's peft wants to find."""
    return {
        "base_model_name_or_path": LLM,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": words["lora_alpha"],
        "lora_dropout": words["lora_dropout"],
        "peft_type": "LORA",
        "r": words["r"],
        "target_modules": sorted({target.rpartition(".")[2] for target in targets}),
        "task_type": "CAUSAL_LM",
    }


def _encoder(
    family: Reader, theirs: str, state: Mapping[str, Tensor], processor: Processor, folder: Path
) -> list[Path]:
    """An encoder's folder in the hub's layout."""
    known, recipe = SENSES[theirs], processor.recipe
    prefix = f"{known.name}.branches.0.encoders.0."
    own = {name: tensor for name, tensor in state.items() if name.startswith(prefix)}
    folder.mkdir(parents=True)
    found = family.foreign(family.names(recipe)[theirs], own, recipe)
    files = writing.save(folder, _narrow(found))
    words = recipe.modalities[known.name].dump()
    files += [_json(folder / name, data) for name, data in known.told(words).items()]
    with looking_in(processor.weave.folders):
        for name, place in known.carried(words, folder / "model.safetensors").items():
            files.append(Path(shutil.copyfile(located(name), place)))
    return files


def _facts(
    family: Reader, theirs: str, projectors: Mapping[str, Tensor], recipe: Recipe, folder: Path
) -> dict[str, Any]:
    """The facts with which the reader makes this very modality of what was written.

    Raises:
        CheckpointError: none do.
    """
    known = SENSES[theirs]
    spec = recipe.modalities[known.name]
    sizes = {key: tuple(tensor.shape) for key, tensor in projectors.items()}
    projector = tables.projectors(sizes)[theirs]
    place = known.spot(folder, theirs)
    heads = imagebind.heads(spec.dump()) if known.name == "imagebind" else {}
    for facts in (heads, {"pad_non_square_images": True}):
        again = ModalitySpec.model_validate(words_of(known, projector, place, facts))
        if alike(again, spec):
            return facts
    raise family.refusal(
        recipe,
        f"its {known.name} is prepared or encoded in another way than there",
        hint=f"compare it with the recipe {known.recipe}",
    )


def _narrow(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As bfloat16 (or float16) where that loses nothing, each tensor of its own."""
    dtype = writing.narrowest(t for t in found.values() if t.is_floating_point())
    return {
        key: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().clone()
        for key, tensor in found.items()
    }


def _json(path: Path, data: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return path
