"""Batch norms over processes: statistics of the whole batch, as one process would see it, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed as dist
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from omnimix.compose.item_batch import lent


class _Sum(torch.autograd.Function):
    """The sum over the processes; so is its gradient. torch's own batch norm of this kind serves CUDA alone."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        [gradient] = gradients
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


_summed: Any = _Sum.apply


class SharedNorms(TorchFunctionMode):
    """While it is on, every batch norm that learns normalises by what all processes see.

    Args:
        counts: whether this process's batch is one of its own; of lent items nothing counts either.
        copies: processes that see the same batch.
    """

    def __init__(self, counts: bool = True, copies: int = 1) -> None:
        super().__init__()
        self.counts = counts
        self.copies = copies

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.batch_norm:
            return self._normed(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _normed(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return functional.batch_norm(
                input, running_mean, running_var, weight, bias, False, momentum, eps
            )
        over = [d for d in range(input.ndim) if d != 1]
        wide = [1, -1, *[1] * (input.ndim - 2)]
        exact = input.float()
        share = float(self.counts and not lent.get())
        own = exact.new_full((1,), share * input.numel() / input.shape[1])
        total: Tensor = _summed(torch.cat([exact.sum(over) * share, own]))
        mean, count = total[:-1] / total[-1], total[-1]
        spread: Tensor = _summed(((exact - mean.view(wide)) ** 2).sum(over) * share)
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean, momentum)
                running_var.lerp_(spread / (count - self.copies).clamp(min=1), momentum)
        found = (exact - mean.view(wide)) * (spread / count + eps).rsqrt().view(wide)
        if weight is not None:
            found = found * weight.float().view(wide)
        if bias is not None:
            found = found + bias.float().view(wide)
        done: Tensor = found.to(input.dtype)
        return done
