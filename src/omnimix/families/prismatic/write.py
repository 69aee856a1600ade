"""A model written as a run folder of the Prismatic trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from omnimix.checkpoints import tables
from omnimix.checkpoints.tables import Table
from omnimix.compose.modality import ModalitySpec
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError
from omnimix.families.prismatic.folder import (
    LLMS,
    PROJECTORS,
    STRATEGIES,
    TRUNKS,
    VISION,
    checkpoint_table,
    modality,
    vision_table,
)

CANNOT = "the recipe cannot be expressed as a Prismatic model"


def model_section(recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model section of a config.json for a recipe, and the words of parts that no id tells.

    Raises:
        CheckpointError: what of the recipe has no counterpart.
    """
    if set(recipe.modalities) != {"image"}:
        raise CheckpointError(
            f"{CANNOT}: it has the modalities {', '.join(recipe.modalities) or 'none'}",
            where=recipe.name,
            hint="Prismatic knows a single modality, image",
        )
    vision, strategy, projector, words = _vision(recipe, recipe.modalities["image"])
    llm = next(
        (
            name
            for name, known in LLMS.items()
            if known.template == recipe.template.name
            and known.hub.startswith(_FAMILIES.get(_model_type(recipe), ("?",)))
        ),
        None,
    )
    if llm is None:
        raise CheckpointError(
            f"{CANNOT}: no language model of its is a {_model_type(recipe)} with the template "
            f"{recipe.template.name!r}",
            where=recipe.name,
            hint=f"its templates are {', '.join(sorted({k.template for k in LLMS.values()}))}",
        )
    patches = words.pop("patches")
    section = {
        "model_id": recipe.name,
        "vision_backbone_id": vision,
        "llm_backbone_id": llm,
        "arch_specifier": projector,
        "image_resize_strategy": strategy,
        "llm_max_length": (recipe.model_max_length or 2048 + patches) - patches,
    }
    return section, words


_FAMILIES: dict[str, tuple[str, ...]] = {
    "llama": ("meta-llama/", "lmsys/"),
    "mistral": ("mistralai/",),
    "phi": ("microsoft/",),
}


def _model_type(recipe: Recipe) -> str:
    return str(recipe.language.config.get("model_type"))


def _vision(recipe: Recipe, spec: ModalitySpec) -> tuple[str, str, str, dict[str, Any]]:
    """The ids whose words make exactly this modality."""
    encoders = spec.branches[0].encoders
    size = int(getattr(encoders[0], "size", 0))
    given = [dict(getattr(encoder, "args", {})) for encoder in encoders]
    projector = {kind: name for name, kind in PROJECTORS.items()}.get(
        spec.branches[0].connector.kind
    )
    for vision, (_, parts) in VISION.items():
        if projector is None or len(parts) != len(encoders):
            continue
        args = {
            part: {k: v for k, v in words.items() if k != "act_layer"}
            for part, words in zip(parts, given, strict=True)
        }
        for strategy in STRATEGIES:
            words = modality(vision, strategy, projector, size, args)
            if ModalitySpec.model_validate(words) == spec:
                found = {"image_size": size, "vision": args, "patches": _patches(recipe)}
                return vision, strategy, projector, found
    raise CheckpointError(
        f"{CANNOT}: its encoders, their preparation or their connector have no id there",
        where=recipe.name,
        hint=f"the ids are {', '.join(VISION)}",
    )


def _patches(recipe: Recipe) -> int:
    from omnimix.compose.modality import build

    with torch.device("meta"):
        width = int(recipe.language.hf_config().get_text_config().hidden_size)
        return build(recipe.modalities, width)["image"].tokens_per_tile


def write(model: MultimodalLM, processor: Processor, out: Path) -> list[Path]:
    """Write a run folder and, under `backbones`, the parts that a run folder does not hold.

    `parts.json` says where they lie, so that the folder can be opened anywhere; Prismatic's own loader
    takes them from the hub and ignores both.

    Raises:
        CheckpointError: the recipe cannot be expressed, or a parameter has no key there.
    """
    recipe = processor.recipe
    section, words = model_section(recipe)
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    table = checkpoint_table()
    encoders = recipe.modalities["image"].branches[0].encoders
    prefixes = [f"image.branches.0.encoders.{i}." for i in range(len(encoders))]
    own = [name for name in state if not name.startswith(tuple(prefixes))]
    flat = _written(table, own, state, recipe)
    nested: dict[str, dict[str, dict[str, Tensor]]] = {
        "model": {"projector": {}, "llm_backbone": {}}
    }
    for key, tensor in flat.items():
        _, group, name = key.split(".", 2)
        nested["model"][group][name] = tensor.contiguous().clone()
    places: dict[str, str] = {"llm": "backbones/llm"}
    files = [out / "config.json", out / "checkpoints" / "latest-checkpoint.pt", out / "parts.json"]
    for folder in ("checkpoints", "backbones/vision", "backbones/llm"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for i, (part, timm) in enumerate(VISION[section["vision_backbone_id"]][1].items()):
        names = [name for name in state if name.startswith(prefixes[i])]
        vision = vision_table(i, encoders[i], TRUNKS[timm].positions)
        tensors = _written(vision, names, state, recipe)
        place = out / "backbones" / "vision" / f"{part}.safetensors"
        save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, place)
        places[part] = str(place.relative_to(out))
        files.append(place)
    llm = out / "backbones" / "llm"
    (llm / "config.json").write_text(json.dumps(recipe.language.config, indent=2) + "\n")
    processor.tokenizer.save(llm)
    tidy = {
        "clean_up_tokenization_spaces": bool(
            getattr(recipe.tokenizer, "clean_up_tokenization_spaces", False)
        )
    }
    (llm / "tokenizer_config.json").write_text(json.dumps(tidy) + "\n")
    files[0].write_text(json.dumps({"model": section, "stage": "finetune"}, indent=2) + "\n")
    files[2].write_text(json.dumps({"places": places, "words": words}, indent=2) + "\n")
    torch.save(nested, files[1])
    return [*files, *sorted(llm.iterdir())]


def _written(
    table: Table, names: list[str], state: dict[str, Tensor], recipe: Recipe
) -> dict[str, Tensor]:
    plan = table.writing(names)
    if plan.unknown or plan.missing:
        name = (plan.unknown or plan.missing)[0]
        raise CheckpointError(f"{CANNOT}: {name} has no key there", where=recipe.name)
    return tables.write(plan, state)
