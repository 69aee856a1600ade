"""A mixture: which sample stands at which place of the training stream, as a pure function.

Place `n` of the stream depends on the seed, the weights and `n` alone, so that any number of workers gives
the same batches and a resumed run goes on exactly where it stopped.
"""

from __future__ import annotations

import math
import os
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from zlib import crc32

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny
from torch.utils.data import DataLoader, Dataset

from omnimix.compose.batch import Batch
from omnimix.compose.processor import Processor
from omnimix.compose.rounds import weave_apart
from omnimix.compose.sequence import Item, Sequence
from omnimix.config import Spec, part
from omnimix.data.containers import reading
from omnimix.data.sources import Source, SourceSpec
from omnimix.errors import OmnimixError, RecipeError
from omnimix.registry import DATASETS
from omnimix.types import Media, Sample, Turn


def _rows(value: Any) -> Any:
    """A path alone, or words without a `kind`, are rows whose format is found."""
    if isinstance(value, str) and value not in DATASETS and {".", "/"} & set(value):
        value = {"path": value}
    return {"kind": "rows", **value} if isinstance(value, Mapping) and "path" in value else value


DataWords: TypeAlias = Annotated[SerializeAsAny[SourceSpec], part(DATASETS), BeforeValidator(_rows)]
"""A dataset by its words; without `kind`, or as a path alone, rows whose format is found."""


class MixturePart(Spec):
    """One dataset of a mixture and its share.

    Attributes:
        data: a dataset by its words; without `kind`, or as a path alone, rows whose format is found.
        apart: the questions of a conversation see its pictures and not one another; needs packed batches.
        weight: its share of the samples, in relation to the other weights; 1 by default.
        loss_scale: what its learned tokens count for in the loss, beside those of other datasets; 1 by default.
    """

    data: DataWords
    weight: float = Field(default=1.0, gt=0)
    apart: bool = False
    loss_scale: float = Field(default=1.0, gt=0)

    def open(self, folder: Path) -> Source:
        """The dataset; relative paths are looked up in `folder`."""
        source = self.data.open(folder)
        source.loss_scale = self.loss_scale
        return source


class Mixture:
    """Weighted datasets as one endless stream.

    Finite datasets are read in a fresh order every round, each record once a round.
    """

    def __init__(self, parts: tuple[MixturePart, ...], folder: Path, seed: int) -> None:
        self.sources: list[Source] = [words.open(folder) for words in parts]
        self.apart = [words.apart for words in parts]
        total = sum(words.weight for words in parts)
        self.weights = [words.weight / total for words in parts]
        self.counts = _shares(self.weights)
        self.seed = seed
        self._orders: dict[tuple[int, int], list[int]] = {}
        self._block: tuple[int, list[int]] | None = None  # the order of the block read last

    def __getitem__(self, place: int) -> Sample:
        which, index = self._choose(place)
        return self._take(which, index)

    def is_apart(self, place: int) -> bool:
        """Whether the rounds of the sample at a place are not to see one another."""
        return self.apart[self._choose(place)[0]]

    def source(self, place: int) -> Source:
        """The dataset that stands at a place."""
        return self.sources[self._choose(place)[0]]

    def _choose(self, place: int) -> tuple[int, int]:
        """Which dataset stands at a place, and its own index: how often it stood there before."""
        if len(self.sources) == 1:
            return 0, place
        # A block of places holds every dataset by its share, shuffled by the block's number.
        counts = self.counts
        block, inside = divmod(place, sum(counts))
        if self._block is None or self._block[0] != block:
            order = [which for which, count in enumerate(counts) for _ in range(count)]
            random.Random(f"{self.seed}/block/{block}").shuffle(order)
            self._block = (block, order)
        order = self._block[1]
        which = order[inside]
        return which, block * counts[which] + order[:inside].count(which)

    def entry(self, place: int) -> tuple[int, int]:
        """The dataset that stands at a place, and which of its records."""
        which, index = self._choose(place)
        return which, self._record(which, index)

    def _take(self, which: int, index: int) -> Sample:
        return self.sources[which][self._record(which, index)]

    def _record(self, which: int, index: int) -> int:
        """The record that a dataset gives when it is asked for the `index`-th time."""
        source = self.sources[which]
        if source.length is None:
            return index
        epoch, inside = divmod(index, source.length)
        key = (which, epoch)
        if key not in self._orders:
            order = list(range(source.length))
            random.Random(f"{self.seed}/order/{which}/{epoch}").shuffle(order)
            self._orders = {k: v for k, v in self._orders.items() if k[0] != which}
            self._orders[key] = order
        return self._orders[key][inside]


