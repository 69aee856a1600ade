"""Lines of metrics: what the steps since the last one came to."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnimix.errors import TrainError
from omnimix.train.settings import Stage
from omnimix.train.step import Stepped


class Meter:
    """Collects steps and writes a line of metrics every `log_every` of them.

    Args:
        number: of the stage.
        steps: that the stage takes.
        learned: parameters that learn.
        out: folder of the run, for messages.
        note: takes a line.
    """

    def __init__(
        self,
        number: int,
        stage: Stage,
        steps: int,
        learned: int,
        out: Path,
        note: Callable[[dict[str, Any]], None],
    ) -> None:
        self.stage = stage
        self.steps = steps
        self.out = out
        self.note = note
        self.head = {"stage": number, "name": stage.name, "steps": steps, "trainable": learned}
        self.began = time.perf_counter()
        self.losses: list[Tensor] = []
        self.samples = 0
        self.targets = 0

    def step(self, step: int, done: Stepped, dropped: int) -> None:
        """Take a step in; `dropped` records were left out so far.

        Raises:
            TrainError: the loss is not a number.
        """
        self.losses.append(done.loss)
        self.samples += done.samples
        self.targets += done.targets
        last = step + 1 == self.steps
        if (step + 1) % self.stage.logging_steps and not last:
            return
        mean = float(torch.stack(self.losses).mean())
        if mean != mean:
            raise TrainError(
                f"the loss of step {step + 1} is not a number",
                where=str(self.out),
                hint="lower optimizer.lr, or resume from the last checkpoint with another one",
            )
        seconds = time.perf_counter() - self.began
        self.note(
            {
                **self.head,
                "step": step + 1,
                "loss": round(mean, 5),
                "lr": done.rate,
                "grad_norm": round(float(done.norm), 4),
                "samples": self.samples,
                "targets": self.targets,
                "seconds": round(seconds, 3),
                "samples_per_second": round(self.samples / seconds, 2),
                "dropped": dropped,
            }
        )
        self.began = time.perf_counter()
        self.losses = []
        self.samples = self.targets = 0
