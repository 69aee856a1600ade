"""What a stage reads, and in how many steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omnimix.compose.processor import Processor
from omnimix.data.joined import JoinedSources
from omnimix.data.mixture import Batches, Mixture
from omnimix.data.ordered import RoundBatches
from omnimix.data.sources import Source
from omnimix.errors import TrainError
from omnimix.parallel.layout import ModelLayout
from omnimix.train.rows import DatasetFacts, looked_at
from omnimix.train.settings import Stage, Training


@dataclass(frozen=True)
class StagePlan:
    """A stage's way.

    Attributes:
        batches: what is read, from the step it begins with.
        steps: that it takes.
        horizon: that its rates are planned for.
        sources: the datasets.
    """

    batches: Batches
    steps: int
    horizon: int
    sources: list[Source]

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
                source, processor, most, stage.mixture[k].apart, f"stages.{number}.mixture.{k}"
            )
            for k, source in enumerate(self.sources)
        ]


def plan(
    training: Training,
    number: int,
    first: int,
    folder: Path,
    processor: Processor,
    layout: ModelLayout,
) -> StagePlan:
    """The way of a stage.

    Args:
        number: of the stage.
        first: step it goes on with.
        folder: that relative paths start from.

    Raises:
        TrainError: a batch that cannot be cut as it should.
    """
    stage = training.stages[number]
    parts = stage.gradient_accumulation_steps
    size, rest = divmod(stage.batch_size, parts)
    if rest or not size:
        raise TrainError(
            f"a batch_size of {stage.batch_size} cannot be cut into {parts} equal micro-batches",
            where=f"stages.{number}",
            hint="make batch_size a multiple of gradient_accumulation_steps",
        )
    share = layout.data
    if size < share[1]:
        raise TrainError(
            f"{size} records at a time cannot be shared by {share[1]} processes",
            where=f"stages.{number}",
            hint="make batch_size larger or gradient_accumulation_steps smaller",
        )
    if stage.template is not None:
        processor = processor.with_template(stage.template)
    done, pack, most = first * parts, stage.packing, stage.max_length
    if stage.order == "mixture":
        assert stage.max_steps is not None
        mixture = Mixture(stage.mixture, folder, training.seed + number)
        count = stage.max_steps * parts - done
        batches = Batches(mixture, processor, size, done, count, pack, most, share)
        return StagePlan(batches, stage.max_steps, stage.max_steps, mixture.sources)
    sources = [words.data.open(folder) for words in stage.mixture]
    source = sources[0] if len(sources) == 1 else JoinedSources(sources)
    rounds = stage.rounds(source, training.seed)
    ordered = RoundBatches(source, rounds, processor, done, pack, most, share)
    return StagePlan(ordered, rounds.steps, rounds.horizon, sources)
