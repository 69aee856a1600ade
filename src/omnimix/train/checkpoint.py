"""Checkpoints that resume exactly: what learns, optimizer, random state, place in the stage."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file
from torch import Tensor, nn

from omnimix import _transformers
from omnimix.compose.model import MultimodalLM
from omnimix.disk import HINT, sync, writing
from omnimix.errors import TrainError

WEIGHTS = "model.safetensors"
SUMS = "checksums.json"
BEST = "best"
RESUMED = "train into another folder, or use the recipe this run began with"


def save(
    folder: Path,
    weights: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    chance: Sequence[dict[str, Tensor]],
    keep: int = 2,
) -> Path:
    """Write `stage-SS-step-NNNNNNN` whole or not at all, then drop all but the newest `keep`.

    Args:
        weights: what has learned so far.
        chance: the random states of every rank.

    Raises:
        TrainError: weights that are not numbers, a full disk, a missing permission.
    """
    name = f"stage-{state['stage']:02d}-step-{state['step']:07d}"
    first, *others = chance
    kept = {"optimizer": optimizer.state_dict(), "rng": {**first, "others": others}}
    place = _write(folder, name, weights, state, kept)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def save_best(folder: Path, weights: Mapping[str, Tensor], state: dict[str, Any]) -> None:
    """Keep what has learned so far in the folder `best`, in place of what lies there.

    Raises:
        TrainError: as `save`.
    """
    _write(folder, BEST, weights, state)


def _write(
    folder: Path,
    name: str,
    weights: Mapping[str, Tensor],
    state: dict[str, Any],
    kept: dict[str, Any] | None = None,
) -> Path:
    """A folder that is there whole or not at all."""
    draft, place = folder / f".{name}.part", folder / name
    _check_finite(weights, place)
    try:
        with writing(place, _older(folder)):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            save_file(dict(weights), draft / WEIGHTS)
            if kept is not None:
                torch.save(kept, draft / "optimizer.pt")
            (draft / "state.json").write_text(json.dumps(state))
            _seal(draft)
            shutil.rmtree(place, ignore_errors=True)
            draft.replace(place)
            sync(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return place


def _older(folder: Path) -> str:
    done = checkpoints(folder)
    on = f"; the run goes on from {done[-1].name}" if done else ""
    return f"{HINT}{on}"


def _check_finite(weights: Mapping[str, Tensor], place: Path) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise TrainError(
                f"{name} holds values that are not finite, and is not saved",
                where=str(place),
                hint="lower optimizer.lr, and go on from the checkpoint before",
            )


def _seal(folder: Path) -> None:
    """Put checksums beside the files, and all of it on the disk before it gets its name."""
    sums = {path.name: _sum(path) for path in sorted(folder.iterdir())}
    (folder / SUMS).write_text(json.dumps(sums, indent=1))
    for path in (*folder.iterdir(), folder):
        sync(path)


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def chance() -> dict[str, Tensor]:
    """The random states of this process."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob("stage-*-step-*") if (path / "state.json").is_file())


def newest(folder: Path, fall_back: bool = False) -> tuple[Path | None, list[str]]:
    """The checkpoint to go on from.

    Args:
        fall_back: put those aside that are damaged, and take the newest whole one.

    Returns:
        None where there is none; and a sentence for each that was put aside.

    Raises:
        TrainError: it is damaged; names the file and the whole one before it.
    """
    said: list[str] = []
    for place in reversed(done := checkpoints(folder)):
        wrong = damage(place)
        if wrong is None:
            return place, said
        if not fall_back:
            whole = next((p for p in reversed(done) if p < place and damage(p) is None), None)
            hint = (
                f"--fall-back goes on from {whole.name}, which is whole"
                if whole
                else "no whole one is left; train into another folder"
            )
            raise TrainError(f"the checkpoint is damaged ({wrong})", where=str(place), hint=hint)
        place.replace(folder / f"damaged-{place.name}")
        said.append(f"{place.name} is damaged ({wrong}) and was put aside")
    if said:
        raise TrainError(
            f"no whole checkpoint is left; {said[0]}",
            where=str(folder),
            hint="train into another folder",
        )
    return None, said


def damage(place: Path) -> str | None:
    """What is wrong with a checkpoint's files, by their checksums; None where nothing is."""
    try:
        sums = json.loads((place / SUMS).read_text())
        for name, told in sums.items():
            if not (place / name).is_file():
                return f"{name} is missing"
            if _sum(place / name) != told:
                return f"{name} has another checksum than was written"
    except FileNotFoundError:
        return f"{SUMS} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"{SUMS} cannot be read: {error}"
    return None


def state_of(place: Path) -> dict[str, Any]:
    """Where in the run a checkpoint stands."""
    try:
        state: dict[str, Any] = json.loads((place / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise TrainError(f"the checkpoint cannot be read ({error})", where=str(place)) from None
    return state


def quantized(model: nn.Module) -> list[str]:
    """Names of the layers that are held quantized."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not module.weight.is_floating_point()
    ]


def learnable(model: MultimodalLM, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """All weights but the quantized ones, which a run reads from where it started; shared ones once.

    Args:
        names: of parameters; others are left out, buffers are not.
    """
    held = tuple(f"{name}." for name in quantized(model))
    shared = _transformers.tied_names(model)
    left = set() if names is None else {n for n, _ in model.named_parameters()} - set(names)
    return {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if name not in shared and name not in left and not (held and name.startswith(held))
    }


def foundation(model: MultimodalLM, names: Collection[str]) -> str:
    """A few numbers of every parameter that is not among the names, as a digest: what a checkpoint stands on."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if name not in names:
            some = parameter.detach().flatten()[:64].cpu().contiguous().view(torch.uint8)
            digest.update(f"{name} {tuple(parameter.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()


def load_learned(place: Path, model: MultimodalLM, names: Collection[str]) -> None:
    """Put what has learned back on a model that was begun as the run was.

    Raises:
        TrainError: other names or shapes, or a model that does not begin as that one did.
    """
    stands = state_of(place).get("stands_on", {}).get("weights")
    if stands is not None and stands != foundation(model, names):
        raise TrainError(
            "the weights that stay frozen are not those that the run began with",
            where=str(place),
            hint="bring back the model or the weights it began with, or train into another folder",
        )
    try:
        found = model.load_state_dict(load_file(place / WEIGHTS), strict=False)
        if wrong := [
            *found.unexpected_keys,
            *(n for n in found.missing_keys if n in learnable(model, names)),
        ]:
            raise RuntimeError(f"other names: {wrong[0]}")
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _unfit(error, place, RESUMED) from None


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
        raise _unfit(error, place, hint) from None


def _unfit(error: Exception, place: Path, hint: str) -> TrainError:
    line = str(error).splitlines()[0].rstrip(":.")
    return TrainError(f"the weights do not fit the model ({line})", where=str(place), hint=hint)


def load_optimizer(place: Path, optimizer: torch.optim.Optimizer, rank: int = 0) -> None:
    """Fill the optimizer and put the random states back; a rank that was not there keeps its own.

    Raises:
        TrainError: made for other parameters.
    """
    stored = torch.load(place / "optimizer.pt", weights_only=True, map_location="cpu")
    try:
        optimizer.load_state_dict(stored["optimizer"])
    except ValueError as error:
        raise TrainError(
            f"the optimizer does not fit ({error})", where=str(place), hint=RESUMED
        ) from None
    states = [stored["rng"], *stored["rng"].get("others", ())]
    if rank >= len(states):
        return
    torch.set_rng_state(states[rank]["cpu"])
    if "cuda" in states[rank] and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[rank]["cuda"])
