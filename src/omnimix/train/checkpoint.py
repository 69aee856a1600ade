"""Checkpoints that resume exactly: model, optimizer, random state, place in the stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import Tensor

from omnimix.compose.adapters import names_adapters
from omnimix.compose.model import MultimodalLM
from omnimix.compose.recipe import Recipe
from omnimix.errors import TrainError

WEIGHTS = "model.safetensors"


def save(
    folder: Path,
    model: MultimodalLM,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    chance: Sequence[dict[str, Tensor]],
    keep: int = 2,
) -> Path:
    """Write `step-NNNNNN` whole or not at all, then drop all but the newest `keep`.

    Args:
        chance: the random states of every rank.
    """
    name = f"stage-{state['stage']:02d}-step-{state['step']:07d}"
    draft = folder / f".{name}.part"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    save_model(model, str(draft / WEIGHTS))
    first, *others = chance
    rng = {**first, "others": others}
    torch.save({"optimizer": optimizer.state_dict(), "rng": rng}, draft / "optimizer.pt")
    (draft / "state.json").write_text(json.dumps(state))
    place = folder / name
    shutil.rmtree(place, ignore_errors=True)
    draft.replace(place)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def chance() -> dict[str, Tensor]:
    """The random states of this process."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob("stage-*-step-*") if (path / "state.json").is_file())


def state_of(place: Path) -> dict[str, Any]:
    """Where in the run a checkpoint stands."""
    try:
        state: dict[str, Any] = json.loads((place / "state.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise TrainError(f"the checkpoint cannot be read ({error})", where=str(place)) from None
    return state


RESUMED = "train into another folder, or use the recipe this run began with"
STARTED = "start from a model of the same recipe, or leave 'start' out to begin with fresh weights"


def check_start(place: Path) -> None:
    """Refuse a folder that a run cannot start from, before anything is built.

    Raises:
        TrainError: no such folder, or one without weights; says what lies there.
    """
    if not place.is_dir():
        what = "is a file" if place.exists() else "does not exist"
        raise TrainError(
            f"the folder to start from {what}",
            where=f"start: {place}",
            hint="name a model folder or a checkpoint's folder, counted from the training file's own",
        )
    if not (place / WEIGHTS).is_file():
        present = ", ".join(sorted(path.name for path in place.iterdir())[:6])
        raise TrainError(
            f"the folder to start from has no {WEIGHTS} (it holds {present or 'nothing'})",
            where=f"start: {place}",
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


def load_weights(place: Path, model: MultimodalLM, hint: str = RESUMED) -> None:
    """Fill the model, strictly."""
    try:
        load_model(model, str(place / WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        line = str(error).splitlines()[0].rstrip(":.")
        raise TrainError(
            f"the weights do not fit the model ({line})", where=str(place), hint=hint
        ) from None


def load_optimizer(place: Path, optimizer: torch.optim.Optimizer, rank: int = 0) -> None:
    """Fill the optimizer and put the random states back; a rank that was not there keeps its own."""
    stored = torch.load(place / "optimizer.pt", weights_only=True, map_location="cpu")
    optimizer.load_state_dict(stored["optimizer"])
    states = [stored["rng"], *stored["rng"].get("others", ())]
    if rank >= len(states):
        return
    torch.set_rng_state(states[rank]["cpu"])
    if "cuda" in states[rank] and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[rank]["cuda"])
