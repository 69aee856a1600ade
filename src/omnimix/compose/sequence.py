"""Sequences: what a sample is once it is woven, and what can be cut from it."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from omnimix.errors import ContextError
from omnimix.media.tiles import Frame, View
from omnimix.types import Region

IGNORE = -100
"""Label of a token that is not learned (the convention of torch and transformers)."""


@dataclass(frozen=True, eq=False)
class Item:
    """One prepared item and the size of its hole.

    Attributes:
        inputs: for each distinct preparation of the modality, `[tiles, ...]`.
        tokens: how many places it takes in the sequence.
        size: width and height of the original in pixels.
        frame: where the original lies in the first tile.
        on: index of the item it lies on, among the sequence's items of the modality looked at.
        key: what its features are kept under (`omnimix.compose.features`); None where they are not.
        encoded: whether `inputs` are the features of each encoder instead.
        tile: width and height of the first tile, where `inputs` do not show them.
    """

    inputs: tuple[Tensor, ...]
    tokens: int
    size: tuple[int, int] = (0, 0)
    frame: Frame = field(default_factory=lambda: Frame(1.0, 1.0))
    grid: tuple[int, int] = (0, 0)
    on: int = -1
    key: str | None = None
    encoded: bool = False
    tile: tuple[int, int] | None = None

    @property
    def tiles(self) -> int:
        return int(self.inputs[0].shape[0])

    def view(self) -> View:
        """How the model sees a picture."""
        height, width = self.inputs[0].shape[-2:]
        return View(self.size, self.frame, self.tile or (int(width), int(height)))


@dataclass(frozen=True, eq=False)
class Sequence:
    """A woven sample.

    Attributes:
        ids: token ids; holes hold the pad id.
        labels: ids where learned, `IGNORE` elsewhere (not shifted).
        owner: 0 for text, k for the k-th modality of the recipe.
        items: for each modality its items in order of their holes.
        id: of the sample, for messages.
        pictures: how the model sees every picture in the sample, for reading coordinates back.
        asked: regions of the questions in reading order, for answers that name them by number.
        on: the picture of each of them, counted from 0.
        way: how those reach the model (`omnimix.compose.pointing`).
        branches: 0 for what all rounds share, k for the k-th round, where rounds do not see one another
            (`omnimix.compose.rounds`); None for an ordinary conversation.
        scale: what each label counts for in the loss; None where all count for one.
        rejected: the same conversation with a worse answer, where preferences are learned.
        pair_scale: what the two together count for in the loss.
    """

    ids: Int[np.ndarray, "n"]
    labels: Int[np.ndarray, "n"]
    owner: Int[np.ndarray, "n"]
    items: dict[str, list[Item]]
    id: str = "sample"
    pictures: tuple[View, ...] = ()
    asked: tuple[Region, ...] = ()
    way: str = "tokens"
    branches: Int[np.ndarray, "n"] | None = None
    on: tuple[int, ...] = ()
    scale: Float[np.ndarray, "n"] | None = None
    rejected: Sequence | None = None
    pair_scale: float = 1.0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def targets(self) -> int:
        """Number of learned tokens."""
        return int((self.labels != IGNORE).sum())

    @property
    def both(self) -> tuple[Sequence, ...]:
        """Itself, and behind it the one with the rejected answer, where there is one."""
        return (self,) if self.rejected is None else (self, self.rejected)

    @property
    def room(self) -> int:
        """Tokens that it takes in a batch, a rejected answer's conversation included."""
        return sum(map(len, self.both))

    def taken(self, places: slice | Int[np.ndarray, "m"], **words: Any) -> Sequence:
        """The sequence of these places alone."""
        scale = None if self.scale is None else self.scale[places]
        ids, labels, owner = (part[places] for part in (self.ids, self.labels, self.owner))
        return replace(self, ids=ids, labels=labels, owner=owner, scale=scale, **words)

    def digest(self) -> str:
        """A hash of all that a model gets of it."""
        found = blake2b(digest_size=16)
        for array in (
            self.ids,
            self.labels,
            self.owner,
            *([] if self.scale is None else [self.scale]),
        ):
            found.update(np.ascontiguousarray(array).data)
        for name, items in self.items.items():
            for item in items:
                found.update(f"{name} {item.tokens} {item.size} {item.on}".encode())
                # Of an item whose features are kept its key says the same before and after it was encoded.
                found.update((item.key or "").encode())
                for tensor in () if item.key else item.inputs:
                    found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                    found.update(tensor.contiguous().view(torch.uint8).numpy().data)
        if self.rejected is not None:
            found.update(self.rejected.digest().encode())
            if self.pair_scale != 1:
                found.update(f"{self.pair_scale}".encode())
        return found.hexdigest()

    @property
    def positions(self) -> Int[np.ndarray, "n"]:
        """Position of each token; every round of `branches` goes on from what is shared."""
        places = np.arange(len(self.ids))
        if self.branches is None:
            return places
        # Each round continues from what is shared as if the others were not there, so that it has the
        # positions (and logits) of a conversation of its own.
        shared = int((self.branches == 0).sum())
        first = np.searchsorted(self.branches, self.branches)
        return np.where(self.branches == 0, places, places - first + shared)


