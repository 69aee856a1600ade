"""`omnimix evaluate`: scores of a model on a benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnimix.errors import OmnimixError

if TYPE_CHECKING:
    from rich.table import Table

    from omnimix.evaluate.report import Report


def command(
    model: Annotated[str, typer.Argument(help="A shipped model's name, or a model folder.")],
    benchmark: Annotated[str, typer.Argument(help="scenes, for one.")],
    limit: Annotated[int, typer.Option(help="Questions of each task.")] = 500,
    swap_pictures: Annotated[
        bool, typer.Option("--swap-pictures", help="Ask about another question's pictures.")
    ] = False,
    tasks: Annotated[str | None, typer.Option(help="Some tasks: attribute,count.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report as JSON to a file.")] = None,
    batch_size: Annotated[int, typer.Option(help="Questions answered together.")] = 32,
    device: Annotated[str | None, typer.Option(help="cpu, cuda ...")] = None,
) -> None:
    """Score a model on held-out questions, with 95 % intervals."""
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    from omnimix.evaluate.report import evaluate
    from omnimix.generate.assistant import load
    from omnimix.registry import BENCHMARKS

    bench = BENCHMARKS.load(benchmark)()
    chosen = [word.strip() for word in tasks.split(",") if word.strip()] if tasks else None
    bench.check(chosen or ())
    if out is not None and not out.resolve().parent.is_dir():
        raise OmnimixError("the folder does not exist", where=str(out), hint="make it first")
    assistant = load(model, device)
    # The bar goes to stderr, so that the report alone is on stdout.
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bars = {}

        def step(task: str, done: int, total: int) -> None:
            if task not in bars:
                bars[task] = progress.add_task(task, total=total)
            progress.update(bars[task], completed=done)

        report = evaluate(
            assistant, bench, limit, swap_pictures, chosen, step, batch_size=max(batch_size, 1)
        )
    data = {**report.to_dict(), "model": model}
    if out is not None:
        out.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(data))
    else:
        Console(highlight=False).print(table(report, model))


def table(report: Report, model: str) -> Table:
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
