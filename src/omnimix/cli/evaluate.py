"""`omnimix evaluate`: scores of a model on a benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from omnimix.cli import official, options, tables
from omnimix.cli.bars import bars
from omnimix.cli.guard import say
from omnimix.disk import write_text
from omnimix.errors import OmnimixError

if TYPE_CHECKING:
    from rich.table import Table

    from omnimix.evaluate.records import Scored
    from omnimix.evaluate.report import Scores
    from omnimix.generate.assistant import Assistant


def _list(wanted: bool) -> None:
    """What `--list` prints: every benchmark and metric with a line about it."""
    if not wanted:
        return
    from omnimix.cli.show import wide
    from omnimix.evaluate.benchmark import table as benchmarks
    from omnimix.evaluate.papers import table as papers
    from omnimix.registry import BENCHMARKS, MEASURES

    shown = tables.table(("", "name", "what it measures"))
    for name, spec in sorted(benchmarks().items()):
        shown.add_row("--folder", name, f"{spec.title}; {spec.licence}")
    for name, paper in papers().items():
        shown.add_row("--folder", name, f"the table of arXiv {name}: {paper.title}")
    for kind, rows in (("benchmark", BENCHMARKS), ("metric", MEASURES)):
        for name in sorted(rows):
            about = (rows.load(name).__doc__ or "").strip().partition("\n")[0]
            shown.add_row(kind, name, about)
    wide().print(shown)
    raise typer.Exit


_MostTokens: TypeAlias = Annotated[
    int | None,
    typer.Option(
        help="With --data, the most tokens of an answer; default what the metric needs.", min=1
    ),
]


def command(
    model: options.Model,
    benchmark: Annotated[
        str | None, typer.Argument(help="A benchmark; --list names them.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Your own records instead: the last turn is what is right.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="How answers to --data are scored: exact, vqa, anls ...")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Questions of each task (500), or of --data (all).")
    ] = None,
    rows: Annotated[
        str, typer.Option("--slice", help="Some of the records of --data; -200: are the last 200.")
    ] = ":",
    media: options.Media = None,
    swap_pictures: Annotated[
        bool, typer.Option("--swap-pictures", help="Ask about another question's pictures.")
    ] = False,
    tasks: Annotated[str | None, typer.Option(help="Some tasks: attribute,count.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report as JSON to a file.")] = None,
    batch_size: Annotated[int, typer.Option(help="Questions answered together.", min=1)] = 32,
    max_new_tokens: _MostTokens = None,
    device: options.Device = None,
    feature_cache: options.FeatureCache = None,
    server: official.ServerUrl = None,
    _: Annotated[
        bool,
        typer.Option(
            "--list", callback=_list, is_eager=True, help="Name all benchmarks and metrics."
        ),
    ] = False,
) -> None:
    """Score a model on a benchmark or on your own records, with 95 % intervals.

    Ends with exit code 1 where records could not be asked; they are named and left out of the score.
    """
    if out is not None and not out.resolve().parent.is_dir():
        raise OmnimixError("the folder does not exist", where=str(out), hint="make it first")
    _one_of(benchmark, data, metric, tasks, max_new_tokens, media)
    opened = partial(official.opened, model, device, feature_cache, server)
    if data is not None:
        asked = (data, rows, media, str(metric), limit, swap_pictures, max_new_tokens, batch_size)
        scored = _file(opened, *asked)
        report = {**scored.to_dict(), "swapped": swap_pictures, "model": model}
        about = f"{model}, pictures swapped," if swap_pictures else model
        shown, failed = records_table(scored, about), scored.failed
    else:
        chosen = [word.strip() for word in tasks.split(",") if word.strip()] if tasks else None
        scores = _benchmark(opened, str(benchmark), limit, swap_pictures, chosen, batch_size)
        report, shown, failed = {**scores.to_dict(), "model": model}, table(scores, model), ()
    if out is not None:
        write_text(out, json.dumps(report, indent=2) + "\n")
    _print(report if as_json else shown)
    if failed:
        say(f"{len(failed)} records are not in the score; the first: {failed[0]}")
        raise typer.Exit(1)


def _print(report: dict[str, Any] | Table) -> None:
    from rich.console import Console

    if isinstance(report, dict):
        typer.echo(json.dumps(report))
    else:
        Console(highlight=False).print(report)


def _one_of(
    benchmark: str | None,
    data: Path | None,
    metric: str | None,
    tasks: str | None,
    max_new_tokens: int | None,
    media: list[str] | None,
) -> None:
    """Either a benchmark with its options or records with theirs."""
    if data is None:
        for option, given in (("--max-new-tokens", max_new_tokens), ("--media", media)):
            if benchmark is not None and given:
                raise OmnimixError(
                    f"{option} is a matter of --data; a benchmark brings its own",
                    hint="leave it out",
                )
        if benchmark is None or metric is not None:
            raise OmnimixError(
                "nothing says what the model is asked"
                if benchmark is None
                else "--metric is a matter of --data; a benchmark brings its own",
                hint="name a benchmark (--list), or give --data FILE --metric NAME",
            )
        return
    if metric is None:
        raise OmnimixError(
            "nothing says how the answers are scored",
            where=str(data),
            hint="for instance --metric exact; --list names all",
        )
    for option, given in (
        ("a benchmark", benchmark is not None),
        ("--tasks", tasks is not None),
    ):
        if given:
            raise OmnimixError(
                f"{option} does not go with --data", hint=f"leave {option} or --data out"
            )


def _benchmark(
    opened: Callable[[], Assistant],
    name: str,
    limit: int | None,
    swap: bool,
    tasks: list[str] | None,
    batch_size: int,
) -> Scores:
    from omnimix.evaluate.report import evaluate
    from omnimix.registry import BENCHMARKS

    if name not in BENCHMARKS and Path(name).is_file():
        raise OmnimixError(
            "this is a file of records",
            where=name,
            hint=f"ask it with --data {name} --metric exact",
        )
    from omnimix.evaluate.benchmark import table as official_ones
    from omnimix.evaluate.papers import table as papers

    if name in official_ones() or name in papers():
        raise OmnimixError(
            "nothing says where its official files lie", where=name, hint="name them: --folder DIR"
        )
    bench = BENCHMARKS.load(name)()
    bench.check(tasks or ())
    assistant = opened()
    with bars() as step:
        return evaluate(
            assistant, bench, 500 if limit is None else limit, swap, tasks, step, batch_size
        )


def _file(
    opened: Callable[[], Assistant],
    path: Path,
    rows: str,
    media: list[str] | None,
    name: str,
    limit: int | None,
    swap: bool,
    max_new_tokens: int | None,
    batch_size: int,
) -> Scored:
    from omnimix.evaluate.asking import Swapped
    from omnimix.evaluate.records import open_records, score_records
    from omnimix.generate.decoding import Options
    from omnimix.registry import MEASURES

    measure, source = MEASURES.load(name)(), open_records(path, rows, media or ())
    if swap:
        source = Swapped(source, min(source.length or 0, limit or source.length or 0))
    chosen = Options(max_new_tokens) if max_new_tokens is not None else None
    assistant = opened()
    with bars() as step:

        def progress(done: int, total: int) -> None:
            step(path.name, done, total)

        return score_records(assistant, source, measure, name, limit, batch_size, progress, chosen)


def records_table(scored: Scored, model: str) -> Table:
    """The score of a file to read."""
    interval = scored.interval()
    made = tables.table(
        [""],
        ("score", "low", "high", "records"),
        title=f"{model} by {scored.measure}",
        caption=_caption(scored),
    )
    bounds = ("", "") if interval is None else tuple(f"{value:.4f}" for value in interval)
    made.add_row("all", f"{scored.score.value:.4f}", *bounds, str(scored.n))
    for name, value in scored.score.groups:
        made.add_row(name, f"{value:.4f}")
    return made


def _caption(scored: Scored) -> str | None:
    said = [
        "no interval: the measure gives no score for each answer" if not scored.interval() else "",
        f"{scored.empty} answers were empty" if scored.empty else "",
        f"{len(scored.failed)} records could not be asked" if scored.failed else "",
    ]
    return "; ".join(filter(None, said)) or None


def table(report: Scores, model: str) -> Table:
    """The report to read."""
    swapped = ", pictures swapped" if report.swapped else ""
    found = tables.table(
        ["task"],
        ("score", "low", "high", "most frequent", "questions"),
        title=f"{model} on {report.benchmark}{swapped}",
        caption=f"95 % intervals; {report.seconds:.0f} s",
    )
    for name, score in report.tasks.items():
        numbers = [f"{100 * value:.1f} %" for value in (score.score, score.low, score.high)]
        chance = "" if score.chance is None else f"{100 * score.chance:.1f} %"
        found.add_row(name, *numbers, chance, str(score.n))
    return found