BLOCK = 1000
"""Places of the stream in which shares are exact, unless a share is too small for that."""

LONGEST = 100_000


def _shares(weights: list[float]) -> list[int]:
    """Places of each dataset in a block: 1000 in all, or as many as give the rarest one a place.

    Raises:
        RecipeError: a share so small that its block would be longer than most runs.
    """
    rarest = min(range(len(weights)), key=weights.__getitem__)
    # A share is rounded, so a little over half a place is enough for one.
    block = (
        BLOCK if round(weights[rarest] * BLOCK) else BLOCK * math.ceil(1 / weights[rarest] / BLOCK)
    )
    if block > LONGEST:
        raise RecipeError(
            f"dataset {rarest + 1} of the mixture has a share of {weights[rarest]:.2g}, less than one "
            f"sample in {LONGEST:,}",
            where="mixture",
            hint="give it a greater weight or leave it out",
        )
    counts = [round(weight * block) for weight in weights]
    counts[counts.index(max(counts))] += block - sum(counts)
    return counts


@dataclass
class Dropped:
    """Records that could not be used, for the report."""

    count: int = 0
    first: list[str] = field(default_factory=list)


Share: TypeAlias = tuple[int, int]
"""Which of how many ranks this is; it reads every so-manyeth record of a batch."""

Read: TypeAlias = tuple[Batch | None, list[str]]
"""A batch, and why records of it were left out."""


def anything(sample: Sample) -> None:
    """Every record can be learned from."""


class Batches(Dataset[Read]):
    """Batch `n` of a stage: places `n * size ...` of the mixture, woven and collated.

    A record that cannot be used is left out and named in the second value; without any usable record there is
    no batch. Of several ranks each reads its share: the batch is the same whatever their number.

    Attributes:
        takes: refuses a record that the stage does not learn from.
    """

    def __init__(
        self,
        mixture: Mixture | Source,
        processor: Processor,
        size: int,
        first: int,
        count: int,
        pack: bool,
        max_length: int | None = None,
        share: Share = (0, 1),
    ) -> None:
        self.mixture = mixture
        self.processor = processor
        self.size = size
        self.first = first
        self.count = count
        self.pack = pack
        self.max_length = max_length
        self.share = share
        self.takes: Callable[[Sample], None] = anything

    def __len__(self) -> int:
        return self.count

    def places(self, n: int) -> list[int]:
        """The places of the stream that batch `n` reads."""
        start = (self.first + n) * self.size
        return list(range(start, start + self.size))

    def __getitem__(self, n: int) -> Read:
        sequences: list[Sequence] = []
        dropped: list[str] = []
        rank, world = self.share
        digests: list[str] = []
        for k, place in list(enumerate(self.places(n)))[rank::world]:
            try:
                sequences.append(self._woven(place, self.draw(n, place)))
                digests.append(f"{self.first + n}/{k}/{sequences[-1].digest()}")
            except OmnimixError as error:
                dropped.append(self._placed(place, error.sentence()))
        return self._collated(sequences, digests), dropped

    def _placed(self, place: int, said: str) -> str:
        if not isinstance(self.mixture, Mixture):
            return self.mixture.placed(place, said)
        which, record = self.mixture.entry(place)
        return self.mixture.sources[which].placed(record, said)

    def order(self, workers: int = 0) -> Iterable[Any] | None:
        """What `__getitem__` is asked for, one after another; None for the numbers from 0."""
        return None

    def state(self, n: int) -> dict[str, Any]:
        """What stands before batch `n` that its number does not say."""
        return {}

    def _collated(self, sequences: list[Sequence], digests: list[str]) -> Batch | None:
        """A batch that carries what its hash is made of."""
        if not sequences:
            return None
        batch = self.processor.batch(sequences, pack=self.pack, multiple=1 if self.pack else 16)
        batch.digest = summed(digests)
        return batch

    def draw(self, n: int, place: int) -> int:
        """The number that everything is drawn with which is left to chance in a record of batch `n`.

        A pure function, so that a run that goes on draws what it would have drawn, and another one whenever the
        record comes round again.
        """
        assert isinstance(self.mixture, Mixture)
        return crc32(f"{self.mixture.seed}/draw/{place}".encode())  # places never come twice

    def _woven(self, place: int, draw: int) -> Sequence:
        # Not the place: a record stands at many, and counts as one that cannot be used.
        with reading("a record"):
            sample = drawn(self.mixture[place], draw)
        with reading(sample.id):
            if isinstance(self.mixture, Mixture) and self.mixture.is_apart(place):
                self.takes(sample)
                scale = self.mixture.source(place).loss_scale
                return weave_apart(self.processor.weave, sample.scaled(scale))
            return self._woven_sample(sample, self.mixture.source(place))

    def _woven_sample(self, sample: Sample, source: Source) -> Sequence:
        most = source.max_length if self.max_length is None else self.max_length
        self.takes(sample)
        sample = sample.scaled(source.loss_scale)
        prepared: dict[Media, Item] = {}
        weave = partial(
            self.processor.weave,
            max_length=most,
            # Where text is cut, an answer may be cut away; its record then teaches nothing.
            target=most is None,
            cuts_items=source.cuts_items,
            prepared=prepared,
        )
        return woven_pair(weave, sample)


