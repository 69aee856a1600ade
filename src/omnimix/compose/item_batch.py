"""The items of a batch: what every modality encodes, and how it travels beside the rows of ids.

Items belong to no row. Which feature a token takes stands in a tensor of the rows' own shape (`item_places`), so
rows may be repeated, cut and padded as tensors are, and copies of a row share what was encoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import accumulate, takewhile
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from omnimix.errors import SpliceError


class Card(NamedTuple):
    """What is written beside the features of an item: its key, its frame, and the size of its first tile."""

    key: str
    frame: tuple[float, ...]
    tile: tuple[int, int]


lent: ContextVar[bool] = ContextVar("lent", default=False)
"""Whether what is encoded right now belongs to another process, so that no statistic counts it."""


@dataclass(frozen=True, eq=False)
class Bucket:
    """Items of one shape among the items of a batch; they go through the encoders together.

    Attributes:
        rows: which items.
        inputs: for each distinct preparation `[tiles, ...]`, tiles of these items one after another.
        encoded: whether they are features that were kept, `[tiles, n, d]` for each encoder.
        lent: whether they are another process's, encoded to keep step with it, and in no row.
    """

    rows: tuple[int, ...]
    inputs: tuple[Tensor, ...]
    encoded: bool = False
    lent: bool = False


def bucketed(
    items: Sequence[tuple[Tensor, ...]], encoded: Sequence[bool] | None = None
) -> list[Bucket]:
    """Items by the shapes and types of their tensors, in order of their first.

    Args:
        encoded: of each whether they are features; default all are.
    """
    rows: dict[tuple[object, ...], list[int]] = {}
    kinds = [True] * len(items) if encoded is None else encoded
    for row, (tensors, kind) in enumerate(zip(items, kinds, strict=True)):
        key = (kind, *((tensor.shape[1:], tensor.dtype) for tensor in tensors))
        rows.setdefault(key, []).append(row)
    return [
        Bucket(
            tuple(own),
            tuple(torch.cat(part) for part in zip(*(items[row] for row in own), strict=True)),
            kinds[own[0]],
        )
        for own in rows.values()
    ]


@dataclass(frozen=True, eq=False)
class ItemBatch:
    """All items of one modality in a batch.

    Attributes:
        inputs: for each distinct preparation `[tiles, ...]`, tiles of all items one after another; empty
            where the items differ in shape and lie in `buckets`.
        tiles: number of tiles of each item.
        sizes: width and height of each item in pixels.
        grids: columns and rows of each item's tiles after the first.
        tokens: number of places that were left for each item.
        on: for items that look at another modality, the row of its item batch; -1 where none.
        buckets: the items by shape, where they differ in it.
        encoded: whether `inputs` are features that were kept, `[tiles, n, d]` for each encoder.
        cards: for each item what its features are to be kept with; empty where none is.
    """

    inputs: tuple[Tensor, ...]
    tiles: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    grids: tuple[tuple[int, int], ...]
    tokens: tuple[int, ...]
    on: Tensor
    buckets: tuple[Bucket, ...] = ()
    encoded: bool = False
    cards: tuple[Card | None, ...] = ()

    def tensors(self) -> list[Tensor]:
        """All that was prepared, whatever its shapes."""
        return [*self.inputs, *(tensor for bucket in self.buckets for tensor in bucket.inputs)]

    def alike(self) -> list[tuple[tuple[int, ...], ItemBatch]]:
        """The items by shape: which they are, and a batch of these alone."""
        return [
            (
                bucket.rows,
                replace(
                    self,
                    inputs=bucket.inputs,
                    tiles=tuple(self.tiles[row] for row in bucket.rows),
                    sizes=tuple(self.sizes[row] for row in bucket.rows),
                    grids=tuple(self.grids[row] for row in bucket.rows),
                    tokens=tuple(self.tokens[row] for row in bucket.rows),
                    buckets=(),
                    encoded=bucket.encoded,
                    cards=tuple(self.cards[row] for row in bucket.rows) if self.cards else (),
                ),
            )
            for bucket in self.buckets
        ]

    def each(self, change: Callable[[Tensor], Tensor]) -> ItemBatch:
        """The same with every tensor changed."""
        return replace(
            self,
            inputs=tuple(change(tensor) for tensor in self.inputs),
            on=change(self.on),
            buckets=tuple(
                replace(bucket, inputs=tuple(change(tensor) for tensor in bucket.inputs))
                for bucket in self.buckets
            ),
        )

    def to(self, *place: Any, **words: Any) -> ItemBatch:
        """On another device, and what is a fraction in another dtype; arguments are those of torch."""
        device = [one for one in place if not isinstance(one, torch.dtype)]
        others = {word: value for word, value in words.items() if word != "dtype"}

        def moved(tensor: Tensor) -> Tensor:
            if tensor.is_floating_point():
                return tensor.to(*place, **words)
            return tensor.to(*device, **others) if device or "device" in others else tensor

        return self.each(moved)

    def pin_memory(self) -> ItemBatch:
        """The same in page-locked memory, for copies that overlap with work on a CUDA device."""
        return self.each(lambda tensor: tensor.pin_memory())


class ItemBatches(Mapping[str, ItemBatch]):
    """For each modality present, its items.

    They are no rows: what slices a batch by rows gets all of them, and the places of its rows find their own.

    Attributes:
        keeps: whether `features` are kept once they are made, for the steps of one generation.
        features: of all items `[features, width]`, where they are kept.
        passed: whether that generation has run all their places, so that what comes is text.
    """

    def __init__(self, batches: Mapping[str, ItemBatch] | None = None, keeps: bool = False) -> None:
        self._batches = dict(batches or {})
        self.keeps = keeps
        self.features: Tensor | None = None
        self.passed = False

    @overload
    def __getitem__(self, key: str) -> ItemBatch: ...

    @overload
    def __getitem__(self, key: Any) -> ItemBatches: ...

    def __getitem__(self, key: Any) -> ItemBatch | ItemBatches:
        return self._batches[key] if isinstance(key, str) else self

    def __iter__(self) -> Iterator[str]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def __array__(self, *_: Any, **__: Any) -> Any:
        """Refused: a trainer that makes arrays of all inputs carries pictures as `pixel_values` alone.

        Raises:
            SpliceError: always.
        """
        raise SpliceError(
            f"items ({', '.join(self)}) are no array",
            hint="GRPO of TRL takes prompts whose pictures have one number of tiles, and no other items; "
            "SFT and DPO take all",
        )

    def numbers(self, name: str) -> list[int]:
        """For each item of a modality the number of its first feature, as `item_places` counts them."""
        earlier = takewhile(lambda other: other != name, self)
        before = sum(sum(self[other].tokens) for other in earlier)
        *starts, _ = accumulate(self[name].tokens, initial=1 + before)
        return starts

    def keeping(self) -> ItemBatches:
        """The same items, whose features will be kept."""
        return ItemBatches(self, keeps=True)

    def to(self, *place: Any, **words: Any) -> ItemBatches:
        return ItemBatches({name: one.to(*place, **words) for name, one in self.items()})


def _flat(batch: ItemBatch) -> tuple[list[Any], tuple[Any, ...]]:
    children = [batch.inputs, batch.on, tuple(bucket.inputs for bucket in batch.buckets)]
    rows = tuple((bucket.rows, bucket.encoded, bucket.lent) for bucket in batch.buckets)
    about = (batch.encoded, batch.cards)
    return children, (batch.tiles, batch.sizes, batch.grids, batch.tokens, rows, about)


def _whole(children: Any, words: Any) -> ItemBatch:
    (inputs, on, buckets), (tiles, sizes, grids, tokens, rows, about) = children, words
    parted = tuple(
        Bucket(own, tensors, *words) for (own, *words), tensors in zip(rows, buckets, strict=True)
    )
    return ItemBatch(inputs, tiles, sizes, grids, tokens, on, parted, *about)


def _flat_items(items: ItemBatches) -> tuple[list[Any], tuple[str, ...]]:
    return list(items.values()), tuple(items)


def _whole_items(batches: Any, names: Any) -> ItemBatches:
    return ItemBatches(dict(zip(names, batches, strict=True)))


def _register(cls: type, flat: Callable[[Any], Any], whole: Callable[[Any, Any], Any]) -> None:
    """Make a class a tree of tensors for torch; how many tiles and tokens there are is part of a graph."""

    def keyed(value: Any) -> Any:
        children, words = flat(value)
        return [(pytree.SequenceKey(i), child) for i, child in enumerate(children)], words

    pytree.register_pytree_node(
        cls,
        flat,
        whole,
        serialized_type_name=f"{__name__}.{cls.__name__}",
        flatten_with_keys_fn=keyed,
    )


_register(ItemBatch, _flat, _whole)
_register(ItemBatches, _flat_items, _whole_items)
