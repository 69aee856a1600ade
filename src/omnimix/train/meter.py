"""Lines of metrics: what the steps since the last one came to."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnimix.train.settings import Stage
from omnimix.train.step import Stepped


class Meter:
    """Collects steps and writes a line of metrics every `logging_steps` of them.

    Args:
        number: of the stage.
        steps: that the stage takes.
        learned: parameters that learn.
        before: steps of the stages before it.
        note: takes a line.
    """

    def __init__(
        self,
        number: int,
        stage: Stage,
        steps: int,
        learned: int,
        before: int,
        note: Callable[[dict[str, Any]], None],
    ) -> None:
        self.stage = stage
        self.steps = steps
        self.note = note
        self.before = before
        self.words = {"stage": number, "name": stage.name, "steps": steps, "trainable": learned}
        self._again()

    def _again(self) -> None:
        self.began = time.perf_counter()
        self.losses: list[Tensor] = []
        self.samples = self.skipped = 0
        self.targets = 0.0
        self.waited = 0.0

    def head(self, step: int) -> dict[str, Any]:
        """What every line begins with; `total_step` counts on through the stages."""
        return {**self.words, "step": step, "total_step": self.before + step}

    def due(self, step: int) -> bool:
        """Whether a line is written behind a step."""
        return (step + 1) % self.stage.logging_steps == 0 or step + 1 == self.steps

    def step(
        self, step: int, done: Stepped | None, dropped: int, norms: Mapping[str, Tensor]
    ) -> None:
        """Take a step in; `dropped` records were left out so far.

        Args:
            done: None for a step that was skipped, for it had nothing to learn.
            norms: of the gradients of each part, where a line is due.
        """
        if done is None:
            self.skipped += 1
        else:
            self.losses.append(done.loss)
            self.samples += done.samples
            self.targets += done.targets
        if not self.due(step):
            return
        seconds = time.perf_counter() - self.began
        self.note(
            {
                **self.head(step + 1),
                "loss": round(float(torch.stack(self.losses).mean()), 5) if self.losses else None,
                "lr": done.rate if done else None,
                "grad_norm": round(float(done.norm), 4) if done else None,
                "grad_norms": {part: round(float(norm), 4) for part, norm in norms.items()},
                "samples": self.samples,
                "targets": _whole(self.targets),
                "seconds": round(seconds, 3),
                "samples_per_second": round(self.samples / seconds, 2),
                "targets_per_second": round(self.targets / seconds, 1),
                "waiting": round(self.waited / seconds, 3),
                "memory_gb": round(memory() / 2**30, 3),
                "dropped": dropped,
                "skipped": self.skipped,
            }
        )
        self._again()


def memory() -> int:
    """The most bytes that were held so far: on the GPU where there is one, else by this process."""
    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else resident()


def resident() -> int:
    """The most bytes that this process held so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not `ru_maxrss`, which begins with what the process held that started this one.
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _whole(number: float) -> float:
    """A count without a fraction, where it has none."""
    return int(number) if number == int(number) else number
