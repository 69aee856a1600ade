"""A finite dataset in rounds: which records every part of every step reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import count
from typing import Literal, TypeAlias
from zlib import crc32

from omnimix.compose.processor import Processor
from omnimix.data import length_groups, orders
from omnimix.data.mixture import Batches, Share
from omnimix.data.sources import Source
from omnimix.errors import OmnimixError, TrainError

Order: TypeAlias = Literal[
    "mixture", "shuffled", "by_modality", "by_length", "like_length", "by_kind"
]


def horizon(records: int, batch: int, epochs: int | None, steps: int | None) -> int:
    """Steps that rates are planned for: `steps`, else whole batches in a round times rounds."""
    return steps or math.ceil(records / batch) * (epochs or 1)


def _orders(
    source: Source,
    records: int,
    size: int,
    batch: int,
    accumulate: int,
    seed: int,
    rank: int,
    world: int,
) -> dict[str, Callable[[int], list[int]]]:
    """For each order the rows that a rank reads in an epoch, `size` of them a part."""

    @cache
    def extents() -> list[tuple[bool, int]]:
        # Asking for an extent may open the record: only an order that goes by it does.
        return [_extent(source, i) for i in range(records)]

    def by_modality(epoch: int) -> list[int]:
        pictures, words = [e[0] for e in extents()], [e[1] for e in extents()]
        return orders.by_modality(pictures, words, batch, epoch, seed, rank, world)

    def by_length(epoch: int) -> list[int]:
        lengths = [words if picture else -words for picture, words in extents()]
        return length_groups.grouped(lengths, size, epoch, seed, rank, world, accumulate)

    def like_length(epoch: int) -> list[int]:
        # Shares of ranks are cut out of the parts, which are the same on all of them.
        lengths = [words + orders.PICTURE * picture for picture, words in extents()]
        return orders.like_length(lengths, size, epoch, seed)

    def by_kind(epoch: int) -> list[int]:
        kinds = [source.batch_kind(i) for i in range(records)]
        return orders.by_kind(kinds, size, epoch, seed, rank, world, accumulate)

    def shuffled(epoch: int) -> list[int]:
        return orders.shuffled(records, epoch, seed, rank, world)

    return {
        each.__name__: each for each in (by_modality, by_length, like_length, by_kind, shuffled)
    }


def _extent(source: Source, index: int) -> tuple[bool, int]:
    """Of a record; one that cannot be read counts as empty here, and is left out and named when it is read."""
    try:
        return source.extent(index)
    except OmnimixError:
        return False, 0


class Rounds:
    """The parts of all steps of a stage over one finite dataset.

    A round may have more records than the dataset (an order fills its batches), so the steps taken may be
    more than the `horizon` that the rate is planned for.

    Attributes:
        parts: for each part of each step the records it reads.
        left: parts that made no whole step, by the number of parts before them.
        horizon: steps as planned: batches in a round times rounds, or `steps` where given.

    Args:
        batch: records of a step, on all ranks together.
        accumulate: parts of a step.
        epochs: rounds; without it as many as `steps` take.
        steps: stop after so many.
        drop_last: leave out the parts at the end of a round that do not make a whole step; else they make
            a step of their own, filled up with parts that hold no record.
    """

    def __init__(
        self,
        source: Source,
        order: Order,
        batch: int,
        accumulate: int = 1,
        epochs: int | None = None,
        steps: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = True,
    ) -> None:
        if source.length is None:
            raise TrainError(
                f"the dataset has no end, and the order {order!r} reads in rounds",
                where="stages.mixture",
                hint="use the order 'mixture'",
            )
        self.accumulate = accumulate
        self.seed = seed
        self.horizon = horizon(source.length, batch, epochs, steps)
        self.parts: list[list[int]] = []
        self.left: dict[int, list[list[int]]] = {}
        size = batch // accumulate // world
        order_of = _orders(source, source.length, size, batch, accumulate, seed, rank, world)[order]
        for epoch in count() if epochs is None else range(epochs):
            rows, before = order_of(epoch), len(self.parts)
            parts = [rows[start : start + size] for start in range(0, len(rows), size)]
            self._append(parts, drop_last)
            if len(self.parts) == before:
                raise TrainError(
                    f"{source.length} records make no whole step of {batch}",
                    where="stages.batch_size",
                    hint="make batch_size smaller",
                )
            if steps is not None and len(self.parts) >= steps * accumulate:
                break
        if steps is not None:
            self.parts = self.parts[: steps * accumulate]

    def _append(self, parts: list[list[int]], drop_last: bool) -> None:
        """The parts of one more round, as far as they make whole steps."""
        if not drop_last:
            parts += [[]] * (-len(parts) % self.accumulate)
        whole = len(parts) // self.accumulate * self.accumulate
        self.parts += parts[:whole]
        if parts[whole:]:
            self.left[len(self.parts)] = parts[whole:]

    @property
    def steps(self) -> int:
        """Steps that are really taken."""
        return len(self.parts) // self.accumulate


class RoundBatches(Batches):
    """Batch `n` reads the records of part `first + n`."""

    def __init__(
        self,
        source: Source,
        rounds: Rounds,
        processor: Processor,
        first: int = 0,
        pack: bool = False,
        max_length: int | None = None,
        share: Share = (0, 1),
    ) -> None:
        left = len(rounds.parts) - first
        super().__init__(source, processor, 1, first, left, pack, max_length, share)
        self.parts = rounds.parts
        self.seed = rounds.seed

    def draw(self, n: int, place: int) -> int:
        # A record comes once in every round, and each time in another part of the stage.
        return crc32(f"{self.seed}/draw/{self.first + n}/{place}".encode())

    def places(self, n: int) -> list[int]:
        return self.parts[self.first + n]
