"""Checkpoints and models that several processes write together, each its own shards of them.

Run checkpoints are torch's (`torch.distributed.checkpoint`): tensors by name, of which each process reads what it holds,
so that a run goes on with other processes and another plan. A model is written as transformers does, file by file.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed as dist, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader

from omnimix import _transformers
from omnimix.compose.adapters import whole
from omnimix.compose.model import MultimodalLM
from omnimix.parallel.layout import own_part

METADATA = ".metadata"
MODEL, OPTIMIZER = "model/", "optimizer/"

FILE = 4 * 2**30
"""Most bytes of one file of a model: what the first process holds beside its shards."""


def entries(
    weights: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer | None = None,
    model: nn.Module | None = None,
) -> dict[str, Any]:
    """What a checkpoint holds, by name: weights, and the state of every parameter that has moved."""
    found: dict[str, Any] = {f"{MODEL}{name}": tensor for name, tensor in weights.items()}
    if optimizer is not None and model is not None:
        names: dict[Any, str] = {one: name for name, one in model.named_parameters()}
        for parameter, state in optimizer.state.items():
            for word, value in state.items():
                found[f"{OPTIMIZER}{names[parameter]}/{word}"] = value
    return found


def write(draft: Path, kept: Mapping[str, Any]) -> None:
    """Write what `entries` gave into an empty folder; every process has to call it."""
    with _plainly():
        state_dict_saver.save(dict(kept), checkpoint_id=draft, no_dist=not dist.is_initialized())


@contextmanager
def _plainly() -> Iterator[None]:
    """Around torch.distributed.checkpoint: the error of the process that failed, and no talk of being alone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        raise cause from None


def is_ours(place: Path) -> bool:
    """Whether a checkpoint was written by `write`."""
    return (place / METADATA).is_file()


def _stored(place: Path, kind: str) -> dict[str, Any]:
    """Names of what is stored, and of which size it is."""
    found = FileSystemReader(place).read_metadata().state_dict_metadata
    return {n.removeprefix(kind): one for n, one in found.items() if n.startswith(kind)}


def weights(place: Path, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All stored weights, held as `own` of their names are.

    Raises:
        RuntimeError: other names or shapes.
    """
    found: dict[str, Tensor] = {}
    for name, one in _stored(place, MODEL).items():
        if name not in own or own[name].shape != one.size:
            raise RuntimeError(f"other names or shapes: {name}")
        found[name] = torch.zeros_like(own[name], dtype=one.properties.dtype)
    _load(place, entries(found))
    return found


def _load(place: Path, wanted: dict[str, Any]) -> None:
    with _plainly():
        state_dict_loader.load(wanted, checkpoint_id=place, no_dist=not dist.is_initialized())


def optimizer_state(place: Path, names: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """The stored state of parameters by name, each process its own parts.

    Raises:
        ValueError: of parameters that are not among the names.
    """
    wanted: dict[str, Any] = {}
    for key, one in _stored(place, OPTIMIZER).items():
        name = key.rpartition("/")[0]
        if name not in names:
            raise ValueError(f"it has a state of {name}")
        size = getattr(one, "size", None)
        if size is None:
            wanted[OPTIMIZER + key] = None
        elif size == names[name].shape:
            wanted[OPTIMIZER + key] = torch.zeros_like(names[name], dtype=one.properties.dtype)
        else:
            wanted[OPTIMIZER + key] = torch.zeros(size, dtype=one.properties.dtype)
    _load(place, wanted)
    found: dict[str, dict[str, Any]] = {}
    for key, value in wanted.items():
        name, _, word = key.removeprefix(OPTIMIZER).rpartition("/")
        found.setdefault(name, {})[word] = value
    return found


def spread(value: Any, like: Tensor) -> Any:
    """What every process has whole, held as another tensor of its shape is."""
    if not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    held = torch.zeros_like(like, dtype=value.dtype)
    local, where = own_part(held)
    local.copy_(value[where])
    return held


def write_model(model: MultimodalLM, draft: Path | None) -> None:
    """Write the weights of a model that lies over processes, as `save_pretrained` would, a file at a time.

    What rests in another type while it is frozen is written in float32 again.

    Every process has to call it.

    Args:
        draft: the folder; None in those that only bring their parts.
    """
    shared = _transformers.tied_names(model)
    tensors = {n: t.detach() for n, t in model.state_dict().items() if n not in shared}
    sizes = {
        n: t.numel() * max(4 * t.is_floating_point(), t.element_size()) for n, t in tensors.items()
    }
    files: list[list[str]] = []
    held = FILE
    for name, size in sizes.items():
        if held + size > FILE:
            files.append([])
            held = 0
        files[-1].append(name)
        held += size
    where: dict[str, str] = {}
    for number, names in enumerate(files, 1):
        part = f"-{number:05d}-of-{len(files):05d}" if files[1:] else ""
        file = f"model{part}.safetensors"
        kept: dict[str, Tensor] = {}
        for name in names:
            found = whole(tensors[name])
            if draft is not None:
                kept[name] = (
                    (found.float() if found.is_floating_point() else found).cpu().contiguous()
                )
        where |= dict.fromkeys(names, file)
        if draft is not None:
            save_file(kept, draft / file, metadata={"format": "pt"})
    if draft is not None and files[1:]:
        (draft / "model.safetensors").unlink(missing_ok=True)
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where}
        (draft / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
