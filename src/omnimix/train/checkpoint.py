"""Checkpoints that resume exactly: model, optimizer, random state, place in the stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file
from torch import Tensor, nn

from omnimix import _transformers
from omnimix.compose.model import MultimodalLM
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
    save_file(learnable(model), draft / WEIGHTS)
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


def quantized(model: nn.Module) -> list[str]:
    """Names of the layers that are held quantized."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not module.weight.is_floating_point()
    ]


def learnable(model: MultimodalLM) -> dict[str, Tensor]:
    """All weights but the quantized ones, which a run reads from where it started; shared ones once."""
    held = tuple(f"{name}." for name in quantized(model))
    shared = _transformers.tied_names(model)
    return {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if name not in shared and not (held and name.startswith(held))
    }


def load_weights(place: Path, model: MultimodalLM, hint: str = RESUMED) -> None:
    """Fill the model, strictly; quantized weights stay as they are."""
    held = tuple(f"{name}." for name in quantized(model))
    try:
        if not held:
            load_model(model, str(place / WEIGHTS))
            return
        found = model.load_state_dict(load_file(place / WEIGHTS), strict=False)
        shared = _transformers.tied_names(model)
        missing = [n for n in found.missing_keys if not n.startswith(held) and n not in shared]
        if missing or found.unexpected_keys:
            raise RuntimeError(f"other names: {(missing or found.unexpected_keys)[0]}")
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
