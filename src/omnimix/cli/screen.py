"""What a training run shows: a live table on a terminal, plain lines where nobody sits in front of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from omnimix.train.watcher import Watcher

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def watcher() -> Watcher:
    """What suits the stream that is written to."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    return Screen(console) if console.is_terminal else Log()


def duration(seconds: float) -> str:
    """A time to read: 1:02:03, 4:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def fields(line: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A line of metrics as pairs to read, the same on a terminal and in a log."""
    if "validation" in line:
        yield "validation", _number(line["validation"])
        for name, value in line["measures"].items():
            yield name, _number(value)
        return
    yield "loss", _number(line["loss"])
    yield "lr", _number(line["lr"])
    norms = ", ".join(f"{part} {_number(norm)}" for part, norm in line["grad_norms"].items())
    yield "gradient", _number(line["grad_norm"]) + (f" ({norms})" if norms else "")
    yield "samples/s", _number(line["samples_per_second"])
    yield "learned tokens/s", _number(line["targets_per_second"])
    yield "waiting for data", f"{line['waiting']:.0%}"
    yield "memory", f"{line['memory_gb']:.2f} GB"
    if line["dropped"] or line["skipped"]:
        yield "left out", f"{line['dropped']} records, {line['skipped']} steps"


class Log(Watcher):
    """A plain line for everything."""

    def __init__(self) -> None:
        self.pace = Pace()

    def tell(self, sentence: str) -> None:
        import typer

        typer.echo(sentence)

    def step(self, stage: str, step: int, steps: int) -> None:
        self.pace.step(stage, step, steps)

    def metrics(self, line: dict[str, Any]) -> None:
        words = "  ".join(f"{name} {value}" for name, value in fields(line))
        left = "" if "validation" in line else f"  left {self.pace.left()}"
        self.tell(f"{line['name']} {line['step']}/{line['steps']}  {words}{left}")


class Pace:
    """How far a stage is, and how long the rest takes at the pace since it began."""

    def __init__(self) -> None:
        self.stage, self.at, self.steps, self.first = "", 0, 0, 0
        self.began = time.monotonic()

    def step(self, stage: str, step: int, steps: int) -> None:
        """Another step is done."""
        if stage != self.stage or step <= self.at:
            # The first step of a stage opens workers and warms up: the pace is that of those behind it.
            self.began, self.first = time.monotonic(), step
        self.stage, self.at, self.steps = stage, step, steps

    def left(self) -> str:
        """The time to the end of the stage."""
        done = self.at - self.first
        if not done:
            return "-"
        return duration((time.monotonic() - self.began) / done * (self.steps - self.at))


class Screen(Watcher):
    """A table that changes in place, sentences above it."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self.console = console
        self.pace = Pace()
        self.shown: dict[str, str] = {}
        self.live = Live(
            console=console, get_renderable=self.table, refresh_per_second=4, transient=False
        )

    def table(self) -> Table:
        """The table as it stands."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        pace = self.pace
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        table.add_row("stage", Text(pace.stage))
        table.add_row("step", f"{pace.at} of {pace.steps}")
        table.add_row("", ProgressBar(total=pace.steps, completed=pace.at, width=40))
        table.add_row("left", pace.left())
        for name, value in self.shown.items():
            table.add_row(name, Text(value))
        return table

    def tell(self, sentence: str) -> None:
        from rich.text import Text

        style = "yellow" if sentence.startswith(("warning:", "left out:")) else ""
        self.console.print(Text(sentence, style=style))

    def step(self, stage: str, step: int, steps: int) -> None:
        if not self.live.is_started:
            self.live.start()
        self.pace.step(stage, step, steps)

    def metrics(self, line: dict[str, Any]) -> None:
        self.shown |= dict(fields(line))

    def close(self) -> None:
        self.live.stop()
