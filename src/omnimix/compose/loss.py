"""The loss: cross entropy of next tokens, with the output head at the learned places alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from omnimix.compose.sequence import IGNORE

CHUNK = 2**25
"""Logits that are held at once; where there are more, those of a chunk are made again in the backward pass."""


def token_loss(
    logits: Float[Tensor, "batch tokens vocab"],
    labels: Int[Tensor, "batch tokens"] | None,
    count: float | Tensor | None = None,
    shift_labels: Int[Tensor, "batch tokens"] | None = None,
    loss_scale: Float[Tensor, "batch tokens"] | None = None,
) -> Float[Tensor, ""]:
    """Cross entropy of each next token, summed over the learned ones and divided by their number.

    Args:
        count: the number to divide by, where the batch is one part of a larger one.
        shift_labels: for each place the label of the next one, in place of `labels`.
        loss_scale: what each label counts for, 1 without it; beside `shift_labels` shifted as they are.
    """
    places, target, scale = learned(labels, shift_labels, loss_scale)
    # Nothing is copied where the last place alone is left out: it has no label.
    total = _summed(logits.flatten(0, 1)[places].float(), target, scale)
    return total / _count(count, target, scale)


def learned(
    labels: Int[Tensor, "batch tokens"] | None,
    shift_labels: Int[Tensor, "batch tokens"] | None = None,
    loss_scale: Float[Tensor, "batch tokens"] | None = None,
) -> tuple[Int[Tensor, "learned"], Int[Tensor, "learned"], Float[Tensor, "learned"] | None]:
    """Where in the flattened rows something is learned, what, and how much it counts."""
    if shift_labels is None:
        assert labels is not None
        shift_labels = functional.pad(labels[:, 1:], (0, 1), value=IGNORE)
        loss_scale = None if loss_scale is None else functional.pad(loss_scale[:, 1:], (0, 1))
    flat = shift_labels.flatten()
    places = (flat != IGNORE).nonzero()[:, 0]
    return places, flat[places], None if loss_scale is None else loss_scale.flatten()[places]


def chosen_loss(
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "batch tokens width"],
    places: Int[Tensor, "learned"],
    target: Int[Tensor, "learned"],
    scale: Float[Tensor, "learned"] | None,
    count: float | Tensor | None,
    vocabulary: int,
) -> Float[Tensor, ""]:
    """As `token_loss`, from what stands before the head, which runs at the learned places alone.

    Args:
        head: logits `[1, places, vocab]` of hidden states `[1, places, width]`.
        vocabulary: about how many logits a place has.
    """
    chosen = hidden.flatten(0, 1)[places.to(hidden.device)]
    size = max(1, CHUNK // vocabulary)
    parts = list(zip(chosen.split(size), target.split(size), strict=True))
    scales = [None] * len(parts) if scale is None else scale.split(size)

    def part(states: Tensor, wanted: Tensor, weight: Tensor | None) -> Tensor:
        return _summed(head(states[None])[0].float(), wanted, weight)

    total = hidden.new_zeros((), dtype=torch.float32)
    for (states, wanted), weight in zip(parts, scales, strict=True):
        if len(parts) > 1 and torch.is_grad_enabled():
            total = total + checkpoint(part, states, wanted, weight, use_reentrant=False)
        else:
            total = total + part(states, wanted, weight)
    return total / _count(count, target, scale)


def _summed(
    logits: Float[Tensor, "learned vocab"],
    target: Int[Tensor, "learned"],
    scale: Float[Tensor, "learned"] | None,
) -> Float[Tensor, ""]:
    target = target.to(logits.device)
    if scale is None:
        return functional.cross_entropy(logits, target, reduction="sum")
    each = functional.cross_entropy(logits, target, reduction="none")
    return (each * scale.to(logits.device)).sum()


def _count(
    count: float | Tensor | None,
    target: Int[Tensor, "learned"],
    scale: Float[Tensor, "learned"] | None,
) -> float | Tensor:
    if count is not None:
        return count
    return max(len(target), 1) if scale is None else scale.sum().clamp(min=1e-9)
