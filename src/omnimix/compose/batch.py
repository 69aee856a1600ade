"""Batch: sequences side by side (padded left or right) or one after another (packed)."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import BatchFeature

from omnimix.compose.item_batch import Card, ItemBatch, ItemBatches, bucketed
from omnimix.compose.recipe import Recipe
from omnimix.compose.sequence import IGNORE, Item, Sequence
from omnimix.errors import SpliceError
from omnimix.language import forms


class Batch(BatchFeature):  # type: ignore[misc]
    """What the model's forward takes (`model(**batch)`), and the ids of the samples for messages.

    Words of the forward, also attributes, None where a batch has no such word:
        input_ids: `[batch, tokens]`; a packed batch has one row.
        item_places: the same shape, 0 for text, else one more than the number of the feature that stands
            there, counted over all items of `items`.
        items: for each modality present, its items (`batch["items"]`; `batch.items()` is that of a dictionary).
        labels: the same shape, `IGNORE` where nothing is learned; left out where an answer is to be written.
        attention_mask: 1 for tokens, 0 for padding; None where packed.
        position_ids: restart at each sample of a packed batch.
        cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k: borders of the samples in a packed batch,
            and the longest of them.
        loss_scale: what each label counts for; left out where all count for one.
        branches: in a packed batch, which round of its sample a token belongs to, 0 for what its rounds
            share; None where every sample is an ordinary conversation.

    Attributes:
        ids: of the samples.
        targets: number of learned tokens that the loss sees, each by what it counts for.
        pair_scales: of preferences what each pair counts for; the chosen answers stand first, and behind them as many
            rejected ones.
        right: whether padding stands on the right, where causal attention needs no mask.
        digest: of its records, where it is one of a training run (`omnimix.data.mixture.summed`).
    """

    input_ids: Int[Tensor, "batch tokens"]
    item_places: Int[Tensor, "batch tokens"]
    attention_mask: Int[Tensor, "batch tokens"] | None
    position_ids: Int[Tensor, "batch tokens"] | None
    cu_seq_lens_q: Int[Tensor, "borders"] | None
    branches: Int[Tensor, "batch tokens"] | None

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        tensor_type: Any = None,
        ids: tuple[str, ...] = (),
        targets: float = 0,
        right: bool = True,
        pair_scales: tuple[float, ...] = (),
    ) -> None:
        self.pair_scales = pair_scales
        self.ids, self.targets, self.right = ids, targets, right
        self.digest = 0
        super().__init__(data, tensor_type)

    def __getattr__(self, name: str) -> Any:
        return self.data.get(name) if name in _OPTIONAL else super().__getattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def pairs(self) -> int:
        """How many of the sequences are chosen answers."""
        return len(self.pair_scales)

    @property
    def labels(self) -> Int[Tensor, "batch tokens"]:
        """The labels, none of them learned where the batch carries none."""
        found: Tensor | None = self.data.get("labels")
        return torch.full_like(self.input_ids, IGNORE) if found is None else found

    def to(self, *place: Any, **words: Any) -> Batch:
        """As in transformers: this very batch on another device, its fractions in another dtype."""
        super().to(*place, **words)
        if "items" in self:
            self["items"] = self["items"].to(*place, **words)
        return self

    def inputs(self, mask: bool = True) -> dict[str, Any]:
        """Keyword arguments of the model's forward, without the labels.

        Args:
            mask: without it right-padded batches go unmasked, which changes nothing at real tokens
                (attention is causal) and admits faster kernels.
        """
        out = {"labels"} if mask or not self.right else {"labels", "attention_mask"}
        return {name: value for name, value in self.items() if name not in out}


_OPTIONAL = frozenset({"attention_mask", "position_ids", "cu_seq_lens_q", "branches"})


def collate(
    sequences: Many[Sequence],
    recipe: Recipe,
    pad: int,
    side: Literal["left", "right"] = "right",
    pack: bool = False,
    multiple: int = 1,
) -> Batch:
    """Put sequences together.

    Args:
        sequences: woven samples, at least one.
        recipe: which modalities there are and what looks at what.
        pad: id that fills.
        side: where padding goes; generation wants it on the left.
        pack: one row, samples one after another, attention per sample.
        multiple: pad the width up to a multiple of this, so that few different shapes occur.

    Raises:
        SpliceError: rounds apart in a batch that is not packed.
        RecipeError: padding on the left in front of a language model that it would confuse.
    """
    assert sequences, "a batch needs at least one sequence"
    ids = tuple(sequence.id for sequence in sequences)
    sequences, scales = _with_rejected(sequences)
    lengths = [len(sequence) for sequence in sequences]
    apart = any(sequence.branches is not None for sequence in sequences)
    _check_forms(sequences, recipe, side, pack, apart)
    # Compiled models and most kernels work anew for every width, so few different ones shall occur.
    longest = -(-max(lengths) // multiple) * multiple
    rows = _Rows(1 if pack else len(sequences), sum(lengths) if pack else longest, pad)
    column = 0
    for i, sequence in enumerate(sequences):
        if pack:
            rows.put(sequence, 0, column)
            # Its predecessor in the row belongs to another sample, which says nothing about it.
            rows.labels[0, column] = IGNORE
            column += lengths[i]
        else:
            # Generation goes on at the right end of every row, so there padding stands on the left.
            rows.put(sequence, i, longest - lengths[i] if side == "left" else 0)
    # The loss predicts a label from the token before it, so a label in the first column is never seen.
    seen = rows.labels[:, 1:] != IGNORE
    scaled = any(sequence.scale is not None for sequence in sequences)
    targets = float(rows.scale[:, 1:][seen].sum()) if scaled else int(seen.sum())
    items, places = _items(sequences, rows, recipe)
    words: dict[str, Any] = {"items": items, "item_places": torch.from_numpy(places)}
    words["input_ids"] = torch.from_numpy(rows.ids)
    if targets or side == "right":
        words["labels"] = torch.from_numpy(rows.labels)
    if pack:
        words |= _packed(rows, lengths)
    else:
        words["attention_mask"] = torch.from_numpy(rows.mask)
    if apart:
        words["branches"] = torch.from_numpy(rows.branches)
    if scaled:
        words["loss_scale"] = torch.from_numpy(rows.scale)
    return Batch(words, ids=ids, targets=targets, right=side == "right", pair_scales=scales)


def _with_rejected(sequences: Many[Sequence]) -> tuple[Many[Sequence], tuple[float, ...]]:
    """The rejected ones behind the chosen ones, and what each pair counts for; none where no sequence has one.

    Raises:
        SpliceError: some have one and some have none.
    """
    rejected = [sequence.rejected for sequence in sequences if sequence.rejected is not None]
    if rejected and len(rejected) < len(sequences):
        plain = next(sequence.id for sequence in sequences if sequence.rejected is None)
        raise SpliceError(
            "records with and without a rejected answer stand in one batch",
            where=plain,
            hint="put datasets of preferences into a stage of their own",
        )
    return [*sequences, *rejected], tuple(s.pair_scale for s in sequences if s.rejected is not None)


def _packed(rows: _Rows, lengths: list[int]) -> dict[str, Any]:
    """What tells packed samples apart: borders and positions, where a mask would take a square of the row."""
    borders = torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32))
    return {
        "position_ids": torch.from_numpy(rows.positions),
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


def _check_forms(
    sequences: Many[Sequence], recipe: Recipe, side: str, pack: bool, apart: bool
) -> None:
    if apart and not pack:
        raise SpliceError(
            "rounds that do not see one another stand in packed batches alone",
            where=sequences[0].id,
            hint="set packing: true",
        )
    if side == "left" and len({len(sequence) for sequence in sequences}) > 1:
        forms.check(recipe.language, "left")


class _Rows:
    """Rows of a batch while sequences are put into them.

    Attributes:
        starts: of each sequence, where it begins in the flattened ids.
    """

    def __init__(self, rows: int, width: int, pad: int) -> None:
        self.ids = np.full((rows, width), pad, dtype=np.int64)
        self.labels = np.full((rows, width), IGNORE, dtype=np.int64)
        self.mask = np.zeros((rows, width), dtype=np.int64)
        self.positions = np.zeros((rows, width), dtype=np.int64)
        self.branches = np.zeros((rows, width), dtype=np.int64)
        self.scale = np.ones((rows, width), dtype=np.float32)
        self.starts: list[int] = []

    def put(self, sequence: Sequence, row: int, column: int) -> None:
        """Put a sequence into a row, from a column on."""
        here = slice(column, column + len(sequence))
        self.ids[row, here] = sequence.ids
        self.labels[row, here] = sequence.labels
        self.mask[row, here] = 1
        self.positions[row, here] = sequence.positions
        if sequence.scale is not None:
            self.scale[row, here] = sequence.scale
        if sequence.branches is not None:
            self.branches[row, here] = sequence.branches
        self.starts.append(row * self.ids.shape[1] + column)


def _items(
    sequences: Many[Sequence], rows: _Rows, recipe: Recipe
) -> tuple[ItemBatches, Int[np.ndarray, "batch tokens"]]:
    """The items of all sequences by modality, and for every token which feature it takes (0: none)."""
    found: dict[str, ItemBatch] = {}
    places = np.zeros_like(rows.ids)
    numbers = 0  # features of earlier modalities
    for k, (name, spec) in enumerate(recipe.modalities.items(), start=1):
        items = [item for sequence in sequences for item in sequence.items.get(name, [])]
        if not items:
            continue
        # Where each token of an item goes is settled here, on the CPU: on the device a search for holes would
        # make the host wait for it in every step.
        index = np.concatenate(
            [start + _places(s, k, name) for s, start in zip(sequences, rows.starts, strict=True)]
        )
        places.reshape(-1)[index] = numbers + 1 + np.arange(len(index))
        numbers += len(index)
        source = spec.source()
        on: list[int] = []
        before = 0  # items of the source in earlier sequences
        for sequence in sequences:
            on += [before + item.on for item in sequence.items.get(name, [])]
            before += len(sequence.items.get(source, [])) if source else 0
        found[name] = item_batch(items, on if source else [-1] * len(items))
    return ItemBatches(found), places


def item_batch(items: list[Item], on: list[int]) -> ItemBatch:
    """Items of one modality as its encoders take them.

    Args:
        on: for each the row of the item that it looks at; -1 where none.
    """
    # Items of one shape go through an encoder in one call; only where shapes differ are they parted.
    buckets = bucketed([item.inputs for item in items], [item.encoded for item in items])
    alone = len(buckets) == 1
    return ItemBatch(
        inputs=buckets[0].inputs if alone else (),
        tiles=tuple(item.tiles for item in items),
        sizes=tuple(item.size for item in items),
        grids=tuple(item.grid for item in items),
        tokens=tuple(item.tokens for item in items),
        on=torch.tensor(on),
        buckets=() if alone else tuple(buckets),
        encoded=alone and buckets[0].encoded,
        cards=cards if any(cards := tuple(map(_card, items))) else (),
    )


def _card(item: Item) -> Card | None:
    """What is written beside an item's features; None for one that is there, or is not to be kept."""
    if item.key is None or item.encoded:
        return None
    frame = item.frame
    numbers = (frame.scale_x, frame.scale_y, frame.shift_x, frame.shift_y)
    return Card(item.key, numbers, item.view().tile)


def _places(sequence: Sequence, k: int, name: str) -> np.ndarray:
    """Holes of the k-th modality in a sequence, each item's own in one piece and as long as the item.

    Splice, on the device, only gathers; here is where order is held.

    Raises:
        SpliceError: items and holes that do not belong together.
    """
    places = np.flatnonzero(sequence.owner == k)
    items = sequence.items.get(name, [])
    sizes = np.array([item.tokens for item in items if item.tokens], dtype=int)
    last = np.cumsum(sizes) - 1
    if len(places) != sizes.sum() or (places[last] - places[last - sizes + 1] != sizes - 1).any():
        raise SpliceError(
            f"the {len(items)} items of {name!r} do not fit the holes left for them",
            where=sequence.id,
            hint="weave the sample anew; its items were changed or put in another order",
        )
    return places
