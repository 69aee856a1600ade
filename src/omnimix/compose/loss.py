"""The loss: cross entropy of next tokens, with the output head at the learned places alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    return meaned(all_losses(logits, places, target), scale, count)


def all_losses(
    logits: Float[Tensor, "batch tokens vocab"],
    places: Int[Tensor, "learned"],
    target: Int[Tensor, "learned"],
) -> Float[Tensor, "learned"]:
    """Cross entropy of every learned place."""
    chosen = logits.flatten(0, 1)[places.to(logits.device)].float()
    return functional.cross_entropy(chosen, target.to(logits.device), reduction="none")


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


def chosen_losses(
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "batch tokens width"],
    places: Int[Tensor, "learned"],
    target: Int[Tensor, "learned"],
    vocabulary: int,
    frozen: bool = False,
) -> Float[Tensor, "learned"]:
    """Cross entropy of every learned place from what stands before the head, which runs there alone.

    Args:
        head: logits `[1, places, vocab]` of hidden states `[1, places, width]`.
        vocabulary: about how many logits a place has.
        frozen: nothing in the head learns, so that a chunk's gradient is made beside its losses, and no logits are kept
            or made again.
    """
    chosen = hidden.flatten(0, 1)[places.to(hidden.device)]
    size = max(1, CHUNK // vocabulary)
    parts = list(zip(chosen.split(size), target.to(hidden.device).split(size), strict=True))

    def part(states: Tensor, wanted: Tensor) -> Tensor:
        logits = head(states[None])[0].float()
        return functional.cross_entropy(logits, wanted, reduction="none")

    if frozen and chosen.requires_grad:
        at_once: Callable[..., Tensor] = _AtOnce.apply
        return torch.cat([at_once(part, *each) for each in parts])
    if len(parts) > 1 and torch.is_grad_enabled():
        return torch.cat([checkpoint(part, *each, use_reentrant=False) for each in parts])
    return torch.cat([part(*each) for each in parts])


class _AtOnce(torch.autograd.Function):
    """Losses of places, and with them their gradients: each depends on its own place alone."""

    @staticmethod
    def forward(
        ctx: Any, part: Callable[[Tensor, Tensor], Tensor], states: Tensor, wanted: Tensor
    ) -> Tensor:
        with torch.enable_grad():
            own = states.detach().requires_grad_()
            losses = part(own, wanted)
            (gradient,) = torch.autograd.grad(losses.sum(), own)
        ctx.save_for_backward(gradient)
        return losses.detach()

    @staticmethod
    def backward(ctx: Any, *given: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return None, (given[0][:, None] * gradient).to(gradient.dtype), None


def meaned(
    losses: Float[Tensor, "learned"],
    scale: Float[Tensor, "learned"] | None,
    count: float | Tensor | None,
) -> Float[Tensor, ""]:
    """What the losses add up to, each by its scale, divided by the scales' sum or what is given for it."""
    if count is None:
        count = max(len(losses), 1) if scale is None else scale.sum().clamp(min=1e-9)
    return (losses if scale is None else losses * scale.to(losses.device)).sum() / count
