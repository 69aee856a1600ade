"""`omnimix evaluate`: scores of a model on a benchmark."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnimix.cli import options
from omnimix.errors import OmnimixError

if TYPE_CHECKING:
    from rich.table import Table

    from omnimix.evaluate.records import Scored
    from omnimix.evaluate.report import Scores


def command(
    model: options.Model,
    benchmark: Annotated[
        str, typer.Argument(help="A benchmark, or with --measure a file of records.")
    ],
    measure: Annotated[
        str | None,
        typer.Option(help="How answers to the records of a file are scored: exact, cider ..."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Questions of each task (500), or of the file (all).")
    ] = None,
    swap_pictures: Annotated[
        bool, typer.Option("--swap-pictures", help="Ask about another question's pictures.")
    ] = False,
    tasks: Annotated[str | None, typer.Option(help="Some tasks: attribute,count.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report as JSON to a file.")] = None,
    batch_size: Annotated[int, typer.Option(help="Questions answered together.")] = 32,
    device: options.Device = None,
) -> None:
    """Score a model on held-out questions, with 95 % intervals."""
    from rich.console import Console

    if out is not None and not out.resolve().parent.is_dir():
        raise OmnimixError("the folder does not exist", where=str(out), hint="make it first")
    batch_size = max(batch_size, 1)
    if measure is not None:
        _no_benchmark(tasks, swap_pictures)
        scored = _file(model, Path(benchmark), measure, limit, batch_size, device)
        data, shown = {**scored.to_dict(), "model": model}, records_table(scored, model)
    else:
        chosen = [word.strip() for word in tasks.split(",") if word.strip()] if tasks else None
        report = _benchmark(model, benchmark, limit, swap_pictures, chosen, batch_size, device)
        data, shown = {**report.to_dict(), "model": model}, table(report, model)
    if out is not None:
        out.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(data))
    else:
        Console(highlight=False).print(shown)


def _no_benchmark(tasks: str | None, swap_pictures: bool) -> None:
    for option, given in (("--tasks", tasks is not None), ("--swap-pictures", swap_pictures)):
        if given:
            raise OmnimixError(
                f"{option} is a matter of benchmarks, not of a file of records",
                hint=f"leave {option} or --measure out",
            )


def _benchmark(
    model: str,
    name: str,
    limit: int | None,
    swap: bool,
    tasks: list[str] | None,
    batch_size: int,
    device: str | None,
) -> Scores:
    from omnimix.evaluate.report import evaluate
    from omnimix.generate.assistant import load
    from omnimix.registry import BENCHMARKS

    if name not in BENCHMARKS and Path(name).is_file():
        raise OmnimixError(
            "this is a file of records", where=name, hint="say how it is scored: --measure exact"
        )
    bench = BENCHMARKS.load(name)()
    bench.check(tasks or ())
    assistant = load(model, device)
    with _bars() as step:
        return evaluate(
            assistant, bench, 500 if limit is None else limit, swap, tasks, step, batch_size
        )


def _file(
    model: str, path: Path, name: str, limit: int | None, batch_size: int, device: str | None
) -> Scored:
    from omnimix.evaluate.records import open_records, score_records
    from omnimix.generate.assistant import load
    from omnimix.registry import MEASURES

    measure, source = MEASURES.load(name)(), open_records(path)
    assistant = load(model, device)
    with _bars() as step:

        def progress(done: int, total: int) -> None:
            step(path.name, done, total)

        return score_records(assistant, source, measure, name, limit, batch_size, progress)


@contextlib.contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each task, on stderr, so that the report alone is on stdout."""
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bars = {}

        def step(task: str, done: int, total: int) -> None:
            if task not in bars:
                bars[task] = progress.add_task(task, total=total)
            progress.update(bars[task], completed=done)

        yield step


def records_table(scored: Scored, model: str) -> Table:
    """The score of a file to read."""
    from rich import box
    from rich.table import Table

    interval = scored.interval()
    made = Table(
        box=box.SIMPLE_HEAD,
        title=f"{model} by {scored.measure}",
        caption="no interval: the measure is no mean of shares" if interval is None else None,
    )
    made.add_column("", style="bold")
    for title in ("score", "low", "high", "records"):
        made.add_column(title, justify="right")
    bounds = ("", "") if interval is None else tuple(f"{value:.4f}" for value in interval)
    made.add_row("all", f"{scored.score.value:.4f}", *bounds, str(scored.n))
    for name, value in scored.score.groups:
        made.add_row(name, f"{value:.4f}")
    return made


def table(report: Scores, model: str) -> Table:
    """The report to read."""
    from rich import box
    from rich.table import Table

    swapped = ", pictures swapped" if report.swapped else ""
    found = Table(
        box=box.SIMPLE_HEAD,
        title=f"{model} on {report.benchmark}{swapped}",
        caption=f"95 % intervals; {report.seconds:.0f} s",
    )
    found.add_column("task", style="bold")
    for title in ("score", "low", "high", "most frequent", "questions"):
        found.add_column(title, justify="right")
    for name, score in report.tasks.items():
        numbers = [f"{100 * value:.1f} %" for value in (score.score, score.low, score.high)]
        chance = "" if score.chance is None else f"{100 * score.chance:.1f} %"
        found.add_row(name, *numbers, chance, str(score.n))
    return found
