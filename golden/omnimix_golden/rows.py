"""Rows of different length side by side, as the references of golden cases have them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stacked(rows: Sequence[Tensor], value: int, left: bool = False) -> Tensor:
    """Rows of different length as one tensor, filled on one side."""
    width = max(len(row) for row in rows)
    out = torch.full((len(rows), width), value, dtype=rows[0].dtype)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if left else slice(0, len(row))
        out[i, at] = row
    return out


def widened(tensor: Tensor, width: int, value: float, left: bool = False) -> Tensor:
    """The tensor with its second dimension filled up.

    The reference fills texts to one length before it puts pictures in, so that its rows may be wider than
    the longest one; what it adds is masked.
    """
    missing = width - tensor.shape[1]
    if missing <= 0:
        return tensor
    block = tensor.new_full((tensor.shape[0], missing, *tensor.shape[2:]), value)
    return torch.cat([block, tensor] if left else [tensor, block], dim=1)
