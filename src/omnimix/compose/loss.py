"""The loss: cross entropy of next tokens."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from omnimix.compose.sequence import IGNORE


def token_loss(
    logits: Float[Tensor, "batch tokens vocab"],
    labels: Int[Tensor, "batch tokens"] | None,
    count: int | Tensor | None = None,
    shift_labels: Int[Tensor, "batch tokens"] | None = None,
) -> Float[Tensor, ""]:
    """Cross entropy of each next token, summed over the learned ones and divided by their number.

    Args:
        count: the number to divide by, where the batch is one part of a larger one.
        shift_labels: for each place the label of the next one, in place of `labels`.
    """
    if shift_labels is None:
        assert labels is not None
        logits, shift_labels = logits[:, :-1], labels[:, 1:]
    flat = logits.flatten(0, 1).float()
    target = shift_labels.flatten().to(flat.device)
    total = functional.cross_entropy(flat, target, ignore_index=IGNORE, reduction="sum")
    if count is None:
        count = (target != IGNORE).sum().clamp(min=1)
    return total / count
