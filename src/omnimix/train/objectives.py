"""Objectives: what the loss is."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.config import Spec
from omnimix.train.glance import glance


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
            trainers do that divide an accumulated loss by their number (Prismatic).
        glance: weight of the helper loss (`omnimix.train.glance`) beside it.
    """

    kind: Literal["sft"] = "sft"
    average: Literal["step", "micro_batch"] = "step"
    glance: float = Field(default=0.0, ge=0)

    def counts(self, targets: Sequence[int]) -> list[int]:
        if self.average == "micro_batch":
            return [max(count, 1) * len(targets) for count in targets]
        return super().counts(targets)

    def loss(self, model: MultimodalLM, batch: Batch, count: int) -> Tensor:
        words = batch.inputs(mask=False)
        helper: Tensor | float = 0.0
        if self.glance:
            encoded = model.encode(batch.items)
            words["inputs_embeds"] = model.fill(batch.input_ids, encoded, batch.items)
            helper = self.glance * glance(model, batch, encoded) * batch.targets / count
        output = model(**words, labels=batch.labels, num_items_in_batch=count)
        loss: Tensor | None = output.loss
        assert loss is not None
        return loss + helper


class Glance(Objective):
    """The helper loss alone: encoders and connectors learn, the language model does not run."""

    kind: Literal["glance"] = "glance"

    def loss(self, model: MultimodalLM, batch: Batch, count: int) -> Tensor:
        return glance(model, batch, model.encode(batch.items)) * batch.targets / count
