"""Ctrl-C and SIGTERM: a run ends at a moment at which its weights are whole, on every rank at the same one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from omnimix.parallel.process_group import ProcessGroup

ONE_PRESS = 3.0
"""Seconds in which further signals belong to the same press of Ctrl-C: torchrun passes it on once more."""


class Stopped(KeyboardInterrupt):
    """The run was asked to end.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.signal = int(number)

    @property
    def exit_code(self) -> int:
        """How a shell is told: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signal


class Stop:
    """Both signals while a run goes on; around it they mean what they meant before.

    A single process stops at once, but not while weights move or are written (`held`); several stop where all
    have agreed to (`look`). Who asks again after a while is not put off.

    Attributes:
        signal: the first that came; None where nobody has asked.
    """

    def __init__(self, process_group: ProcessGroup) -> None:
        self.process_group = process_group
        self.signal: int | None = None
        self.holding = process_group.size > 1
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        again = self.signal is not None and time.monotonic() - self._since > ONE_PRESS
        self.press(number)
        if again or not self.holding:
            raise Stopped(number)

    def press(self, number: int = signal.SIGINT) -> None:
        """Ask for an end as soon as it can be."""
        if self.signal is None:
            self.signal, self._since = number, time.monotonic()

    def hold(self) -> None:
        """From here on, up to the next `look`, nothing is cut off."""
        self.holding = True

    def look(self) -> None:
        """Between two steps.

        Raises:
            Stopped: somebody has asked; on all ranks at once.
        """
        asked = max(self.process_group.gather("stop", self.signal or 0))
        self.holding = self.process_group.size > 1
        if asked:
            raise Stopped(asked)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Around what must not be cut off."""
        before, self.holding = self.holding, True
        try:
            yield
        finally:
            self.holding = before
