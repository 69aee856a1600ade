"""A finite dataset in rounds: which records every part of every step reads."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

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
    more than the `horizon` that the rate is planned for. Parts that do not make a whole step at the end of
    a round are left out.

    Attributes:
        parts: for each part of each step the records it reads.
        left: parts that made no whole step, by the number of parts before them.
        horizon: steps as planned: batches in a round times rounds, or `steps` where given.

    Args:
        batch: records of a step, on all ranks together.
        accumulate: parts of a step.
        epochs: rounds; without it as many as `steps` take.
        steps: stop after so many.
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
    ) -> None:
        if source.length is None:
            raise TrainError(
                f"the dataset has no end, and the order {order!r} reads in rounds",
                where="stages.mixture",
                hint="use the order 'mixture'",
            )
        self.accumulate = accumulate
        self.horizon = horizon(source.length, batch, epochs, steps)
        by_extent = order in ("by_modality", "by_length", "like_length")
        extents = [source.extent(i) for i in range(source.length)] if by_extent else []
        self.parts: list[list[int]] = []
        self.left: dict[int, list[list[int]]] = {}
        size = batch // accumulate // world
        epoch = 0
        while epochs is None or epoch < epochs:
            if order == "by_modality":
                pictures, words = [e[0] for e in extents], [e[1] for e in extents]
                rows = orders.by_modality(pictures, words, batch, epoch, seed, rank, world)
            elif order == "by_length":
                lengths = [words if picture else -words for picture, words in extents]
                rows = length_groups.grouped(lengths, size, epoch, seed, rank, world, accumulate)
            elif order == "like_length":
                # Shares of ranks are cut out of the parts, which are the same on all of them.
                lengths = [words + orders.PICTURE * picture for picture, words in extents]
                rows = orders.like_length(lengths, size, epoch, seed)
            elif order == "by_kind":
                kinds = [source.batch_kind(i) for i in range(source.length)]
                rows = orders.by_kind(kinds, size, epoch, seed, rank, world, accumulate)
            else:
                rows = orders.shuffled(source.length, epoch, seed, rank, world)
            parts = [rows[start : start + size] for start in range(0, len(rows), size)]
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

    def places(self, n: int) -> list[int]:
        return self.parts[self.first + n]
