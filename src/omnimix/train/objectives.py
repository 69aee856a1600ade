"""Objectives: what the loss is."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.config import Spec


class Objective(Spec):
    """A loss over a batch."""

    kind: str

    @abc.abstractmethod
    def loss(self, model: MultimodalLM, batch: Batch, count: int) -> Tensor:
        """The loss of one micro-batch of a step.

        Args:
            model: in training mode.
            batch: on the model's device.
            count: what the sum over the learned tokens is divided by; see `counts`.
        """

    def counts(self, targets: Sequence[int]) -> list[int]:
        """For each micro-batch of a step what its summed loss is divided by.

        Args:
            targets: learned tokens of each micro-batch.

        Returns:
            The learned tokens of the whole step, so that micro-batches add up to the mean over tokens.
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

    def counts(self, targets: Sequence[int]) -> list[int]:
        if self.average == "micro_batch":
            return [max(count, 1) * len(targets) for count in targets]
        return super().counts(targets)

    def loss(self, model: MultimodalLM, batch: Batch, count: int) -> Tensor:
        inputs = batch.inputs(mask=False)
        output = model(**inputs, labels=batch.labels, num_items_in_batch=count, skip_logits=True)
        loss: Tensor | None = output.loss
        assert loss is not None
        return loss
