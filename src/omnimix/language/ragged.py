"""Several texts in one pass, each going on from keys and values of its own: how running answers share a step.

The tokens of all texts stand one after another in one row, as in a packed batch, and no text is padded. What a text
saw before lies in its `TextCache`, so that a step writes its few new keys and values in place and copies nothing. Attention (`packed.attention`) runs text by text over what its row keeps: it does
not depend on the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from omnimix import _transformers
from omnimix.language import packed


@dataclass(frozen=True)
class CacheLayout:
    """The shapes of what a model keeps of a token, layer by layer.

    Attributes:
        layers: by a layer's number, the heads and width of its keys, and those of its values.
    """

    layers: dict[int, tuple[tuple[int, int], tuple[int, int]]] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def token_bytes(self) -> int:
        """Memory of one token."""
        numbers = sum(h * d for pair in self.layers.values() for h, d in pair)
        return numbers * self.dtype.itemsize


class TextCache:
    """Keys and values of one text.

    Attributes:
        room: tokens that it may come to; memory is taken as it grows.
        length: tokens that it holds.
        tables: all keys and values of one shape, `[tables, heads, tokens, width]`, by their shape.
        kept: by layer its keys and its values, `[heads, tokens, width]`, parts of the tables.
    """

    def __init__(self, layout: CacheLayout, room: int) -> None:
        self.layout = layout
        self.room = room
        self.length = self._held = 0
        self.tables: dict[tuple[int, int], Tensor] = {}
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def reserve(self, tokens: int) -> None:
        """Take memory for so many tokens, and for more to come, so that few steps have to take any."""
        if tokens <= self._held:
            return
        self._held = min(self.room, max(tokens, 2 * self._held) + 64)
        before, layers = self.tables, self.layout.layers
        counts = Counter(shape for shapes in layers.values() for shape in shapes)
        self.tables = {
            shape: torch.empty(
                count,
                shape[0],
                self._held,
                shape[1],
                dtype=self.layout.dtype,
                device=self.layout.device,
            )
            for shape, count in counts.items()
        }
        for shape, table in before.items():
            self.tables[shape][:, :, : self.length] = table[:, :, : self.length]
        single = {shape: iter(table) for shape, table in self.tables.items()}
        self.kept = {
            layer: (next(single[keys]), next(single[values]))
            for layer, (keys, values) in layers.items()
        }

    def cut(self, start: int, end: int) -> list[Tensor]:
        """A copy of what it keeps of some of its tokens."""
        return [table[:, :, start:end].clone() for table in self.tables.values()]

    def put(self, pieces: Sequence[Tensor]) -> None:
        """Go on with what `cut` took from another row of the same model."""
        count = pieces[0].shape[2]
        self.reserve(self.length + count)
        for table, piece in zip(self.tables.values(), pieces, strict=True):
            table[:, :, self.length : self.length + count] = piece
        self.length += count


class PassCache:
    """The cache of one pass: takes up keys and values of the texts in it, in place.

    Args:
        rows: the texts, in the order in which their tokens stand.
        counts: of their new tokens.
    """

    def __init__(self, rows: Sequence[TextCache], counts: Sequence[int]) -> None:
        self.rows = rows
        self.counts = list(counts)
        self.ends = [row.length + count for row, count in zip(rows, counts, strict=True)]
        self.layers: list[Any] = []
        self.is_sliding = self.is_linear = self.is_dummy = [False]
        self.is_compileable = False

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep keys and values `[1, heads, tokens, width]`, and give them back as they came."""
        k, v = keys[0].split(self.counts, dim=1), values[0].split(self.counts, dim=1)
        for row, end, key, value in zip(self.rows, self.ends, k, v, strict=True):
            kept = row.kept[layer]
            kept[0][:, row.length : end] = key
            kept[1][:, row.length : end] = value
        return keys, values

    def of(self, layer: int, text: int, window: int | None) -> tuple[Tensor, Tensor]:
        """What a layer has to look at for a text's new tokens, keys and values `[1, heads, tokens, width]`."""
        end = self.ends[text]
        start = 0 if window is None else max(0, end - self.counts[text] - window + 1)
        keys, values = self.rows[text].kept[layer]
        return keys[None, :, start:end], values[None, :, start:end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """As in transformers; positions are given, so nobody counts by it."""
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """As in transformers."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """As in transformers; no mask is made."""
        return query_length, 0


class _Looking(PassCache):
    """Finds out what a model keeps."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.found: dict[int, tuple[tuple[int, int], tuple[int, int]]] = {}
        self.like: Tensor | None = None

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        self.like = keys
        self.found[layer] = (keys.shape[1], keys.shape[3]), (values.shape[1], values.shape[3])
        return keys, values


def layout(model: Any, like: Float[Tensor, "1 1 width"]) -> CacheLayout:
    """What a language model keeps of a token, found by running one.

    Args:
        like: the embedding of any token.
    """
    looking = _Looking()
    run_pass(model, like, torch.zeros(1, 1, dtype=torch.long, device=like.device), looking)
    assert looking.like is not None
    return CacheLayout(looking.found, looking.like.dtype, looking.like.device)


def run(
    model: Any, rows: Sequence[TextCache], embeddings: Sequence[Tensor]
) -> Float[Tensor, "rows v"]:
    """Let every text go on by its new tokens; the logits behind the last of each.

    Args:
        model: the language model.
        embeddings: of the new tokens of each text, `[tokens, width]`.
    """
    counts = [len(one) for one in embeddings]
    device = embeddings[0].device
    places = [
        torch.arange(row.length, row.length + count)
        for row, count in zip(rows, counts, strict=True)
    ]
    lasts = torch.tensor(counts).cumsum(0) - 1
    taken = PassCache(rows, counts)
    for row, end in zip(rows, taken.ends, strict=True):
        row.reserve(end)
    logits = run_pass(
        model,
        torch.cat(list(embeddings))[None],
        torch.cat(places)[None].to(device),
        taken,
        lasts.to(device),
    )
    for row, end in zip(rows, taken.ends, strict=True):
        row.length = end
    return logits


def run_pass(
    model: Any, embeddings: Tensor, places: Tensor, rows: PassCache, lasts: Tensor | None = None
) -> Tensor:
    words: dict[str, Any] = {cache_word(model): rows, "rows": rows}
    keeps = lasts is not None and _transformers.takes(model, "logits_to_keep")
    if keeps:
        words["logits_to_keep"] = lasts
    with packed.by_segment():
        logits: Tensor = model(
            inputs_embeds=embeddings, position_ids=places, use_cache=True, **words
        ).logits[0]
    return logits if keeps or lasts is None else logits[lasts]


def cache_word(model: Any) -> str:
    """The name that the installed transformers has for the cache."""
    return "cache" if _transformers.takes(model, "cache") else "past_key_values"


def alone(model: Any) -> Any:
    """A cache of transformers for one text."""
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


def run_alone(
    model: Any, cache: Any, embeddings: Float[Tensor, "1 tokens width"], start: int
) -> Float[Tensor, "1 v"]:
    """Let one text go on by its new tokens; the logits behind the last.

    Args:
        cache: of transformers; None runs the text from its beginning.
        start: the place of the first new token.
    """
    words: dict[str, Any] = {"use_cache": cache is not None}
    if cache is not None:
        words[cache_word(model)] = cache
    if _transformers.takes(model, "position_ids"):
        end = start + embeddings.shape[1]
        words["position_ids"] = torch.arange(start, end, device=embeddings.device)[None]
    if _transformers.takes(model, "logits_to_keep"):
        words["logits_to_keep"] = 1
    logits: Tensor = model(inputs_embeds=embeddings, **words).logits[:, -1]
    return logits
