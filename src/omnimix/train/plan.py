"""What a stage reads, and in how many steps."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnimix.compose.processor import Processor
from omnimix.data.arranged import ArrangedBatches, Entries, Shuffled
from omnimix.data.joined import JoinedSources
from omnimix.data.lengths import LengthMeasure, index, key_of
from omnimix.data.mixture import Batches, Mixture, Share
from omnimix.data.ordered import RoundBatches
from omnimix.data.packing import PackingSpec
from omnimix.data.sources import Source
from omnimix.data.streams import StreamSource
from omnimix.errors import TrainError
from omnimix.train.rows import DatasetFacts, looked_at
from omnimix.train.settings import Stage, Training
from omnimix.types import Sample


@dataclass(frozen=True)
class StagePlan:
    """A stage's way.

    Attributes:
        batches: what is read, from the step it begins with.
        steps: that it takes.
        horizon: that its rates are planned for.
        sources: the datasets.
        takes: refuses a record that the objective does not learn from.
    """

    batches: Batches
    steps: int
    horizon: int
    sources: list[Source]
    takes: Callable[[Sample], None]

    def __post_init__(self) -> None:
        self.batches.takes = self.takes

    @property
    def rows(self) -> int | None:
        """Records of all datasets; None where one has no end."""
        counts = [source.length for source in self.sources]
        return None if None in counts else sum(count for count in counts if count is not None)

    def look(self, number: int, stage: Stage) -> list[DatasetFacts]:
        """A few records of every dataset.

        Raises:
            SampleError: a dataset from which nothing can be learned.
        """
        processor, most = self.batches.processor, stage.max_length
        return [
            looked_at(
                source,
                processor,
                most,
                stage.mixture[k].apart,
                f"stages.{number}.mixture.{k}",
                self.takes,
            )
            for k, source in enumerate(self.sources)
        ]


def plan(
    training: Training,
    number: int,
    first: int,
    folder: Path,
    processor: Processor,
    share: Share,
    begin: dict[str, Any] | None = None,
    tell: Callable[[str], None] = lambda _: None,
    launch: int | None = None,
) -> StagePlan:
    """The way of a stage.

    Args:
        number: of the stage.
        first: step it goes on with.
        folder: that relative paths start from.
        share: of the records that this process reads.
        begin: what stands before that step (`Batches.state`).
        tell: hears what takes long.
        launch: as in `lengths.index`.

    Raises:
        TrainError: a batch that cannot be cut as it should.
    """
    stage = training.stages[number]
    parts, size = stage.gradient_accumulation_steps, micro_batch(stage, number)
    if size < share[1]:
        raise TrainError(
            f"{size} records at a time cannot be shared by {share[1]} processes",
            where=f"stages.{number}",
            hint="make batch_size larger or gradient_accumulation_steps smaller",
        )
    if stage.template is not None:
        processor = processor.with_template(stage.template)
    takes = stage.objective.takes
    done, pack, most = first * parts, bool(stage.packing), stage.max_length
    if stage.order == "mixture":
        assert stage.max_steps is not None
        mixture = Mixture(stage.mixture, folder, training.seed + number)
        if is_arranged(stage, mixture.sources):
            return _arranged(
                training, number, first, folder, processor, share, mixture, begin, tell, launch
            )
        count = stage.max_steps * parts - done
        batches = Batches(mixture, processor, size, done, count, pack, most, share)
        return StagePlan(batches, stage.max_steps, stage.max_steps, mixture.sources, takes)
    sources = [words.open(folder) for words in stage.mixture]
    if is_arranged(stage, sources) and all(one.length is not None for one in sources):
        entries = Shuffled(sources, training.seed)
        return _arranged(
            training, number, first, folder, processor, share, entries, begin, tell, launch
        )
    source = sources[0] if len(sources) == 1 else JoinedSources(sources)
    rounds = stage.rounds(source, training.seed)
    ordered = RoundBatches(source, rounds, processor, done, pack, most, share)
    return StagePlan(ordered, rounds.steps, rounds.horizon, sources, takes)


def micro_batch(stage: Stage, number: int) -> int:
    """Records of a micro-batch, of all processes together.

    Raises:
        TrainError: a batch that cannot be cut as it should.
    """
    size, rest = divmod(stage.batch_size, stage.gradient_accumulation_steps)
    if rest or not size:
        raise TrainError(
            f"a batch_size of {stage.batch_size} cannot be cut into "
            f"{stage.gradient_accumulation_steps} equal micro-batches",
            where=f"stages.{number}",
            hint="make batch_size a multiple of gradient_accumulation_steps",
        )
    return size


def is_arranged(stage: Stage, sources: Sequence[Source]) -> bool:
    """Whether batches depend on what records take, or on what a stream gives."""
    by_size = stage.group_by_length or isinstance(stage.packing, PackingSpec)
    return by_size or any(isinstance(source, StreamSource) for source in sources)


def _arranged(
    training: Training,
    number: int,
    first: int,
    folder: Path,
    processor: Processor,
    share: Share,
    entries: Entries,
    begin: dict[str, Any] | None,
    tell: Callable[[str], None],
    launch: int | None,
) -> StagePlan:
    """The way of a stage whose batches are arranged by what records take."""
    stage = training.stages[number]
    parts = stage.gradient_accumulation_steps
    packing = stage.packing if isinstance(stage.packing, PackingSpec) else None
    lengths: list[Any] = [None] * len(entries.sources)
    if packing is not None or stage.group_by_length:
        workers = (os.cpu_count() or 1) if training.num_workers is None else training.num_workers
        measure = LengthMeasure(processor.weave, stage.max_length)
        for k, (words, source) in enumerate(zip(stage.mixture, entries.sources, strict=True)):
            if source.length is not None:
                about = [words.data.dump(), str(folder.resolve())]
                key = key_of(about, source, processor.weave, stage.max_length)
                lengths[k] = index(source, measure, key, workers, tell, launch)
    total: int | None = None
    if stage.order == "shuffled" and stage.num_train_epochs is not None:
        total = stage.num_train_epochs * sum(source.length or 0 for source in entries.sources)
    size = stage.batch_size // parts
    batches = ArrangedBatches(
        entries,
        processor,
        size,
        first * parts,
        0,
        bool(stage.packing),
        stage.max_length,
        share,
        total,
        packing,
        size if stage.group_by_length else 0,
        lengths,
        begin,
        [words.apart for words in stage.mixture],
    )
    steps = stage.max_steps
    if total is not None:
        made = ArrangedBatches.steps(batches, parts, stage.drop_last)
        steps = made if steps is None else min(steps, made)
    assert steps is not None
    if not steps:
        raise TrainError(
            f"the records make no whole step of {stage.batch_size}",
            where=f"stages.{number}.batch_size",
            hint="make batch_size smaller",
        )
    batches.count = (steps - first) * parts
    return StagePlan(batches, steps, steps, entries.sources, stage.objective.takes)
