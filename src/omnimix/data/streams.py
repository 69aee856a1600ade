"""Streams: rows that are read one after another, shard by shard, and never counted or held all at once.

What goes to a worker is a row's handle, so that the process that decides on the order reads next to nothing. A stream
goes on from three numbers: the round, how far it was read when the current block of the shuffle buffer was filled,
and the place in that block.
"""

from __future__ import annotations

import abc
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from omnimix.data.base import Source
from omnimix.data.containers import reading
from omnimix.errors import SampleError
from omnimix.types import Sample

BUFFER = 1000
"""Rows that are shuffled among themselves, where no word says how many."""

OPEN = 4
"""Shards that a process keeps open."""


class StreamSource(Source, abc.ABC):
    """Samples one after another, round after round.

    Attributes:
        shuffle_buffer: rows that are read ahead and shuffled among themselves; 0 keeps their order.
    """

    shuffle_buffer: int

    def __init__(self, shuffle_buffer: int) -> None:
        self.shuffle_buffer = shuffle_buffer
        self._front: tuple[int, Iterator[tuple[Any, Any]]] | None = None

    @abc.abstractmethod
    def read(self, seed: str | None, epoch: int, head: Any) -> Iterator[tuple[Any, Any]]:
        """Handles of the rows of a round from a head on (None: its beginning), and the head behind each, plain data.

        Args:
            seed: of the order of shards; None keeps it.
        """

    @abc.abstractmethod
    def at(self, handle: Any) -> Sample:
        """The sample of a handle.

        Raises:
            OmnimixError: a row that cannot be used.
        """

    def __getitem__(self, index: int) -> Sample:
        """A row by its number from the front, for a look before the reading begins."""
        if self._front is None or self._front[0] > index:
            self._front = (0, self.read(None, 0, None))
        at, rows = self._front
        handle = next(islice(rows, index - at, None), None)
        self._front = None if handle is None else (index + 1, rows)
        if handle is None:
            raise SampleError(f"the stream has no row {index + 1}")
        return self.at(handle[0])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_front": None}


class StreamReader(Iterator[Any]):
    """The handles of a stream without end: a block of the shuffle buffer at a time, round after round.

    Args:
        state: as `state()` gave it; None begins.
    """

    def __init__(self, source: StreamSource, seed: str, state: dict[str, Any] | None) -> None:
        self.source = source
        self.seed = seed
        self.epoch, self.head, self.place = 0, None, 0
        if state is not None:
            self.epoch, self.head, self.place = state["epoch"], state["head"], state["place"]
        self.rows = source.read(seed, self.epoch, self.head)
        self.block, self.behind = self._block()

    def state(self) -> dict[str, Any]:
        """Where it stands, as plain data."""
        return {"epoch": self.epoch, "head": self.head, "place": self.place}

    def __next__(self) -> Any:
        if self.place == len(self.block):
            self.head, self.place = self.behind, 0
            self.block, self.behind = self._block()
            if not self.block:
                self.epoch, self.head = self.epoch + 1, None
                self.rows = self.source.read(self.seed, self.epoch, None)
                self.block, self.behind = self._block()
            if not self.block:
                raise SampleError(
                    f"the stream gives no row in round {self.epoch + 1}",
                    hint="give rows that can be read again from the beginning, no generator that is used up",
                )
        self.place += 1
        return self.block[self.place - 1]

    def _block(self) -> tuple[list[Any], Any]:
        """The next rows, shuffled, and the head behind them."""
        read = list(islice(self.rows, max(self.source.shuffle_buffer, 1)))
        handles = [handle for handle, _ in read]
        random.Random(f"{self.seed}/{self.epoch}/{self.head}").shuffle(handles)
        return handles, read[-1][1] if read else self.head


class FileStream(StreamSource):
    """Files of rows, one after another, the shards of a round in random order.

    A shard that cannot be opened counts as one record that cannot be used.

    Args:
        files: of any container that rows are read from.
        open_shard: gives the records of one of them.
    """

    def __init__(
        self, files: list[Path], open_shard: Callable[[Path], Source], shuffle_buffer: int = BUFFER
    ) -> None:
        super().__init__(shuffle_buffer)
        self.shards = files
        self.open_shard = open_shard
        self._open: OrderedDict[int, Source] = OrderedDict()

    def read(self, seed: str | None, epoch: int, head: Any) -> Iterator[tuple[Any, Any]]:
        order = list(range(len(self.shards)))
        if seed is not None and self.shuffle_buffer:
            random.Random(f"{seed}/shards/{epoch}").shuffle(order)
        first, row = head or (0, 0)
        for number in range(first, len(order)):
            try:
                rows = self._shard(order[number]).length or 0
            except SampleError:
                rows = 1
            for inside in range(row, rows):
                yield (order[number], inside), [number, inside + 1]
            row = 0

    def at(self, handle: Any) -> Sample:
        shard, row = handle
        return self._shard(shard)[row]

    def _shard(self, number: int) -> Source:
        if number not in self._open:
            self._open[number] = self.open_shard(self.shards[number])
            if len(self._open) > OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_open": OrderedDict()}


class IterableStream(StreamSource):
    """Rows of anything that can be iterated over again and again, an `IterableDataset` of `datasets` for one.

    Every process of a run reads all of it, so that the order does not depend on their number. Going on skips what
    was read, by `skip` where that gives the rows of the same round.

    Args:
        sample: makes a sample of a row, and of where it stands.
    """

    def __init__(
        self,
        rows: Iterable[Any],
        sample: Callable[[Any, str], Sample],
        shuffle_buffer: int = BUFFER,
    ) -> None:
        super().__init__(shuffle_buffer)
        self.rows = rows
        self.sample = sample

    def read(self, seed: str | None, epoch: int, head: Any) -> Iterator[tuple[Any, Any]]:
        rows, first = self.rows, head or 0
        again, skip = getattr(rows, "set_epoch", None), getattr(rows, "skip", None)
        if callable(again):
            again(epoch)
        # What `skip` of `datasets` gives stands in round 0 and keeps the order of its shards in every other.
        if first and callable(skip) and not (epoch and callable(again)):
            left: Iterator[Any] = iter(skip(first))
        else:
            left = islice(iter(rows), first, None)
        for number, row in enumerate(left, first):
            yield (number, row), number + 1

    def at(self, handle: Any) -> Sample:
        number, row = handle
        where = f"row {number + 1} of the stream"
        with reading(where):
            return self.sample(row, where)
