"""Objectives: what the loss is."""

from __future__ import annotations

import abc
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.config import Spec
from omnimix.errors import SampleError, TrainError
from omnimix.parallel.layout import ALONE, ModelLayout
from omnimix.parallel.process_group import ProcessGroup
from omnimix.types import Sample


class Objective(Spec):
    """A loss over a batch."""

    pairs: ClassVar[bool] = False
    """Whether it learns from a chosen and a rejected answer, and compares them with a reference."""

    kind: str

    @property
    def holds_start(self) -> bool:
        """Whether what learns is held once more, as the stage began with it."""
        return False

    @abc.abstractmethod
    def loss(self, model: MultimodalLM, batch: Batch, count: float) -> Tensor:
        """The loss of one micro-batch of a step.

        Args:
            model: in training mode.
            batch: on the model's device.
            count: what the sum over the batch's amount is divided by; see `counts`.
        """

    def check(self, names: Collection[str]) -> None:
        """Refuse parameters with which the objective cannot be what it says.

        Args:
            names: of those that learn.

        Raises:
            TrainError: why.
        """

    @classmethod
    def takes(cls, sample: Sample) -> None:
        """Refuse a record that nothing can be learned from; it is left out and counted.

        Raises:
            SampleError: why.
        """

    def begin(
        self,
        model: MultimodalLM,
        names: Collection[str],
        place: Path,
        resumed: bool,
        group: ProcessGroup,
    ) -> None:
        """Keep what is needed of the model that a stage begins with; every process calls it.

        Args:
            names: of the parameters that learn.
            place: a folder in that of the run, for what a run that goes on needs again.
            resumed: whether the stage goes on, so that the model is not yet or no longer that one.
            group: the processes of the run.
        """

    def against(self, model: MultimodalLM, batch: Batch, layout: ModelLayout = ALONE) -> Objective:
        """The objective of one micro-batch, with what it takes from passes of its own; every process calls it."""
        return self

    def amount(self, batch: Batch) -> float:
        """How much of what the mean is taken over a micro-batch holds: learned tokens, by what they count for."""
        return batch.targets

    def counts(self, targets: Sequence[float]) -> list[float]:
        """For each micro-batch of a step what its summed loss is divided by.

        Args:
            targets: the amount of each micro-batch.

        Returns:
            The amount of the whole step, so that micro-batches add up to the mean over tokens.
        """
        return [sum(targets)] * len(targets)


class Sft(Objective):
    """Supervised: cross entropy of the learned tokens.

    Attributes:
        average: `step` takes the mean over all learned tokens of a step, so that cutting it into
            micro-batches changes nothing; `micro_batch` the mean of the micro-batches' own means, as
            trainers do that divide an accumulated loss by their number (arXiv 2402.07865).
    """

    kind: Literal["sft"] = "sft"
    average: Literal["step", "micro_batch"] = "step"

    @classmethod
    def takes(cls, sample: Sample) -> None:
        if sample.rejected is not None:
            raise SampleError(
                "a record has a chosen and a rejected answer, and this stage learns from one",
                hint="set objective: dpo or ipo",
            )

    def counts(self, targets: Sequence[float]) -> list[float]:
        if self.average == "micro_batch":
            return [(count or 1) * len(targets) for count in targets]
        return super().counts(targets)

    def loss(self, model: MultimodalLM, batch: Batch, count: float) -> Tensor:
        if batch.pairs:
            raise TrainError(
                "a record has a chosen and a rejected answer, and this stage learns from one",
                where=batch.ids[0],
                hint="set objective: dpo or ipo",
            )
        inputs = batch.inputs(mask=False)
        output = model(**inputs, labels=batch.labels, num_items_in_batch=count, skip_logits=True)
        loss: Tensor | None = output.loss
        assert loss is not None
        return loss
