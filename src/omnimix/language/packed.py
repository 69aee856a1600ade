"""Attention for every language model of transformers, in plain, padded and packed form.

Several samples stand one after another in one row; `cu_seq_lens_q` says where each begins. Attention then
runs per segment, which is both exact (a packed sample's logits equal the sample alone) and several times
faster on a CPU than a block-diagonal mask. On CUDA the same keyword arguments reach flash attention.

Windows, soft caps and sinks come as keyword arguments, as flash attention takes them. In plain and padded
form the window is in the mask already.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from omnimix import _transformers

NAME = "omnimix"
_SEGMENTS = ContextVar("_SEGMENTS", default=False)


@contextmanager
def by_segment(packed: bool = True) -> Iterator[None]:
    """Around a forward pass of a packed row: no mask is made, which would take a square of the row."""
    token = _SEGMENTS.set(packed)
    try:
        yield
    finally:
        _SEGMENTS.reset(token)


def distances(branches: Tensor, positions: Tensor, borders: Tensor) -> list[Tensor]:
    """For each sample of a packed row, how far before a token another stands; -1 where it is not seen.

    A token sees what is shared (branch 0) and its own round so far. All arguments are of the row: `[tokens]`
    twice, and `[samples + 1]`.
    """
    found = []
    for own, place in zip(
        *(x.split(borders.diff().tolist()) for x in (branches, positions)), strict=True
    ):
        allowed = ((own[None] == 0) | (own[None] == own[:, None])).tril()
        found.append(torch.where(allowed, place[:, None] - place[None], -1).int())
    return found


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
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    rows: Any = None,
    output_attentions: bool | None = None,
    **words: Any,
) -> tuple[Tensor, Tensor | None]:
    """SDPA; per segment where `cu_seq_lens_q` or `rows` are given. Shapes `[batch, heads, tokens, head_dim]`.

    `rows` (`omnimix.language.ragged.PassCache`) hold for each segment what it goes on from. Where `output_attentions` asks
    for them, the weights are given as well, `[batch, heads, tokens, tokens]`, and no kernel is used.
    `seen` holds for each segment `[tokens, tokens]`, how far before a token another stands, negative where
    it is not seen; without it a token sees all before it. `s_aux` holds for each head the logit of a sink.
    """
    causal = words.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    own = (scaling, dropout, softcap, s_aux)
    if rows is not None and hasattr(rows, "attend"):
        return rows.attend(module, query, key, value, sliding_window, *own), None
    if rows is not None and rows.rows:
        pieces = [
            _go_on(q, *rows.of(module.layer_idx, i, sliding_window), sliding_window, *own)
            for i, q in enumerate(query.split(rows.counts, dim=2))
        ]
        return torch.cat(pieces, dim=2).transpose(1, 2), None
    if cu_seq_lens_q is not None:
        plain = not seen and softcap is None and s_aux is None and not dropout and causal
        longest = words.get("max_length_q")
        if plain and longest is not None and (kernel := _varlen(query)) is not None:
            borders = (cu_seq_lens_q, longest)
            return kernel(query, key, value, *borders, scaling, sliding_window), None
        # One split a tensor: the gradient of many slices would be many tensors of full size.
        lengths = cu_seq_lens_q.diff().tolist()
        parts = (x.split(lengths, dim=2) for x in (query, key, value))
        pieces = [
            _attend(q, k, v, _mask(q, distance, sliding_window), causal, *own)
            for q, k, v, distance in zip(*parts, seen or repeat(None, len(lengths)), strict=True)
        ]
        return torch.cat(pieces, dim=2).transpose(1, 2).contiguous(), None
    if softcap is None and s_aux is None and not output_attentions:
        asked = (module, query, key, value, attention_mask)
        return _transformers.sdpa(*asked, scaling=scaling, dropout=dropout, **words)
    found, weights = _written_out(query, key, value, attention_mask, causal, *own)
    return found.transpose(1, 2).contiguous(), weights if output_attentions else None


def _go_on(query: Tensor, key: Tensor, value: Tensor, window: int | None, *own: Any) -> Tensor:
    """Attention of a segment's new tokens, the last ones of those that the keys are of."""
    new, seen = query.shape[2], key.shape[2]
    if new == seen and (window is None or new <= window):
        return _attend(query, key, value, None, True, *own)
    if new > 1:
        place = torch.arange(seen, device=query.device)
        distance = place[seen - new :, None] - place
        mask = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        return _attend(query, key, value, mask, False, *own)
    scaling, _, softcap, sinks = own
    if softcap is not None or sinks is not None:
        return _attend(query, key, value, None, False, *own)
    # One token sees all that is kept: the heads that share keys are queries of one head, and nothing is repeated.
    found = functional.scaled_dot_product_attention(
        query.view(1, key.shape[1], -1, query.shape[3]), key, value, scale=scaling
    )
    return found.reshape(1, query.shape[1], 1, -1)


