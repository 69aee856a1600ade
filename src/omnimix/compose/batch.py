"""Batch: sequences side by side (padded left or right) or one after another (packed)."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from omnimix.compose.modality import Bucket, ItemBatch
from omnimix.compose.recipe import Recipe
from omnimix.compose.sequence import IGNORE, Item, Sequence
from omnimix.errors import SpliceError
from omnimix.language import forms, packed


@dataclass(frozen=True, eq=False)
class Batch:
    """What the model's forward takes, and the ids of the samples for messages.

    Attributes:
        input_ids: `[batch, tokens]`; a packed batch has one row.
        labels: the same shape, `IGNORE` where nothing is learned.
        attention_mask: 1 for tokens, 0 for padding; None where packed.
        position_ids: restart at each sample of a packed batch; None otherwise.
        cu_seq_lens: borders of the samples in a packed batch; None otherwise.
        branches: in a packed batch, which round of its sample a token belongs to, 0 for what its rounds
            share; None where every sample is an ordinary conversation.
        items: for each modality present, its items.
        ids: of the samples.
        targets: number of learned tokens that the loss sees.
        right: whether padding stands on the right, where causal attention needs no mask.
    """

    input_ids: Int[Tensor, "batch tokens"]
    labels: Int[Tensor, "batch tokens"]
    attention_mask: Int[Tensor, "batch tokens"] | None
    position_ids: Int[Tensor, "batch tokens"] | None
    cu_seq_lens: Int[Tensor, "borders"] | None
    items: dict[str, ItemBatch]
    ids: tuple[str, ...]
    targets: int
    right: bool = True
    branches: Int[Tensor, "batch tokens"] | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        moved: dict[str, Any] = {name: move(getattr(self, name)) for name in _TENSORS}
        return replace(
            self,
            **moved,
            items={name: item.to(device, non_blocking) for name, item in self.items.items()},
        )

    def pin_memory(self) -> Batch:
        """Called by the data loader when asked to pin."""

        def pin(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.pin_memory()

        pinned: dict[str, Any] = {name: pin(getattr(self, name)) for name in _TENSORS}
        return replace(
            self,
            **pinned,
            items={name: item.pin() for name, item in self.items.items()},
        )

    def inputs(self, mask: bool = True) -> dict[str, Any]:
        """Keyword arguments of the model's forward.

        Args:
            mask: without it right-padded batches go unmasked, which changes nothing at real tokens
                (attention is causal) and admits faster kernels.
        """
        words: dict[str, Any] = {"input_ids": self.input_ids, "items": self.items}
        if self.cu_seq_lens is not None and self.position_ids is not None:
            words |= forms.packed_words(self.position_ids, self.cu_seq_lens)
            if self.branches is not None:
                places = self.position_ids[0]
                words["seen"] = packed.distances(self.branches[0], places, self.cu_seq_lens)
        elif mask or not self.right:
            words["attention_mask"] = self.attention_mask
        return words


_TENSORS = ("input_ids", "labels", "attention_mask", "position_ids", "cu_seq_lens", "branches")


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
    borders = np.cumsum([0, *lengths]).astype(np.int32)
    # The loss predicts a label from the token before it, so a label in the first column is never seen.
    targets = int((rows.labels[:, 1:] != IGNORE).sum())
    return Batch(
        input_ids=torch.from_numpy(rows.ids),
        labels=torch.from_numpy(rows.labels),
        # Packed samples are told apart by borders and positions; a mask would take a square of the row.
        attention_mask=None if pack else torch.from_numpy(rows.mask),
        position_ids=torch.from_numpy(rows.positions) if pack else None,
        cu_seq_lens=torch.from_numpy(borders) if pack else None,
        items=_items(sequences, rows.starts, recipe),
        ids=tuple(sequence.id for sequence in sequences),
        targets=targets,
        right=side == "right",
        branches=torch.from_numpy(rows.branches) if apart else None,
    )


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
        self.starts: list[int] = []

    def put(self, sequence: Sequence, row: int, column: int) -> None:
        """Put a sequence into a row, from a column on."""
        here = slice(column, column + len(sequence))
        self.ids[row, here] = sequence.ids
        self.labels[row, here] = sequence.labels
        self.mask[row, here] = 1
        self.positions[row, here] = sequence.positions
        if sequence.branches is not None:
            self.branches[row, here] = sequence.branches
        self.starts.append(row * self.ids.shape[1] + column)


def _items(sequences: Many[Sequence], starts: list[int], recipe: Recipe) -> dict[str, ItemBatch]:
    found: dict[str, ItemBatch] = {}
    for k, (name, spec) in enumerate(recipe.modalities.items(), start=1):
        items = [item for sequence in sequences for item in sequence.items.get(name, [])]
        if not items:
            continue
        # Where each token of an item goes is settled here, on the CPU: on the device a search for holes would
        # make the host wait for it in every step.
        index = np.concatenate(
            [start + _places(s, k, name) for s, start in zip(sequences, starts, strict=True)]
        )
        source = spec.source()
        on: list[int] = []
        before = 0  # items of the source in earlier sequences
        for sequence in sequences:
            on += [before + item.on for item in sequence.items.get(name, [])]
            before += len(sequence.items.get(source, [])) if source else 0
        # Items of one shape go through an encoder in one call; only where shapes differ are they parted.
        buckets = _buckets(items)
        alone = len(buckets) == 1
        found[name] = ItemBatch(
            inputs=buckets[0].inputs if alone else (),
            tiles=tuple(item.tiles for item in items),
            sizes=tuple(item.size for item in items),
            grids=tuple(item.grid for item in items),
            index=torch.from_numpy(index),
            on=torch.tensor(on if source else [-1] * len(items)),
            buckets=() if alone else tuple(buckets),
        )
    return found


def _buckets(items: list[Item]) -> list[Bucket]:
    """The items by the shapes and types of what was prepared of them, in order of their first."""
    rows: dict[tuple[object, ...], list[int]] = {}
    for row, item in enumerate(items):
        key = tuple((tensor.shape[1:], tensor.dtype) for tensor in item.inputs)
        rows.setdefault(key, []).append(row)
    return [
        Bucket(
            tuple(own),
            tuple(
                torch.cat([items[row].inputs[i] for row in own])
                for i in range(len(items[own[0]].inputs))
            ),
        )
        for own in rows.values()
    ]


def _places(sequence: Sequence, k: int, name: str) -> np.ndarray:
    """Holes of the k-th modality in a sequence, each item's own in one piece and as long as the item.

    Splice, on the device, sees only how many there are in all; here is where order is held.

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
