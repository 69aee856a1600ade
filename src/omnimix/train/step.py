"""One optimizer step: the same code in a training run and in the check of golden numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.errors import TrainError
from omnimix.parallel.layout import ALONE, ModelLayout
from omnimix.train import optim, ranks
from omnimix.train.settings import Stage

LEARNED = 1e-3
"""A loss below which a gradient may round to nothing."""


@dataclass(frozen=True, eq=False)
class Stepped:
    """What a step did.

    Attributes:
        loss: what was minimised.
        parts: of that, the loss of each part as the objective alone would report it.
        norm: of the gradient before it was clipped for the last time.
        norms: of the gathered gradient at each clipping.
        rate: learning rate that was used.
        samples, targets: how many records and learned tokens (of preferences: pairs) were seen.
        touched: parameters that had a gradient.
    """

    loss: Tensor
    parts: list[Tensor]
    norm: Tensor
    norms: list[Tensor]
    rate: float
    samples: int
    targets: float
    touched: int = 0


class NothingLearned(TrainError):
    """A step whose records hold no learned token."""


def optimizer_step(
    model: MultimodalLM,
    optimizer: torch.optim.Optimizer,
    stage: Stage,
    step: int,
    horizon: int,
    batches: Sequence[Batch | None],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    look: Callable[[], None] | None = None,
    layout: ModelLayout = ALONE,
) -> Stepped:
    """Gradients of all parts, clip, and one move of the weights.

    Args:
        step: from 0; decides the rate.
        horizon: steps that the schedule is made for.
        batches: parts of the step's batch, on any device; of several ranks this one's share, None where
            it has no record.
        look: called when the gradients are whole and not clipped yet.
        layout: the ranks that take the step together. What is divided by, clipped and reported is the whole
            batch's, so that the number of ranks changes nothing.

    Raises:
        TrainError: no learned token in the whole step, a loss or gradient that is not finite, or a gradient of
            nothing but zeros; the weights have not moved.
    """
    targets, seen, said = _counts(layout, stage, batches, step)
    rate = _rated(optimizer, stage, step, horizon)
    losses: list[Tensor] = []
    norms: list[Tensor] = []
    learned = [p for group in optimizer.param_groups for p in group["params"]]
    most = stage.optimizer.max_grad_norm or float("inf")
    counts = stage.objective.counts(targets)
    shared = ranks.even(layout, batches, said, model.modalities)
    for (batch, share), count in zip(shared, counts, strict=True):
        losses.append(_backward(model, batch, stage, count, autocast, layout, share))
        if stage.optimizer.clip_micro_batches and len(losses) < len(batches):
            norms.append(optim.clip(learned, most))
    if look is not None:
        look()
    norms.append(optim.clip(learned, most))
    whole = ranks.added(layout, torch.stack(losses))
    touched = sum(parameter.grad is not None for parameter in learned)
    try:
        _check(step, whole.sum(), norms, touched, batches)
        # The first one makes the optimizer's state, for which a rank's memory may not do.
        with layout.process_group.together():
            optimizer.step()
    finally:
        optimizer.zero_grad(set_to_none=True)
    parts = [
        loss * (count / (own or 1)) for loss, count, own in zip(whole, counts, targets, strict=True)
    ]
    return Stepped(whole.sum(), parts, norms[-1], norms, rate, seen, sum(targets), touched)


def _check(
    step: int, loss: Tensor, norms: list[Tensor], touched: int, batches: Sequence[Batch | None]
) -> None:
    """Refuse to move weights by what is no direction.

    Raises:
        TrainError: names the step, and records of it.
    """
    # One look a step: what is not finite would be in every weight behind it, and in the next checkpoint.
    lost, norm = torch.stack([loss, torch.stack(norms).sum()]).tolist()
    where = _named(batches)
    if not math.isfinite(lost) or not math.isfinite(norm):
        what = (
            f"loss of step {step + 1} is {lost}"
            if not math.isfinite(lost)
            else f"gradient of step {step + 1} is {norm}"
        )
        raise TrainError(
            f"the {what}: nothing was moved by it, and nothing is saved",
            where=where,
            hint="lower optimizer.lr, look at these records, or at the weights the run began with",
        )
    # With nothing lost there is nothing to learn, and without a parameter in use no gradient.
    if norm == 0 and touched and lost > LEARNED:
        raise TrainError(
            f"the gradient of step {step + 1} is 0.0 while the loss is {lost:.3g}: the model learns no more",
            where=where,
            hint="lower optimizer.lr, and begin again or go on from an older checkpoint",
        )


def _rated(optimizer: torch.optim.Optimizer, stage: Stage, step: int, horizon: int) -> float:
    """The rate of a step, set in the optimizer; a group may learn at a multiple of it."""
    rate = optim.rate(step, horizon, stage.optimizer.lr, stage.schedule)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    return rate


def _backward(
    model: MultimodalLM,
    batch: Batch | None,
    stage: Stage,
    count: float,
    autocast: Callable[[], AbstractContextManager[Any]],
    layout: ModelLayout,
    share: float,
) -> Tensor:
    """The loss of one part of a batch, its gradients added to those that are there; zero without a part."""
    device = layout.device or next(model.parameters()).device
    if batch is None:
        return torch.zeros((), device=device)
    with layout.process_group.together():
        moved = batch.to(device, non_blocking=True)
        with autocast():
            objective = stage.objective.against(model, moved, layout)
            loss = layout.run(lambda: objective.loss(model, moved, count) * share, share > 0)
        # Nothing to learn from where only an image's connector learns, and the part holds no image.
        if loss.requires_grad:
            loss.backward()
    return loss.detach().float()


def _counts(
    layout: ModelLayout, stage: Stage, batches: Sequence[Batch | None], step: int
) -> tuple[list[float], int, list[list[ranks.Needs]]]:
    """Learned tokens of each part and records of all parts, on all ranks together, and what each rank needs.

    Raises:
        NothingLearned: there is no such token.
    """
    own = [0 if batch is None else stage.objective.amount(batch) for batch in batches]
    seen = sum(len(batch.ids) for batch in batches if batch is not None)
    if not layout.speaks:
        own, seen = [0] * len(own), 0
    asked = [ranks.needs(batch) for batch in batches]
    said = layout.process_group.gather("counts", (own, seen, asked))
    targets = [sum(column) for column in zip(*(one for one, _, _ in said), strict=True)]
    if not sum(targets):
        raise NothingLearned(
            f"step {step + 1} has no learned token",
            where=_named(batches),
            hint="look at a record with `omnimix show RECIPE --sample FILE`",
        )
    return targets, sum(many for _, many, _ in said), [needs for _, _, needs in said]


def _named(batches: Sequence[Batch | None]) -> str:
    """The first records of a step, for messages."""
    first = next((batch.ids for batch in batches if batch is not None), ())
    return f"records {', '.join(first[:3])}{' ...' if len(first) > 3 else ''}"


def quick_bf16(device: torch.device) -> bool:
    """Whether bf16 is quicker than fp32 there: CUDA from Ampere on, CPUs with AMX or AVX512-BF16.

    Elsewhere it is emulated: on a CPU with AVX2 alone a training step took twenty times as long.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in checks)
