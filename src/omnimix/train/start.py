"""Where a run begins: fresh weights, a finished model, or one that is quantized."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from omnimix.compose.adapters import names_adapters
from omnimix.compose.holding import Quantized
from omnimix.compose.model import MultimodalLM
from omnimix.compose.recipe import Recipe
from omnimix.errors import TrainError
from omnimix.generate import folder as folders
from omnimix.train.checkpoint import WEIGHTS, learnable, load_weights

STARTED = "start from a model of the same recipe, or leave 'initial_checkpoint' out to begin with fresh weights"


def find(folder: Path, words: str) -> Path:
    """The folder that `initial_checkpoint` names: a path counted from `folder`, else a shipped model's name."""
    beside = folder / words
    return folders.FOLDER / words if not beside.exists() and words in folders.shipped() else beside


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
            hint="name a shipped model, or a model folder counted from the training file's own",
        )
    if not (place / WEIGHTS).is_file():
        present = ", ".join(sorted(path.name for path in place.iterdir())[:6])
        raise TrainError(
            f"the folder to start from has no {WEIGHTS} (it holds {present or 'nothing'})",
            where=f"initial_checkpoint: {place}",
            hint="a finished run keeps its model in its folder 'model'",
        )


def started(place: Path, recipe: Recipe) -> MultimodalLM:
    """A model of the recipe with the weights of a folder.

    Where the folder's model has no adapters and the recipe has, they are added to it, so that training
    begins with the folder's own answers.

    Raises:
        TrainError: other weights than the recipe's, or adapters that it does not have.
    """
    has = names_adapters(_names(place))
    if has and not recipe.adapters:
        raise TrainError(
            "the model to start from has adapters, and the recipe has none",
            where=str(place),
            hint="merge them first: omnimix merge FOLDER OUT; or add adapters to the recipe",
        )
    plain = recipe if has else recipe.without_adapters()
    model = MultimodalLM.from_recipe(plain)
    load_weights(place, model, hint=STARTED)
    return model if has else model.adapt(recipe)


def _names(place: Path) -> list[str]:
    try:
        with safe_open(str(place / WEIGHTS), framework="pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise TrainError(
            f"the weights cannot be read ({error})", where=str(place), hint=STARTED
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


def made_whole(model: MultimodalLM, place: Path, recipe: Recipe) -> MultimodalLM:
    """What was learned beside quantized weights, on the whole weights of the start."""
    whole = started(place, recipe)
    whole.eval()
    found = whole.load_state_dict(learnable(model), strict=False)
    assert not found.unexpected_keys
    return whole
