"""The start of SPHINX-V's first stage from a SPHINX and SAM (golden/specs/sphinx_v.md section 4)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omnimix.checkpoints import tables
from omnimix.checkpoints.tables import Ignore, Rename, RenameTable
from omnimix.errors import CheckpointError
from omnimix.families.sphinx.names import MATRIX, PROMPT_ENCODER, REGION

if TYPE_CHECKING:
    from omnimix.checkpoints.base import Parts, Release
    from omnimix.compose.model import MultimodalLM
    from omnimix.compose.processor import Processor

SAM_FILE = "sam_vit_h_4b8939.pth"

_UNUSED = "only the position code and the four labels of points and corners are taken from SAM"

SAM = RenameTable(
    Rename(f"prompt_encoder.{MATRIX}", f"{PROMPT_ENCODER}matrix"),
    Rename(
        "prompt_encoder.point_embeddings.0.weight", f"{PROMPT_ENCODER}point_embeddings.0.weight"
    ),
    Rename(
        "prompt_encoder.point_embeddings.1.weight", f"{PROMPT_ENCODER}point_embeddings.1.weight"
    ),
    Rename("prompt_encoder.point_embeddings.2.weight", f"{PROMPT_ENCODER}box_embeddings.2.weight"),
    Rename("prompt_encoder.point_embeddings.3.weight", f"{PROMPT_ENCODER}box_embeddings.3.weight"),
    Ignore("prompt_encoder.*", _UNUSED),
    Ignore("image_encoder.*", _UNUSED),
    Ignore("mask_decoder.*", _UNUSED),
    Ignore("pixel_*", _UNUSED),
)
"""Keys of facebookresearch's SAM. Its labels background and foreground become filler and real point."""


def from_sam(path: str | Path) -> dict[str, Tensor]:
    """The part of the prompt encoder that SAM gives, under our names.

    Raises:
        CheckpointError: no such file, or none of SAM.
    """
    from omnimix.checkpoints.reading import named, tensors_of

    file = Path(path)
    if not file.is_file():
        raise CheckpointError(
            "there is no such file of SAM's weights",
            where=str(path),
            hint=f"get {SAM_FILE} from the segment-anything repository and name it",
        )
    stored = tensors_of(file)
    plan = SAM.reading(stored)
    found = tables.read(plan, stored)
    wanted = {name for rule in SAM.rules for name in rule.native}
    if plan.unknown or found.keys() != wanted:
        odd = plan.unknown or sorted(wanted - found.keys())
        what = "unexpected keys" if plan.unknown else "nothing for"
        raise CheckpointError(
            f"this is no SAM: {what} {named(odd)}",
            where=str(path),
            hint=f"the file is {SAM_FILE} or its like, with the keys of facebookresearch",
        )
    return found


def start(
    folder: str | Path, sam: str | Path, parts: Parts | None = None, seed: int = 0
) -> tuple[MultimodalLM, Processor]:
    """SPHINX-V as its first stage begins: a SPHINX of 448 pixels, SAM's prompt encoder, the rest fresh.

    Args:
        folder: SPHINX-v2-1k, or another folder of the type `llama_ens5`.
        sam: SAM's file of weights.
        parts: see `omnimix.families.sphinx.folder`.
        seed: of the fresh weights.

    Raises:
        CheckpointError: a folder of another type, or no SAM.
    """
    from omnimix.checkpoints import base, reading

    release = base.open_release(Path(folder), parts, "sphinx")
    begun = _widened(release)
    model, processor, _ = reading.load(begun, extra=_fresh(begun, seed) | from_sam(sam))
    return model, processor


def _widened(release: Release) -> Release:
    """The release with the recipe of SPHINX-V."""
    from omnimix.compose import recipe as recipes

    wanted = recipes.load("sphinx_v")
    had, shipped = release.recipe.modalities, recipes.load("sphinx_1k").modalities
    if set(had) != {"image"} or had["image"].steps != shipped["image"].steps:
        raise CheckpointError(
            "the first stage starts from a SPHINX of 448 pixels (llama_ens5)",
            where=str(release.layout.root),
            hint="name the folder of SPHINX-v2-1k",
        )
    modalities = {"image": had["image"], REGION: wanted.modalities[REGION]}
    words = {"name": wanted.name, "about": wanted.about, "modalities": modalities}
    return replace(release, recipe=release.recipe.model_copy(update=words))


def _fresh(release: Release, seed: int) -> dict[str, Tensor]:
    """The parts of the region modality as they are drawn."""
    from omnimix.compose import modality

    width = int(release.recipe.language.hf_config().get_text_config().hidden_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = modality.build({REGION: release.recipe.modalities[REGION]}, width)[REGION]
    return {f"{REGION}.{name}": tensor for name, tensor in built.state_dict().items()}