def woven_pair(weave: Callable[[Sample], Sequence], sample: Sample) -> Sequence:
    """A woven sample; where it has a rejected answer, that one's conversation lies beside it."""
    if sample.rejected is None:
        return weave(sample)
    rejected = weave(replace(sample, turns=sample.rejected))
    return replace(weave(sample), rejected=rejected, pair_scale=sample.pair_scale)


def summed(digests: Iterable[str]) -> int:
    """One number of records that say where in a batch they stand, in whatever order: ranks add up theirs."""
    parts = (blake2b(one.encode(), digest_size=16).digest() for one in digests)
    return sum(int.from_bytes(one, "little") for one in parts) % 2**128


def drawn(sample: Sample, number: int) -> Sample:
    """The same sample, whose items have numbers for chance; one that stands in several turns stays one."""
    other = () if sample.rejected is None else replace(sample, turns=sample.rejected).media()
    items = {
        id(item): replace(item, draw=crc32(f"{number}/{i}".encode()))
        for i, item in enumerate({id(item): item for item in (*sample.media(), *other)}.values())
        if item.kind != "region" and item.draw is None
    }
    if not items:
        return sample

    def put(turns: Iterable[Turn]) -> tuple[Turn, ...]:
        return tuple(
            replace(turn, content=tuple(items.get(id(one), one) for one in turn.content))
            for turn in turns
        )

    rejected = None if sample.rejected is None else put(sample.rejected)
    return replace(sample, turns=put(sample.turns), rejected=rejected)


def same(value: Any) -> Any:
    """Nothing is changed on the way from a worker."""
    return value


def _begin(_: int) -> None:
    """What a process that prepares data does first."""
    torch.set_num_threads(1)  # workers prepare pictures; the main process has the cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's, which saves first
    # So is SIGTERM, which schedulers send to all processes of a job; the parent's own ends the worker.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    while True:
        if signal.sigwaitinfo([signal.SIGTERM]).si_pid == os.getppid():
            os._exit(0)


def loader(batches: Batches, workers: int, pin: bool = False) -> Iterator[Read]:
    """Batches in order, prepared ahead by worker processes; the same for any number of them."""
    return iter(
        DataLoader(
            batches,
            batch_size=None,
            sampler=batches.order(workers),
            num_workers=workers,
            collate_fn=same,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_begin if workers else None,
            pin_memory=pin,
        )
    )
