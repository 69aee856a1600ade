"""Where a model goes when it is opened: a device, several processes, or fewer bits."""

from __future__ import annotations

import torch
from torch import nn

from omnimix.compose.holding import Holding, Quantized
from omnimix.errors import OmnimixError
from omnimix.parallel import process_group as process_groups
from omnimix.parallel.process_group import ProcessGroup

TENSOR = "tensor"


def place(
    device: str | torch.device | None,
    dtype: torch.dtype,
    parallel: str | None,
    quantization: str | None,
) -> tuple[torch.device, Holding | None, ProcessGroup]:
    """The device, how the model is held there (None: whole), and the processes that share it.

    Raises:
        OmnimixError: words that are unknown or exclude each other, a device or package that is not there.
    """
    if parallel not in (None, TENSOR):
        raise OmnimixError(f"unknown parallel {parallel!r}", hint="the one way is 'tensor'")
    if parallel and quantization:
        raise OmnimixError(
            "quantized weights cannot be cut over processes", hint="leave out one of the two"
        )
    cuda = torch.cuda.is_available()
    chosen = torch.device(device or ("cuda" if cuda else "cpu"))
    if quantization:
        return chosen, Quantized(quantization, chosen, dtype), ProcessGroup()
    process_group = process_groups.join() if parallel else ProcessGroup()
    if process_group.size == 1:
        return chosen, None, process_group
    from omnimix.parallel.tensor import TensorParallel

    if device is not None and (chosen.type == "cuda") != cuda:
        raise OmnimixError(
            f"several processes work on {'the GPUs' if cuda else 'the CPU'} here, not on {chosen}",
            hint="hide the GPUs with CUDA_VISIBLE_DEVICES= to work on the CPU" if cuda else None,
        )
    own = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    return own, TensorParallel(process_group.rank, process_group.size), process_group


def move(
    model: nn.Module, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> None:
    """Move a model, change its floating type, or both, and give what loading it there would have given."""
    if device is not None:
        model.to(device=device)
    if dtype is None:
        return
    # Tables that are computed, not learned (the frequencies of rotary positions), are exact in every
    # loaded model whatever its type; rounded to 16 bits, far positions would fall together.
    exact = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name in module._non_persistent_buffers_set
    ]
    model.to(dtype=dtype)
    for module, name, buffer in exact:
        setattr(module, name, buffer)
