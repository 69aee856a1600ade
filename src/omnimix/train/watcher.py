"""Who watches a run: told in sentences and numbers, on the first rank alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Listener = Callable[[dict[str, Any]], None]
"""Called with every line of metrics: stage, step, steps, loss, lr, grad_norm, samples_per_second, ..."""


class Watcher:
    """Sees nothing; a screen, a log and a tracker see more."""

    def tell(self, sentence: str) -> None:
        """Something that a person should read."""

    def step(self, stage: str, step: int, steps: int) -> None:
        """A step is done; called at every one, so it has to be quick."""

    def metrics(self, line: dict[str, Any]) -> None:
        """A line of metrics was written."""

    def close(self) -> None:
        """The run has ended, well or not."""


class Watchers(Watcher):
    """Hands everything on to several."""

    def __init__(self, *watchers: Watcher) -> None:
        self.watchers = list(watchers)

    def tell(self, sentence: str) -> None:
        for one in self.watchers:
            one.tell(sentence)

    def step(self, stage: str, step: int, steps: int) -> None:
        for one in self.watchers:
            one.step(stage, step, steps)

    def metrics(self, line: dict[str, Any]) -> None:
        for one in self.watchers:
            one.metrics(line)

    def close(self) -> None:
        for one in self.watchers:
            one.close()


class Listening(Watcher):
    """Hands the lines of metrics to a function."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener

    def metrics(self, line: dict[str, Any]) -> None:
        self.listener(line)
