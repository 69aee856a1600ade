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
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from omnimix.checkpoints import tables as moves, writing
from omnimix.checkpoints.tables import Table
from omnimix.compose.modality import ModalitySpec
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError
from omnimix.families.multi_token import imagebind, names as tables
from omnimix.families.multi_token.senses import BUILDERS, SENSES, Sense, words_of
from omnimix.families.sphinx.write import narrowest
from omnimix.media.files import found as located, looking_in
from omnimix.prompts import chat_template

CANNOT = "the recipe cannot be expressed as a multi_token model"
LLM = "backbones/llm"
NO_RANK = {"r": 1, "lora_alpha": 1.0, "lora_dropout": 0.0}
"""The adapter of a model without one: of rank 1 and zero, since the reference opens no folder without."""


def write(model: MultimodalLM, processor: Processor, out: Path) -> list[Path]:
    """Write the folder; returns its files.

    Raises:
        CheckpointError: what of the recipe has no counterpart there.
    """
    recipe = processor.recipe
    names = senses_of(recipe)
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    lora = _lora_words(recipe)
    files = [_projectors(state, names, out)]
    files += _language(state, recipe, processor, lora, out)
    places = {"llm": LLM}
    words: dict[str, Any] = {}
    for theirs, ours in names.items():
        known = SENSES[theirs]
        places[theirs] = f"backbones/{theirs}"
        spec = recipe.modalities[ours]
        files += _encoder(state, known, spec, out / places[theirs], processor)
        words |= _same_words(known, spec, state, theirs, out / places[theirs], recipe)
    texts = {
        "config.json": _config(recipe, names),
        "parts.json": {"places": places, "words": words},
    }
    for name, data in texts.items():
        files.append(_json(out / name, data))
    return files


def senses_of(recipe: Recipe) -> dict[str, str]:
    """The reference's name of each modality to ours.

    Raises:
        CheckpointError: one that it does not have.
    """
    known = {sense.name: name for name, sense in SENSES.items()}
    odd = [name for name in recipe.modalities if name not in known]
    if odd or not recipe.modalities:
        what = f"it has the modality {odd[0]!r}" if odd else "it has no modality"
        raise CheckpointError(
            f"{CANNOT}: {what}", where=recipe.name, hint=f"there are {', '.join(known)}"
        )
    return {known[name]: name for name in recipe.modalities}


def _lora_words(recipe: Recipe) -> dict[str, Any] | None:
    """Rank, alpha and dropout of the adapter; None where there is none.

    Raises:
        CheckpointError: several adapters, or one that is not LoRA on the language model.
    """
    if not recipe.adapters:
        return None
    first = recipe.adapters[0]
    if len(recipe.adapters) > 1 or first.kind != "lora" or first.part != "language":
        raise CheckpointError(
            f"{CANNOT}: its adapters are not one LoRA on the language model",
            where=recipe.name,
            hint="merge them first: omnimix merge FOLDER OUT",
        )
    return {"r": first.r, "lora_alpha": first.lora_alpha, "lora_dropout": first.lora_dropout}


def _projectors(state: Mapping[str, Tensor], names: Mapping[str, str], out: Path) -> Path:
    table = tables.projector_table(f"{tables.LORA}model.", names)
    chosen = [name for name in state if ".connector." in name]
    found = _written(table, chosen, state)
    path = out / "non_lora_trainables.bin"
    torch.save(_narrow(found), path)
    return path


def _language(
    state: Mapping[str, Tensor],
    recipe: Recipe,
    processor: Processor,
    lora: Mapping[str, Any] | None,
    out: Path,
) -> list[Path]:
    """The base language model in the hub's layout, and the adapter."""
    own = [name for name in state if name.startswith("language.")]
    if lora is None:
        table = tables.merged_table(1.0, _linear(own, state))
    else:
        learned = [name for name in own if ".lora_" in name]
        targets = tables.adapted(_written(tables.adapter_table(), learned, state))
        table = tables.kept_table(targets)
    found = _written(table, own, state)
    adapter = {key: t for key, t in found.items() if key.startswith(tables.LORA)}
    base = _narrow({key: t for key, t in found.items() if key not in adapter})
    folder = out / LLM
    folder.mkdir(parents=True)
    files = _weights(base, folder)
    config = {"architectures": ["MistralForCausalLM"], **recipe.language.config}
    files.append(_json(folder / "config.json", config))
    processor.tokenizer.save(folder)
    files.append(_json(folder / "tokenizer_config.json", _tokenizer(recipe)))
    path = out / "adapter_model.safetensors"
    save_file(_narrow(adapter), path)
    words = _adapter_config(lora or NO_RANK, tables.adapted(adapter))
    return [*files, path, _json(out / "adapter_config.json", words)]


