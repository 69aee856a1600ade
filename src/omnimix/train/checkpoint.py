"""Checkpoints that resume exactly: what learns, optimizer, random state, place in the stage."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from omnimix import _transformers
from omnimix.checkpoints.runs import SUMS, checkpoints, damage, whole_before
from omnimix.compose.adapters import whole
from omnimix.compose.model import MultimodalLM
from omnimix.disk import HINT, digest, sync, writing
from omnimix.errors import TrainError
from omnimix.parallel.layout import own_part
from omnimix.parallel.process_group import ProcessGroup
from omnimix.train import shards

WEIGHTS = "model.safetensors"
BEST = "best"
CHANCE = "chance.pt"
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
    kept = {"optimizer": optimizer.state_dict(), "rng": {**chance[0], "others": list(chance[1:])}}
    place = _write(folder, name_of(state), weights, state, kept)
    _drop_old(folder, keep)
    return place


def name_of(state: Mapping[str, Any]) -> str:
    """What the folder of a checkpoint is called."""
    return f"stage-{state['stage']:02d}-step-{state['step']:07d}"


def _drop_old(folder: Path, keep: int) -> None:
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def save_together(
    folder: Path,
    name: str,
    kept: Mapping[str, Any],
    state: dict[str, Any],
    chance: Sequence[dict[str, Tensor]],
    group: ProcessGroup,
    keep: int = 2,
) -> Path:
    """As `save`, by every process that holds a part of the model; all of them have to call it.

    Args:
        kept: of `shards.entries`.
    """
    draft, place, first = folder / f".{name}.part", folder / name, group.rank == 0
    try:
        with group.agreed(), written(place):
            check_finite({n: t for n, t in kept.items() if n.startswith(shards.MODEL)}, place)
            if first:
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir(parents=True)
        with group.agreed(), written(place):
            shards.write(draft, kept)
            own = {file.name: digest(file) for file in draft.glob(f"__{group.rank}_*")}
        sums = {file: told for one in group.gather("sums", own) for file, told in one.items()}
        with group.agreed(), written(place):
            if first:
                if chance:
                    rng = {**chance[0], "others": list(chance[1:])}
                    torch.save({"rng": rng}, draft / CHANCE)
                _finish(draft, place, state, sums)
                _drop_old(folder, keep)
    finally:
        if first:
            shutil.rmtree(draft, ignore_errors=True)
    return place


def _finish(draft: Path, place: Path, state: dict[str, Any], sums: Mapping[str, str]) -> None:
    """Give what was written its state, its checksums and its name."""
    (draft / "state.json").write_text(json.dumps(state))
    seal(draft, sums)
    shutil.rmtree(place, ignore_errors=True)
    draft.replace(place)
    sync(place.parent)


def save_best(folder: Path, weights: Mapping[str, Tensor], state: dict[str, Any]) -> Path:
    """Keep what has learned so far in the folder `best`, in place of what lies there.

    Raises:
        TrainError: as `save`.
    """
    return _write(folder, BEST, weights, state)


def _write(
    folder: Path,
    name: str,
    weights: Mapping[str, Tensor],
    state: dict[str, Any],
    kept: dict[str, Any] | None = None,
) -> Path:
    """A folder that is there whole or not at all."""
    draft, place = folder / f".{name}.part", folder / name
    check_finite(weights, place)
    try:
        with written(place):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            save_file(dict(weights), draft / WEIGHTS)
            if kept is not None:
                torch.save(kept, draft / "optimizer.pt")
            _finish(draft, place, state, {})
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return place


@contextmanager
def written(place: Path) -> Iterator[None]:
    """As `writing`; the hint names the checkpoint before."""
    done = checkpoints(place.parent)
    with writing(place, f"{HINT}; the run goes on from {done[-1].name}" if done else HINT):
        yield


def check_finite(weights: Mapping[str, Tensor], place: Path) -> None:
    """Refuse what is not to be saved; each process looks at its own parts.

    Raises:
        TrainError: names the weight.
    """
    for name, tensor in weights.items():
        tensor = own_part(tensor)[0]
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise TrainError(
                f"{name} holds values that are not finite, and is not saved",
                where=str(place),
                hint="lower optimizer.lr, and go on from the checkpoint before",
            )


def seal(folder: Path, known: Mapping[str, str]) -> None:
    """Put checksums beside the files, and all of it on the disk before it gets its name.

    Args:
        known: checksums that others have made.
    """
    files = sorted(folder.iterdir())
    sums = {path.name: known.get(path.name) or digest(path) for path in files}
    (folder / SUMS).write_text(json.dumps(sums, indent=1))
    for path in (*folder.iterdir(), folder):
        sync(path)


def chance() -> dict[str, Tensor]:
    """The random states of this process."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


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
    for place in reversed(checkpoints(folder)):
        wrong = damage(place)
        if wrong is None:
            return place, said
        if not fall_back:
            whole = whole_before(place)
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
            some = whole(parameter.detach()).flatten()[:64].cpu().contiguous().view(torch.uint8)
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
    every = model.state_dict()
    try:
        found = _weights(place, every)
        wrong = [n for n in (*found, *learnable(model, names)) if n not in found or n not in every]
        if wrong:
            raise RuntimeError(f"other names: {wrong[0]}")
        model.load_state_dict(found, strict=False)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _unfit(error, place) from None


