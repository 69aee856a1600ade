"""Where a run begins: fresh weights, a finished model, or one that is quantized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from omnimix.checkpoints import base, pretrained, reading, releases
from omnimix.checkpoints.base import Parts, Release
from omnimix.checkpoints.parts import weight_files
from omnimix.checkpoints.pretrained import FilledPart
from omnimix.compose import recipe as recipes
from omnimix.compose.adapters import names_adapters
from omnimix.compose.holding import Quantized
from omnimix.compose.model import MultimodalLM
from omnimix.compose.recipe import Recipe
from omnimix.errors import TrainError
from omnimix.generate import folder as folders
from omnimix.train.checkpoint import WEIGHTS, learnable

STARTED = "start from a model of the same recipe, or of one with the same language model, or leave 'initial_checkpoint' out to begin with fresh weights"


@dataclass(frozen=True)
class StartModel:
    """The model that `initial_checkpoint` names: a folder of ours, or a released checkpoint.

    Attributes:
        place: its folder.
        release: what a family's reader says of it; None for a folder of ours.
    """

    place: Path
    release: Release | None = None

    def tensors(self) -> Mapping[str, Tensor]:
        """All weights by our names.

        Raises:
            CheckpointError: files that cannot be read, or keys that nobody knows.
        """
        if self.release is not None:
            return reading.native_tensors(self.release)[0]
        found: dict[str, Tensor] = {}
        for file in weight_files(self.place, "model to start from"):
            found |= reading.tensors_of(file)
        return found

    def recipe(self, overrides: Sequence[str], folder: Path) -> tuple[Recipe, Path]:
        """Its recipe with dotted overrides, and the folder of its tokenizer.

        Args:
            folder: what local names in the overrides are counted from.
        """
        if self.release is None:
            return recipes.load(self.place, overrides, [folder]), self.place
        words = self.release.recipe.dump(defaults=True)
        looked = [self.release.folder, folder]
        return recipes.parse(words, self.release.recipe.name, overrides, looked), looked[0]


def opened(folder: Path, words: str) -> StartModel:
    """What `initial_checkpoint` names: a path counted from `folder`, a shipped model, or a released one by its id.

    Raises:
        TrainError: no such folder, or one without weights; says what lies there.
    """
    beside = folder / words
    known = words in folders.shipped() or releases.lookup(words) is not None
    away = known and not beside.exists()
    local = folders.locate(words) if away else releases.Local(beside, {})
    found = local.recognised
    if found is None and local.folder.is_dir() and not (local.folder / "recipe.yaml").is_file():
        found = base.recognise(local.folder)
    if found is not None:
        return StartModel(local.folder, base.open_release(found, Parts(local.parts)))
    check_start(local.folder)
    return StartModel(local.folder)


def check_start(place: Path) -> None:
    """Refuse a folder that a run cannot start from, before anything is built.

    Raises:
        TrainError: no such folder, or one without weights; says what lies there.
    """
    if not place.is_dir():
        what = "is a file" if place.exists() else "does not exist"
        raise TrainError(
            f"the folder to start from {what}",
            where=f"initial_checkpoint: {place}",
            hint="name a shipped model, a released one by its id, or a model folder counted from the "
            "training file's own",
        )
    if not any((place / name).is_file() for name in (WEIGHTS, f"{WEIGHTS}.index.json")):
        present = ", ".join(sorted(path.name for path in place.iterdir())[:6])
        raise TrainError(
            f"the folder to start from has no {WEIGHTS} (it holds {present or 'nothing'})",
            where=f"initial_checkpoint: {place}",
            hint="a finished run keeps its model in its folder 'model'",
        )


def begun(
    checkpoint: str | None,
    folder: Path,
    recipe: Recipe,
    device: torch.device,
    quantization: str | None = None,
) -> tuple[MultimodalLM, list[FilledPart]]:
    """The model that a run begins with, and what became of the weights of its parts.

    Args:
        checkpoint, quantization: the training file's words `initial_checkpoint` and `quantization`.
        folder: the training file's own.

    Raises:
        OmnimixError: weights that cannot be had or do not fit.
    """
    if checkpoint is None:
        return pretrained.begin(recipe, [folder])
    start = opened(folder, checkpoint)
    if quantization is not None:
        return quantized(start.place, recipe, quantization, device), []
    return started(start, recipe, [folder])


def started(
    start: StartModel, recipe: Recipe, folders: Sequence[Path] = ()
) -> tuple[MultimodalLM, list[FilledPart]]:
    """A model of the recipe with the weights of another one, where they fit by name and shape.

    Where that model has no adapters and the recipe has, they are added to it, so that training begins with its
    own answers. Parts that it knows nothing of begin with the weights that the recipe names, or fresh.

    Raises:
        TrainError: another language model than the recipe's, or adapters that it does not have.
    """
    tensors = start.tensors()
    if names_adapters(tensors) and not recipe.adapters:
        raise TrainError(
            "the model to start from has adapters, and the recipe has none",
            where=str(start.place),
            hint="merge them first: omnimix merge FOLDER OUT; or add adapters to the recipe",
        )
    try:
        return pretrained.begin(recipe, folders, tensors, start.place.name)
    except pretrained.OtherLanguage as error:
        raise TrainError(
            f"the weights do not fit the model ({error.what})", where=str(start.place), hint=STARTED
        ) from None


def quantized(place: Path, recipe: Recipe, scheme: str, device: torch.device) -> MultimodalLM:
    """As `started`, with the language model quantized and adapters to learn beside it.

    Raises:
        TrainError: a recipe without adapters, or a start of another recipe.
        OmnimixError: a package that is missing, or a device it does not serve.
    """
    if not recipe.adapters:
        raise TrainError(
            "a quantized model learns through adapters, and the recipe has none",
            where="quantization",
            hint="add adapters: [{part: language, r: 16}] to the recipe",
        )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model, _ = folders.read(place, device, holding=Quantized(scheme, device, dtype))
    had, plain = model.recipe, recipe.without_adapters()
    same = had.language == plain.language and had.modalities == plain.modalities
    if not same or had.adapters not in ((), recipe.adapters):
        raise TrainError(
            "the model to start from has another recipe", where=str(place), hint=STARTED
        )
    return model if had.adapters else model.adapt(recipe)


def made_whole(model: MultimodalLM, start: StartModel, recipe: Recipe) -> MultimodalLM:
    """What was learned beside quantized weights, on the whole weights of the start."""
    whole, _ = started(start, recipe)
    whole.eval()
    found = whole.load_state_dict(learnable(model), strict=False)
    assert not found.unexpected_keys
    return whole
