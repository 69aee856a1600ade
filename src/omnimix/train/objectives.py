"""Objectives: what the loss is."""

from __future__ import annotations

import abc
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
        """The loss of one part of a step's batch.

        Args:
            model: in training mode.
            batch: on the model's device.
            count: learned tokens of the whole step, so that parts add up to the mean over tokens.
        """


class Sft(Objective):
    """Supervised: cross entropy of the learned tokens, mean over all of them in the step."""

    kind: Literal["sft"] = "sft"

    def loss(self, model: MultimodalLM, batch: Batch, count: int) -> Tensor:
        output = model(**batch.inputs(mask=False), labels=batch.labels, num_items_in_batch=count)
        loss: Tensor | None = output.loss
        assert loss is not None
        return loss