def _linear(names: Iterable[str], state: Mapping[str, Tensor]) -> list[str]:
    """The linear layers of a block, named from it on."""
    found: dict[str, None] = {}
    for name in names:
        inner = name.removeprefix("language.model.layers.")
        if inner != name and name.endswith(".weight") and state[name].ndim == 2:
            found[inner.partition(".")[2].removesuffix(".weight")] = None
    return list(found)


def _adapter_config(lora: Mapping[str, Any], targets: Iterable[str]) -> dict[str, Any]:
    return {
        "auto_mapping": None,
        "base_model_name_or_path": LLM,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": lora["lora_alpha"],
        "lora_dropout": lora["lora_dropout"],
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": lora["r"],
        "revision": None,
        "target_modules": sorted({target.rpartition(".")[2] for target in targets}),
        "task_type": "CAUSAL_LM",
    }


def _tokenizer(recipe: Recipe) -> dict[str, Any]:
    """The words of a tokenizer's configuration that our reader asks for.

    Raises:
        CheckpointError: a style that no chat template writes.
    """
    spec = recipe.tokenizer
    bos, eos, pad = (getattr(spec, f"{word}_token", None) for word in ("bos", "eos", "pad"))
    style = recipe.template
    jinja = chat_template.written(style)
    again = chat_template.read(jinja, bos, eos, "chat_template")
    if again.model_copy(update={"name": style.name}) != style:
        raise CheckpointError(
            f"{CANNOT}: its style {style.name!r} is not one that a chat template can write",
            where=recipe.name,
        )
    return {
        "bos_token": bos,
        "eos_token": eos,
        "unk_token": pad,
        "chat_template": jinja,
        "clean_up_tokenization_spaces": bool(getattr(spec, "clean_up_tokenization_spaces", False)),
        "legacy": True,
        "tokenizer_class": "LlamaTokenizer",
    }


def _encoder(
    state: Mapping[str, Tensor],
    known: Sense,
    spec: ModalitySpec,
    folder: Path,
    processor: Processor,
) -> list[Path]:
    prefix = f"{known.name}.branches.0.encoders.0."
    names = [name for name in state if name.startswith(prefix)]
    words = spec.dump()
    found = _narrow(_written(known.table(prefix, words), names, state))
    folder.mkdir(parents=True)
    files = _weights(found, folder)
    files += [_json(folder / name, data) for name, data in known.told(words).items()]
    with looking_in(processor.weave.folders):
        for name, place in known.carried(words, folder / "model.safetensors").items():
            files.append(Path(shutil.copyfile(located(name), place)))
    return files


def _same_words(
    known: Sense,
    spec: ModalitySpec,
    state: Mapping[str, Tensor],
    theirs: str,
    folder: Path,
    recipe: Recipe,
) -> dict[str, Any]:
    """The words with which the reader makes this very modality of what was written.

    Raises:
        CheckpointError: none do.
    """
    prefix = f"{known.name}.branches.0.connector."
    sizes = {
        f"{theirs}_lmm_projector.{name.removeprefix(prefix)}": tuple(tensor.shape)
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    projector = tables.projectors(sizes)[theirs]
    place = known.spot(folder, theirs)
    heads = imagebind.heads(spec.dump()) if known.name == "imagebind" else {}
    for words in (heads, {"pad_non_square_images": True}):
        if ModalitySpec.model_validate(words_of(known, projector, place, words)) == spec:
            return words
    raise CheckpointError(
        f"{CANNOT}: its {known.name} is prepared or encoded in another way than there",
        where=recipe.name,
        hint=f"compare it with the recipe {known.recipe}",
    )


def _config(recipe: Recipe, names: Mapping[str, str]) -> dict[str, Any]:
    words = dict(recipe.language.config)
    kind = str(words.pop("model_type"))
    builder = "+".join(names)
    return {
        "_name_or_path": LLM,
        "architectures": ["MistralForCausalLM"],
        **words,
        "modalities": list(names),
        # A builder of the reference's table says how many tokens; any other leaves that to the projector.
        "modality_builder": builder if builder not in BUILDERS else f"{builder}+",
        "model_cls": "MistralLMMForCausalLM",
        "model_type": f"{kind}-lmm",
    }


def _written(table: Table, names: Iterable[str], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plan = table.writing(names)
    if plan.unknown or plan.missing:
        name = (plan.unknown or plan.missing)[0]
        raise CheckpointError(f"{CANNOT}: {name} has no key there")
    return moves.write(plan, state)


def _narrow(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As bfloat16 (or float16) where that loses nothing, each tensor of its own."""
    floating = [tensor for tensor in found.values() if tensor.is_floating_point()]
    dtype = narrowest(floating)
    return {
        key: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().clone()
        for key, tensor in found.items()
    }


def _weights(found: Mapping[str, Tensor], folder: Path) -> list[Path]:
    sketches = {key: torch.empty_like(tensor, device="meta") for key, tensor in found.items()}
    return writing.write(folder, sketches, lambda key: [found[key]])


def _json(path: Path, data: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return path
