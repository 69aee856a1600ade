"""Metrics to where people compare runs: the trackers of accelerate."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnimix.errors import TrainError, reason
from omnimix.registry import did_you_mean
from omnimix.train.watcher import Watcher


class Tracking(Watcher):
    """Hands lines of metrics on.

    Args:
        names: of trackers.
        folder: of the run; what a tracker writes lies in its folder `logs`.
        words: of the run, by dotted path.

    Raises:
        TrainError: a name that accelerate does not know, a package that is not there, or a tracker that does not
            start (no account, no network).
    """

    def __init__(self, names: Sequence[str], folder: Path, words: Mapping[str, Any]) -> None:
        self.trackers: list[Any] = []
        for name in names:
            tracker = made(name, folder)
            # A tracker takes plain values alone.
            plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in words.items()}
            try:
                tracker.start()
                tracker.store_init_configuration(plain)
            except Exception as error:
                raise TrainError(
                    f"the tracker {name!r} does not start ({reason(error)})",
                    where="trackers",
                    hint="set it up as its own pages say, or leave it out",
                ) from None
            self.trackers.append(tracker)

    def metrics(self, line: dict[str, Any]) -> None:
        values = {word: value for word, value in line.items() if isinstance(value, int | float)}
        for word in ("grad_norms", "measures"):
            values |= {f"{word}/{part}": value for part, value in line.get(word, {}).items()}
        for word in ("stage", "step", "steps", "trainable", "total_step"):
            values.pop(word, None)
        for tracker in list(self.trackers):
            try:
                tracker.log(values, step=line["total_step"])
            except Exception as error:  # the run is worth more, and metrics.jsonl holds every line
                self.trackers.remove(tracker)
                warnings.warn(
                    f"the tracker {tracker.name!r} failed and gets no more: {reason(error)}",
                    stacklevel=2,
                )

    def close(self) -> None:
        for tracker in self.trackers:
            with contextlib.suppress(Exception):  # the run is over, and its own files are written
                tracker.finish()


def made(name: str, folder: Path) -> Any:
    """A tracker, not started yet."""
    try:
        from accelerate import PartialState, tracking
    except ModuleNotFoundError:
        raise TrainError(
            "trackers need accelerate", where="trackers", hint="pip install 'omnimix[train]'"
        ) from None
    known = {str(word): cls for word, cls in tracking.LOGGER_TYPE_TO_CLASS.items()}
    if name not in known:
        raise TrainError(
            f"unknown tracker {name!r}", where="trackers", hint=did_you_mean(name, known)
        )
    own = [str(each) for each in tracking.get_available_trackers()]
    builtin = known[name].__module__ == tracking.__name__
    if builtin and name not in own:
        raise TrainError(
            f"the package of the tracker {name!r} is not installed",
            where="trackers",
            hint=f"pip install {name.replace('_', '-')}, or leave the tracker out",
        )
    PartialState()  # Their log asks it, down to the lines that nobody sees.
    more = {"logging_dir": str(folder / "logs")} if known[name].requires_logging_directory else {}
    return known[name](folder.resolve().name, **more)
