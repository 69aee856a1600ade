"""Batches that are arranged by what records take: token budgets, like lengths, and streams.

The stream of records is cut into windows. What a window becomes depends on the seed, its number and the sizes of its
records alone; a run goes on from the window and the place in it (and, for streams, from where they stood before the
window), whatever the number of workers and processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence as Many
from itertools import islice
from typing import Any, NamedTuple, Protocol
from zlib import crc32

import numpy as np
from torch.utils.data import DataLoader, IterableDataset

from omnimix.compose.processor import Processor
from omnimix.compose.rounds import weave_apart
from omnimix.compose.sequence import Sequence
from omnimix.data import orders
from omnimix.data.containers import reading
from omnimix.data.joined import JoinedSources
from omnimix.data.lengths import UNREAD, LengthMeasure
from omnimix.data.mixture import Batches, Read, Share, _begin, drawn, same
from omnimix.data.packing import WINDOW, PackingSpec, Size, alike, packed
from omnimix.data.sources import Source
from omnimix.data.streams import StreamReader, StreamSource
from omnimix.errors import OmnimixError, SampleError
from omnimix.types import Sample

BEGIN: dict[str, Any] = {"window": 0, "row": 0, "streams": {}}
"""The state before the first batch."""


class Entries(Protocol):
    """Which record stands at which place of a stage.

    Attributes:
        sources: the datasets.
        seed: of the order.
    """

    sources: list[Source]
    seed: int

    def entry(self, place: int) -> tuple[int, int]:
        """The dataset at a place, and which of its records (for a stream: how many came before)."""


class Shuffled:
    """Finite datasets in rounds, each in a fresh order: that of `orders.shuffled`."""

    def __init__(self, sources: list[Source], seed: int) -> None:
        self.sources = sources
        self.seed = seed
        self.joined = JoinedSources(sources)
        self._order: tuple[int, list[int]] = (-1, [])

    def entry(self, place: int) -> tuple[int, int]:
        assert self.joined.length is not None
        epoch, inside = divmod(place, self.joined.length)
        if self._order[0] != epoch:
            self._order = (epoch, orders.shuffled(self.joined.length, epoch, self.seed))
        source, record = self.joined.find(self._order[1][inside])
        return next(i for i, one in enumerate(self.sources) if one is source), record


class Entry(NamedTuple):
    """A record of a batch: its place in the stage, its dataset, and its number there or its handle."""

    place: int
    which: int
    record: Any


class Work(NamedTuple):
    """What a worker makes a batch of: this rank's rows with their numbers, and why records were left out of it."""

    n: int
    rows: list[tuple[int, list[Entry]]]
    refused: list[str]


