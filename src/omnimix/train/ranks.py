"""Training on several processes: every rank takes its share of each batch, and all take the same step.

Gradients are added up parameter by parameter, of those that any rank has one for. Nothing is waited for
inside a forward or a backward pass, so a rank whose share holds no item of some modality, or no usable record
at all, costs the others nothing, and what no rank has used stays untouched, as in one process. (DDP wants to
know such parameters beforehand, or runs every part on a dummy.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, distributed as dist, nn
from torch.nn.modules.batchnorm import _BatchNorm

from omnimix.parallel.process_group import ProcessGroup

BUCKET = 25 * 2**20
"""Bytes of gradients that travel at once."""


def add_gradients(process_group: ProcessGroup, learned: Sequence[nn.Parameter]) -> None:
    """Every gradient becomes the sum over the ranks; one that no rank has stays None."""
    if process_group.size == 1 or not learned:
        return
    device = learned[0].device
    with process_group.together():
        has = torch.tensor([p.grad is not None for p in learned], dtype=torch.int32, device=device)
        dist.all_reduce(has, dist.ReduceOp.MAX)
        used = [p for p, any_ in zip(learned, has.tolist(), strict=True) if any_]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([p.grad for p in used if p.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            pieces = flat.split([gradient.numel() for gradient in bucket])
            for gradient, piece in zip(bucket, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))


def _buckets(gradients: Iterable[Tensor]) -> list[list[Tensor]]:
    """Gradients of one type in pieces of about `BUCKET` bytes, in their order."""
    done: list[list[Tensor]] = []
    open_: dict[torch.dtype, tuple[list[Tensor], int]] = {}
    for gradient in gradients:
        rows, size = open_.get(gradient.dtype, ([], 0))
        if not rows or size > BUCKET:
            rows, size = [], 0
            done.append(rows)
        rows.append(gradient)
        open_[gradient.dtype] = (rows, size + gradient.numel() * gradient.element_size())
    return done


def added(process_group: ProcessGroup, values: Tensor) -> Tensor:
    """The sum over the ranks."""
    if process_group.size > 1:
        values = values.clone()
        with process_group.together():
            dist.all_reduce(values)
    return values


def level_statistics(process_group: ProcessGroup, model: nn.Module) -> None:
    """Running statistics of batch norms become the mean over the ranks, each of which saw its share alone."""
    norms = (
        [] if process_group.size == 1 else [m for m in model.modules() if isinstance(m, _BatchNorm)]
    )
    found = [b for norm in norms for b in norm.buffers() if b.is_floating_point()]
    counts = [b for norm in norms for b in norm.buffers() if not b.is_floating_point()]
    if not found:
        return
    with process_group.together():
        flat = torch.cat([buffer.flatten() for buffer in found])
        dist.all_reduce(flat)
        flat /= process_group.size
        for buffer, piece in zip(found, flat.split([b.numel() for b in found]), strict=True):
            buffer.copy_(piece.view_as(buffer))
        if counts:
            steps = torch.stack(counts)
            dist.all_reduce(steps, dist.ReduceOp.MAX)
            for buffer, step in zip(counts, steps, strict=True):
                buffer.copy_(step)


def fingerprint(model: nn.Module) -> list[float]:
    """A few numbers that differ where weights differ."""
    floating = [p.detach() for p in model.parameters() if p.is_floating_point()]
    return [
        float(sum(p.double().sum() for p in floating)),
        float(sum(p.double().norm() for p in floating)),
    ]
