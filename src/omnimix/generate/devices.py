"""Where a model goes when it is opened: a device, several processes, or fewer bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from omnimix.compose.holding import Holding, Quantized
from omnimix.errors import OmnimixError
from omnimix.parallel import process_group as process_groups
from omnimix.parallel.process_group import ProcessGroup

if TYPE_CHECKING:
    from torch import distributed as dist

TENSOR = "tensor"


def meet(parallel: str | dist.ProcessGroup | None, quantization: str | None) -> ProcessGroup:
    """The processes that share a model; this one alone where nothing is said.

    Raises:
        OmnimixError: a word that is unknown, or more processes than there are GPUs.
    """
    if parallel is None:
        return ProcessGroup()
    if isinstance(parallel, str) and parallel != TENSOR:
        raise OmnimixError(f"unknown parallel {parallel!r}", hint="the one way is 'tensor'")
    if quantization:
        raise OmnimixError(
            "quantized weights cannot be cut over processes", hint="leave out one of the two"
        )
    return process_groups.join(None if parallel == TENSOR else parallel)


def place(
    device: str | torch.device | None,
    dtype: torch.dtype,
    quantization: str | None,
    process_group: ProcessGroup,
) -> tuple[torch.device, Holding | None]:
    """The device, and how the model is held there (None: whole).

    Raises:
        OmnimixError: a device or package that is not there.
    """
    cuda = torch.cuda.is_available()
    try:
        chosen = torch.device(device or ("cuda" if cuda else "cpu"))
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        known = "cpu, cuda, cuda:0 ..." if cuda else "cpu: torch finds no GPU here"
        raise OmnimixError(
            f"there is no device {str(device)!r}", hint=f"known are {known}"
        ) from error
    if quantization:
        return chosen, Quantized(quantization, chosen, dtype)
    if process_group.size == 1:
        return chosen, None
    from omnimix.parallel.tensor import TensorParallel

    if device is not None and (chosen.type == "cuda") != cuda:
        raise OmnimixError(
            f"several processes work on {'the GPUs' if cuda else 'the CPU'} here, not on {chosen}",
            hint="hide the GPUs with CUDA_VISIBLE_DEVICES= to work on the CPU" if cuda else None,
        )
    own = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    return own, TensorParallel(process_group)


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