class _Planned(IterableDataset[Any]):
    """The works of a stage, planned in a process of their own."""

    def __init__(self, batches: ArrangedBatches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return self.batches._works()


class ArrangedBatches(Batches):
    """Batch `n` holds rows `n * size ...` of the arranged stream.

    Args:
        entries: which records stand where.
        total: places in all; None for no end.
        size: rows of a batch, on all ranks together.
        count: batches; those behind the last row are empty.
        packing: rows of a token budget.
        alike: records of a batch that shall be of like length; 0 for none.
        lengths: for each dataset tokens and items of its records; of a stream they are measured on the way.
        begin: the state before batch `first`.
    """

    def __init__(
        self,
        entries: Entries,
        processor: Processor,
        size: int,
        first: int,
        count: int,
        pack: bool,
        max_length: int | None = None,
        share: Share = (0, 1),
        total: int | None = None,
        packing: PackingSpec | None = None,
        alike: int = 0,
        lengths: Many[np.ndarray | None] = (),
        begin: dict[str, Any] | None = None,
        apart: Many[bool] = (),
    ) -> None:
        super().__init__(entries, processor, size, first, count, pack, max_length, share)  # type: ignore[arg-type]
        self.entries = entries
        self.total = total
        self.packing = packing
        self.alike = alike
        self.lengths = list(lengths)
        self.apart = list(apart)
        self.measure = LengthMeasure(processor.weave, max_length)
        self.window = _window(entries.sources, alike)
        self.marks: dict[int, dict[str, Any]] = {0: begin or BEGIN}

    def state(self, n: int) -> dict[str, Any]:
        """Window, row in it and streams before batch `n`, which is the next one that is taken."""
        self.marks = {at: mark for at, mark in self.marks.items() if at >= n}
        return self.marks[n]

    def order(self, workers: int = 0) -> Iterator[Work]:
        works = self._works()
        if workers and any(one.length is None for one in self.entries.sources):
            # Shards are opened and records measured beside the training, not between its steps.
            works = iter(
                DataLoader(
                    _Planned(self),
                    batch_size=None,
                    num_workers=1,
                    collate_fn=same,
                    prefetch_factor=8,
                    worker_init_fn=_begin,
                )
            )
        for n, (work, mark) in enumerate(works, max(self.marks)):
            self.marks[n + 1] = mark
            yield work

    def _works(self) -> Iterator[tuple[Work, dict[str, Any]]]:
        """What every batch is made of, and the state behind it."""
        rank, world = self.share
        at = max(self.marks)
        mark = self.marks[at]
        rows = self.rows(mark)
        if self.first and not at and mark is BEGIN:
            # The run began with words that kept no state: as many rows are passed over.
            passed = self.first * self.size
            next(islice(rows, passed, passed), None)
        for n in range(at, self.count):
            part = list(islice(rows, self.size))
            mark = part[-1][2] if part else mark
            refused = [one for _, said, _ in part for one in said]
            own = [(k, row) for k, (row, _, _) in enumerate(part)][rank::world]
            yield Work(self.first + n, own, refused if rank == 0 else []), mark

    def rows(
        self, state: dict[str, Any]
    ) -> Iterator[tuple[list[Entry], list[str], dict[str, Any]]]:
        """All rows behind a state, the refusals that come with each, and the state behind it."""
        readers = {
            str(which): StreamReader(
                source, f"{self.entries.seed}/stream/{which}", state["streams"].get(str(which))
            )
            for which, source in enumerate(self.entries.sources)
            if isinstance(source, StreamSource)
        }
        window, skip = state["window"], state["row"]
        while True:
            before = {which: reader.state() for which, reader in readers.items()}
            entries = self._entries(window, readers)
            if not entries:
                return
            rows, refused = self._arranged(entries, window)
            if not rows:
                raise SampleError(f"none of {len(entries)} records fits; the first: {refused[0]}")
            here = {"window": window, "streams": before}
            window += 1
            after = {which: reader.state() for which, reader in readers.items()}
            for r, row in enumerate(rows):
                last = {"window": window, "row": 0, "streams": after}
                behind = {**here, "row": r + 1} if r + 1 < len(rows) else last
                if r >= skip:
                    yield row, [] if r else refused, behind
            skip = 0

    def steps(self, parts: int, drop_last: bool) -> int:
        """Steps of so many batches that all rows make, where there is an end."""
        many = sum(1 for _ in self.rows(BEGIN))
        whole = self.size * parts
        return many // whole if drop_last else -(-many // whole)

    def _entries(self, window: int, readers: dict[str, StreamReader]) -> list[Entry]:
        first, end = window * self.window, (window + 1) * self.window
        found = []
        for place in range(first, end if self.total is None else min(end, self.total)):
            which, record = self.entries.entry(place)
            reader = readers.get(str(which))
            found.append(Entry(place, which, record if reader is None else next(reader)))
        return found

    def _arranged(self, entries: list[Entry], window: int) -> tuple[list[list[Entry]], list[str]]:
        """A window's rows, and why records stand in none."""
        seed = self.entries.seed
        if self.packing is None and not self.alike:
            return [[entry] for entry in entries], []
        sizes = [self._size(entry) for entry in entries]
        if self.packing is None:
            return [[entries[i] for i in row] for row in alike(sizes, self.alike, seed, window)], []
        tokens, items = self.packing.tokens, self.packing.items
        over = {i: said for i, size in enumerate(sizes) if (said := _over(size, tokens, items))}
        refused = [f"{self._where(entries[i])}: {said}" for i, said in over.items()]
        left = [i for i in range(len(entries)) if i not in over]
        rows = packed([sizes[i] for i in left], tokens, items, seed, window)
        return [[entries[left[i]] for i in row] for row in rows], refused

    def _size(self, entry: Entry) -> Size:
        known = self.lengths[entry.which]
        if known is not None:
            tokens, items = known[entry.record].tolist()
            return Size(tokens, items)
        source = self.entries.sources[entry.which]
        try:
            return self.measure(self._sample(entry), source)
        except OmnimixError:
            return UNREAD

    def _where(self, entry: Entry) -> str:
        source = self.entries.sources[entry.which]
        if isinstance(source, StreamSource):
            return self._sample(entry).id
        return source.where(entry.record)

    def _placed_entry(self, entry: Entry, said: str) -> str:
        source = self.entries.sources[entry.which]
        return said if isinstance(source, StreamSource) else source.placed(entry.record, said)

    def _sample(self, entry: Entry) -> Sample:
        source = self.entries.sources[entry.which]
        if isinstance(source, StreamSource):
            return source.at(entry.record)
        return source[entry.record]

    def __getitem__(self, work: Any) -> Read:
        sequences: list[Sequence] = []
        digests: list[str] = []
        dropped = list(work.refused)
        for k, row in work.rows:
            room = self.packing.tokens if self.packing else None
            for j, entry in enumerate(row):
                try:
                    woven = self._woven_entry(entry)
                    size = woven.room
                    if room is not None and size > room:
                        raise _outgrown(size, room).at(woven.id)
                except OmnimixError as error:
                    dropped.append(self._placed_entry(entry, error.sentence()))
                    continue
                room = None if room is None else room - size
                sequences.append(woven)
                digests.append(f"{work.n}/{k}/{j}/{woven.digest()}")
        return self._collated(sequences, digests), dropped

    def _woven_entry(self, entry: Entry) -> Sequence:
        number = crc32(f"{self.entries.seed}/draw/{entry.place}".encode())
        with reading("a record"):
            sample = drawn(self._sample(entry), number)
        with reading(sample.id):
            source = self.entries.sources[entry.which]
            if any(self.apart[entry.which : entry.which + 1]):
                self.takes(sample)
                return weave_apart(self.processor.weave, sample.scaled(source.loss_scale))
            return self._woven_sample(sample, source)


def _window(sources: list[Source], alike: int) -> int:
    """Records of a window: no more than a round has, so that none comes again before the others came."""
    counts = [source.length for source in sources]
    most = alike * orders.WINDOW if alike else WINDOW
    round_ = most if None in counts else min(most, sum(count or 0 for count in counts))
    # Batches of like length keep their borders where a window is a whole number of them.
    return max(round_ // alike, 1) * alike if alike else max(round_, 1)


def _over(size: Size, tokens: int, items: int | None) -> str | None:
    """Why a record fits into no row."""
    if size.tokens > tokens:
        return f"{size.tokens} tokens are more than the {tokens} of a row (packing.tokens)"
    if items is not None and size.items > items:
        return f"{size.items} items are more than the {items} of a row (packing.items)"
    return None


def _outgrown(tokens: int, room: int) -> SampleError:
    return SampleError(
        f"the record has {tokens} tokens where its row has room for {room}: it was measured otherwise",
        hint="its items changed since; delete the folder `lengths` of the cache (OMNIMIX_CACHE)",
    )
