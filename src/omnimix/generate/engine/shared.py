"""The engine of a model that several processes hold together: asked in the first of them, stepped in all.

Every process runs the same core over its part of the model. What would differ between them is said by the first at
each step: which requests came, which go (its clock decides), and the tokens that were chosen (its last bits decide).
All else follows from that, the caches too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from omnimix.compose.model import MultimodalLM
from omnimix.errors import OmnimixError
from omnimix.generate.engine.core import Core, Generation, Limits
from omnimix.generate.engine.generation import Chosen
from omnimix.generate.engine.runners import Runner
from omnimix.generate.engine.sampling import Sampler
from omnimix.generate.options import Options
from omnimix.parallel.process_group import ProcessGroup

BEAT = 5.0
"""Seconds without work after which the first process shows that it is there, and learns whether the others are."""


class Shared(Core):
    """Writes answers with the other processes of a group, which `follow`.

    A request that fails by itself (its options, its items) fails alone; a step of the language model that fails in one
    process ends the work of all.

    Args:
        group: the processes.
    """

    patience = BEAT

    def __init__(
        self, model: MultimodalLM, limits: Limits, run: Runner, group: ProcessGroup
    ) -> None:
        super().__init__(model, limits, run, group)
        self.closed = False

    def step(self) -> bool:
        """As `Core.step`, in all processes at once.

        Raises:
            ParallelError: another process failed or is gone.
        """
        with self.group.together():
            return super().step()

    def follow(self) -> None:
        """Take the first process's steps until it takes none any more."""
        while not self.closed:
            self.step()

    def close(self) -> None:
        """Let the others go, and wait until they do."""
        self.group.tell(None)
        self.group.gather("the end", True)

    def _news(self) -> tuple[list[Generation], list[tuple[int, bool]]]:
        came, gone = super()._news()
        told = self.group.tell(([(one.prompt, one.most) for one in came], gone))
        if told is None:
            self.group.gather("the end", True)
            self.closed = True
            return [], []
        return (came if self.group.rank == 0 else [_followed(*one) for one in told[0]]), told[1]

    def _chosen(self, rows: list[Any]) -> list[Chosen | Exception]:
        first = self.group.rank == 0
        found = super()._chosen(rows) if first else []
        plain = [None if isinstance(one, Exception) else (one[0], None, one[2]) for one in found]
        told: list[Chosen | None] = self.group.tell(plain)
        return found if first else [one or OmnimixError("it failed") for one in told]


def _followed(prompt: Any, most: int) -> Generation:
    """A request of the first process, which alone chooses its tokens and knows its end."""
    nothing: Tensor = torch.empty(0, dtype=torch.long)
    return Generation(prompt, Sampler(Options(), nothing, (), 0), most, lambda _: False)