def behind_first(sequence: Sequence, block: Sequence) -> Sequence:
    """The sequence with a block of holes behind its first token, whatever that is."""

    def joined(
        own: Shaped[np.ndarray, "n"], added: Shaped[np.ndarray, "m"]
    ) -> Shaped[np.ndarray, "k"]:
        return np.concatenate([own[:1], added, own[1:]])

    labels = joined(sequence.labels, block.labels)
    labels[:1] = IGNORE  # the first token is predicted from nothing
    return replace(
        sequence,
        ids=joined(sequence.ids, block.ids),
        labels=labels,
        owner=joined(sequence.owner, block.owner),
        scale=None
        if sequence.scale is None
        else joined(sequence.scale, np.zeros(len(block), np.float32)),
    )


def cut_text(sequence: Sequence, most: int) -> Sequence:
    """The sequence without the text behind its first `most` text tokens.

    Raises:
        ContextError: an item stands there, and items are never cut.
    """
    text = np.flatnonzero(sequence.owner == 0)
    if len(text) <= most:
        return sequence
    end = int(text[most])
    if sequence.owner[end:].any():
        raise ContextError(
            f"an item stands behind the first {most} text tokens, where the text is cut",
            hint="raise the limit or shorten the text before the item",
        )
    return sequence.taken(slice(end))


def cut_items(sequence: Sequence, most: int, names: Many[str]) -> Sequence:
    """The first `most` tokens where an item counts as one; items behind them go with the text.

    This is how trainers cut that shorten a text with one mark for each item and put the items in afterwards.

    Args:
        names: the recipe's modalities, of which `owner` k is the k-th.
    """
    sizes = [[item.tokens for item in sequence.items.get(name, ())] for name in names]
    kept = [0] * len(sizes)
    end = 0
    for _ in range(most):
        if end == len(sequence):
            return sequence
        which = int(sequence.owner[end]) - 1
        if which < 0:
            end += 1
            continue
        # Two items of one modality may stand side by side, so it is their sizes that tell them apart.
        end += sizes[which][kept[which]]
        kept[which] += 1
    items = {
        name: sequence.items[name][:count] for name, count in zip(names, kept, strict=True) if count
    }
    return sequence.taken(slice(end), items=items)


def keep_end(sequence: Sequence, most: int) -> Sequence:
    """The sequence with the last `most` of its text tokens alone.

    All items then stand behind the first token that is left, which need not be the begin token.

    Raises:
        ContextError: no text token may be kept.
    """
    text = np.flatnonzero(sequence.owner == 0)
    if most < 1:
        raise ContextError(
            f"{most} places are left for the text",
            hint="ask for a shorter answer or raise the context",
        )
    if len(text) <= most:
        return sequence
    # The first token that is left leads, and the items follow it: where a prompt loses its beginning, the
    # published models keep their pictures behind the first token all the same.
    kept = text[-most:]
    order = np.concatenate([kept[:1], np.flatnonzero(sequence.owner != 0), kept[1:]])
    return sequence.taken(order)