def _weights(place: Path, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All stored weights, held as `own` of their names are."""
    if shards.is_ours(place):
        return shards.weights(place, own)
    stored = load_file(place / WEIGHTS)
    return {n: shards.spread(t, own[n]) if n in own else t for n, t in stored.items()}


def save_start(place: Path, weights: Mapping[str, Tensor], group: ProcessGroup) -> None:
    """Keep what a stage began with; every process calls it.

    Raises:
        TrainError: as `save`.
    """
    if group.size > 1:
        kept = shards.entries(weights)
        save_together(place.parent, place.name, kept, {}, (), group, keep=sys.maxsize)
    else:
        _write(place.parent, place.name, {n: t.contiguous() for n, t in weights.items()}, {})


def start_of(place: Path, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a stage began with, held as `own` is.

    Raises:
        TrainError: it is damaged, or of another model.
    """
    if wrong := damage(place):
        raise TrainError(
            f"the model that the stage began with cannot be read ({wrong})",
            where=str(place),
            hint="bring the folder back, or train into another one",
        )
    try:
        found = _weights(place, own)
        if lacking := own.keys() ^ found.keys():
            raise RuntimeError(f"other names: {min(lacking)}")
        return found
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _unfit(error, place) from None


def _unfit(error: Exception, place: Path) -> TrainError:
    line = str(error).splitlines()[0].rstrip(":.")
    return TrainError(f"the weights do not fit the model ({line})", where=str(place), hint=RESUMED)


def load_optimizer(
    place: Path, optimizer: torch.optim.Optimizer, model: nn.Module, rank: int = 0
) -> None:
    """Fill the optimizer and put the random states back; a rank that was not there keeps its own.

    Raises:
        TrainError: made for other parameters.
    """
    learned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    words = optimizer.state_dict()["param_groups"]
    try:
        if shards.is_ours(place):
            stored = torch.load(place / CHANCE, weights_only=True, map_location="cpu")
            known = {parameter: name for name, parameter in model.named_parameters()}
            names = [known[parameter] for parameter in learned]
            found = shards.optimizer_state(place, dict(zip(names, learned, strict=True)))
            state = {i: found[name] for i, name in enumerate(names) if name in found}
        else:
            stored = torch.load(place / "optimizer.pt", weights_only=True, map_location="cpu")
            words, state = stored["optimizer"]["param_groups"], stored["optimizer"]["state"]
            for i, values in state.items() if len(words) == len(optimizer.param_groups) else ():
                state[i] = {w: shards.spread(value, learned[i]) for w, value in values.items()}
        optimizer.load_state_dict({"state": state, "param_groups": words})
    except (ValueError, IndexError) as error:
        raise TrainError(
            f"the optimizer does not fit ({error})", where=str(place), hint=RESUMED
        ) from None
    states = [stored["rng"], *stored["rng"].get("others", ())]
    if rank >= len(states):
        return
    torch.set_rng_state(states[rank]["cpu"])
    if "cuda" in states[rank] and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[rank]["cuda"])