def _varlen(query: Tensor) -> Callable[..., Tensor] | None:
    """torch's attention over samples of many lengths, where it runs: CUDA in 16 bits, up to 256 numbers a head."""
    if query.device.type != "cuda" or query.shape[0] != 1 or query.shape[3] > 256:
        return None
    half = (torch.bfloat16, torch.float16)
    kind = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    return functools.partial(_one_kernel, kind) if kind in half else None


def _one_kernel(
    kind: torch.dtype,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    borders: Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """`[1, tokens, heads, head_dim]`; no host waits for the borders, and every sample runs at once."""
    from torch.nn.attention.varlen import varlen_attn

    # Positions are turned in float32 under autocast, which knows nothing of this kernel.
    q, k, v = (x[0].transpose(0, 1).to(kind) for x in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    # A window of n tokens counts the token itself: n - 1 before it.
    seen = (-1 if window is None else window - 1, 0)
    found = varlen_attn(
        q, k, v, borders, borders, longest, longest, scale=scaling, window_size=seen
    )
    assert isinstance(found, Tensor)
    return found[None]


def _mask(query: Tensor, distance: Tensor | None, window: int | None) -> Tensor | None:
    """What the tokens of a segment see; None where that is all before them, which has the faster kernel."""
    tokens = query.shape[2]
    if window is not None and tokens <= window:
        window = None
    if distance is None and window is None:
        return None
    if distance is None:
        place = torch.arange(tokens, device=query.device)
        distance = place[:, None] - place
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """SDPA, or the same written out where no kernel knows soft caps or sinks."""
    if softcap is not None or sinks is not None:
        own = (causal, scaling, dropout, softcap, sinks)
        return _written_out(query, key, value, mask, *own)[0]
    causal = causal and mask is None and query.shape[2] > 1
    grouped = query.shape[1] != key.shape[1]
    return functional.scaled_dot_product_attention(
        query, key, value, mask, dropout, causal, scale=scaling, enable_gqa=grouped
    )


def _written_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Attention without a kernel, and its weights."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    logits = query @ key.mT * (query.shape[3] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if causal and mask is None and query.shape[2] > 1:
        mask = logits.new_ones(logits.shape[2:], dtype=torch.bool).tril()
    if mask is not None and mask.dtype == torch.bool:
        logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    elif mask is not None:
        logits = logits + mask
    if sinks is not None:
        sink = sinks.to(logits.dtype).view(1, -1, 1, 1).expand(*logits.shape[:3], 1)
        logits = torch.cat([logits, sink], dim=3)
    weights = logits.softmax(dim=3, dtype=torch.float32)[..., : key.shape[2]].to(value.dtype)
    return functional.dropout(weights, dropout) @ value, weights


def register() -> None:
    """Make the name known to transformers; calling it again changes nothing."""
    _transformers.register_attention(NAME, attention, _SEGMENTS.get)
