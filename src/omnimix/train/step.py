"""One optimizer step: the same code in a training run and in the check of golden numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.errors import TrainError
from omnimix.train import optim
from omnimix.train.settings import Stage


@dataclass(frozen=True, eq=False)
class Stepped:
    """What a step did.

    Attributes:
        loss: what was minimised.
        parts: of that, the loss of each part as the objective alone would report it.
        norm: of the gradient before it was clipped for the last time.
        norms: of the gathered gradient at each clipping.
        rate: learning rate that was used.
        samples, targets: how many records and learned tokens were seen.
    """

    loss: Tensor
    parts: list[Tensor]
    norm: Tensor
    norms: list[Tensor]
    rate: float
    samples: int
    targets: int


def optimizer_step(
    model: MultimodalLM,
    optimizer: torch.optim.Optimizer,
    stage: Stage,
    step: int,
    horizon: int,
    batches: Sequence[Batch],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    look: Callable[[], None] | None = None,
) -> Stepped:
    """Gradients of all parts, clip, and one move of the weights.

    Args:
        step: from 0; decides the rate.
        horizon: steps that the schedule is made for.
        batches: parts of the step's batch, on any device.
        look: called when the gradients are whole and not clipped yet.

    Raises:
        TrainError: no learned token in the whole step.
    """
    targets = [batch.targets for batch in batches]
    if not sum(targets):
        raise TrainError(
            f"step {step} has no learned token",
            where=", ".join(batches[0].ids[:3]),
            hint="look at a record with `omnimix show RECIPE --sample FILE`",
        )
    device = next(model.parameters()).device
    rate = optim.rate(step, horizon, stage.optimizer.rate, stage.schedule)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    losses: list[Tensor] = []
    norms: list[Tensor] = []
    learned = [p for group in optimizer.param_groups for p in group["params"]]
    most = stage.optimizer.clip or float("inf")
    counts = stage.objective.counts(targets)
    for batch, count in zip(batches, counts, strict=True):
        moved = batch.to(device, non_blocking=True)
        with autocast():
            part = stage.objective.loss(model, moved, count)
        part.backward()
        losses.append(part.detach())
        if stage.optimizer.clip_parts and len(losses) < len(batches):
            norms.append(torch.nn.utils.clip_grad_norm_(learned, most))
    if look is not None:
        look()
    norms.append(torch.nn.utils.clip_grad_norm_(learned, most))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    parts = [
        loss * (count / max(own, 1))
        for loss, count, own in zip(losses, counts, targets, strict=True)
    ]
    total = torch.stack(losses).sum()
    seen = sum(len(batch.ids) for batch in batches)
    return Stepped(total, parts, norms[-1], norms, rate, seen, sum(targets))
