"""Per-sample attention for packed batches, for every language model of transformers.

Several samples stand one after another in one row; `cu_seq_lens_q` says where each begins. Attention then
runs per segment, which is both exact (a packed sample's logits equal the sample alone) and several times
faster on a CPU than a block-diagonal mask. On CUDA the same keyword arguments reach flash attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from omnimix import _transformers

NAME = "omnimix"


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    seen: Sequence[Tensor] | None = None,
    **words: Any,
) -> tuple[Tensor, Tensor | None]:
    """SDPA; per segment where `cu_seq_lens_q` is given. Shapes `[batch, heads, tokens, head_dim]`.

    `seen` holds for each segment `[tokens, tokens]`, true where a token sees another; without it a token
    sees all before it.
    """
    if cu_seq_lens_q is None:
        given = (module, query, key, value, attention_mask)
        return _transformers.sdpa(*given, scaling=scaling, dropout=dropout, **words)
    grouped = query.shape[1] != key.shape[1]
    # One split a tensor: the gradient of many slices would be many tensors of full size.
    lengths = cu_seq_lens_q.diff().tolist()
    segments = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    pieces = [
        functional.scaled_dot_product_attention(
            q, k, v, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=grouped
        )
        for (q, k, v), mask in zip(segments, seen or repeat(None, len(lengths)), strict=True)
    ]
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous(), None


def register() -> None:
    """Make the name known to transformers; calling it again changes nothing."""
    _transformers.register_attention(NAME, attention)
