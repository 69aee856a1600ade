"""A finite dataset in rounds: which records every part of every step reads."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias
from zlib import crc32

from omnimix.compose.processor import Processor
from omnimix.data import length_groups, orders
from omnimix.data.mixture import Batches, Share
from omnimix.data.sources import Source
from omnimix.errors import TrainError

Order: TypeAlias = Literal[
    "mixture", "shuffled", "by_modality", "by_length", "like_length", "by_kind"
]


def horizon(records: int, batch: int, epochs: int | None, steps: int | None) -> int:
    """Steps that rates are planned for: `steps`, else whole batches in a round times rounds."""
    return steps or math.ceil(records / batch) * (epochs or 1)


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
        in_order = _InOrder(source, order, batch, size, accumulate, seed, (rank, world))
        epoch = 0
        while epochs is None or epoch < epochs:
            rows = in_order.records(epoch)
            parts = [rows[start : start + size] for start in range(0, len(rows), size)]
            if not drop_last:
                parts += [[]] * (-len(parts) % accumulate)
            whole = len(parts) // accumulate * accumulate
            if not whole:
                raise TrainError(
                    f"{source.length} records make no whole step of {batch}",
                    where="stages.batch",
                    hint="make the batch smaller",
                )
            self.parts += parts[:whole]
            if parts[whole:]:
                self.left[len(self.parts)] = parts[whole:]
            epoch += 1
            if steps is not None and len(self.parts) >= steps * accumulate:
                break
        if steps is not None:
            self.parts = self.parts[: steps * accumulate]

    @property
    def steps(self) -> int:
        """Steps that are really taken."""
        return len(self.parts) // self.accumulate


class _InOrder:
    """One rank's records of a finite dataset, in the order of each round."""

    def __init__(
        self,
        source: Source,
        order: Order,
        batch: int,
        size: int,
        accumulate: int,
        seed: int,
        share: Share,
    ) -> None:
        assert source.length is not None
        self.source = source
        self.length = source.length
        self.order = order
        self.batch = batch
        self.size = size
        self.accumulate = accumulate
        self.seed = seed
        self.share = share
        # Reading every record for its extent takes minutes in a large dataset, and is the same in all rounds.
        by_extent = order in ("by_modality", "by_length", "like_length")
        self.extents = [source.extent(i) for i in range(self.length)] if by_extent else []

    def records(self, epoch: int) -> list[int]:
        """Indices in the order of a round."""
        rank, world = self.share
        if self.order == "by_modality":
            pictures, words = [e[0] for e in self.extents], [e[1] for e in self.extents]
            return orders.by_modality(pictures, words, self.batch, epoch, self.seed, rank, world)
        if self.order == "by_length":
            lengths = [words if picture else -words for picture, words in self.extents]
            size, accumulate = self.size, self.accumulate
            return length_groups.grouped(lengths, size, epoch, self.seed, rank, world, accumulate)
        if self.order == "like_length":
            # Shares of ranks are cut out of the parts, which are the same on all of them.
            lengths = [words + orders.PICTURE * picture for picture, words in self.extents]
            return orders.like_length(lengths, self.size, epoch, self.seed)
        if self.order == "by_kind":
            kinds = [self.source.batch_kind(i) for i in range(self.length)]
            size, accumulate = self.size, self.accumulate
            return orders.by_kind(kinds, size, epoch, self.seed, rank, world, accumulate)
        return orders.shuffled(self.length, epoch, self.seed, rank, world)


class RoundBatches(Batches):
    """Batch `n` reads the records of part `first + n`."""

    def __init__(
        self,
        source: Source,
        rounds: Rounds,
        processor: Processor,
        first: int = 0,
        pack: bool = False,
        cut: int | None = None,
        share: Share = (0, 1),
    ) -> None:
        count = len(rounds.parts) - first
        super().__init__(source, processor, 1, first, count, pack, cut, share)
        self.parts = rounds.parts
        self.seed = rounds.seed

    def draw(self, n: int, place: int) -> int:
        # A record comes once in every round, and each time in another part of the stage.
        return crc32(f"{self.seed}/draw/{self.first + n}/{place}".encode())

    def places(self, n: int) -> list[int]:
        return self.parts[self.first + n]
