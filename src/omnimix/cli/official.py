"""`omnimix evaluate MODEL NAME --folder DIR`, `omnimix score` and `omnimix compare`: official benchmarks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from omnimix.cli.guard import say
from omnimix.disk import write_text
from omnimix.errors import OmnimixError

if TYPE_CHECKING:
    from omnimix.evaluate.answers import BenchmarkResult
    from omnimix.evaluate.server import Server

Folder: TypeAlias = Annotated[
    Path | None, typer.Option(help="The folder with a benchmark's official files.")
]
Named: TypeAlias = Annotated[
    str | None, typer.Option("--benchmark", help="The benchmark, as an option.")
]
Answers: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="With --folder, where answers stay; the same command goes on there."),
]
Items: TypeAlias = Annotated[
    Path | None, typer.Option(help="Every item with its score: .jsonl or .parquet.")
]
Style: TypeAlias = Annotated[
    str, typer.Option("--prompt", help="With --folder, which of the benchmark's prompts.")
]
ServerUrl: TypeAlias = Annotated[
    str | None,
    typer.Option("--server", help="Ask MODEL of an OpenAI-compatible server: http://host:port/v1."),
]
JudgeUrl: TypeAlias = Annotated[
    str | None, typer.Option("--judge", help="The server of a judge: http://host:port/v1.")
]
JudgeModel: TypeAlias = Annotated[str, typer.Option(help="The judge's name there.")]
Overwrite: TypeAlias = Annotated[bool, typer.Option("--overwrite", help="Begin answers anew.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
Out: TypeAlias = Annotated[Path | None, typer.Option(help="Write the report as JSON to a file.")]


@dataclass(frozen=True)
class Asked:
    """What `evaluate` was told about an official benchmark."""

    folder: Path
    name: str
    answers: Path | None
    items: Path | None
    style: str
    limit: int | None
    rows: str
    batch_size: int
    overwrite: bool
    judge: Server | None


def evaluate(asked: Asked, opened: Any) -> BenchmarkResult:
    """Answer, score, and have judged what needs a judge.

    Args:
        opened: gives the assistant, once it is known that the files are there.
    """
    from omnimix.cli.evaluate import bars
    from omnimix.evaluate.answers import run, write_items
    from omnimix.evaluate.benchmark import named, opened as opened_benchmark
    from omnimix.evaluate.judges import judged

    spec = named(asked.name)
    opened_benchmark(asked.name, asked.folder, asked.style)
    if spec.judge is not None and asked.answers is None:
        raise OmnimixError("judged answers have to stay", hint="say where: --answers FILE.jsonl")
    with bars() as step:
        found = run(
            opened(),
            asked.name,
            asked.folder,
            asked.answers,
            asked.style,
            asked.batch_size,
            asked.limit,
            asked.overwrite,
            lambda done, total: step(asked.name, done, total),
            rows=asked.rows,
        )
    if spec.judge is not None and asked.answers is not None:
        found = judged(found, spec, asked.answers, asked.judge)
    if asked.items is not None:
        write_items(found, asked.items)
    return found


def show(result: BenchmarkResult, title: str, as_json: bool, out: Path | None) -> None:
    """Print a result, write it, and end with exit code 1 where rows are not in it or nothing was scored."""
    from rich.console import Console

    report = {**result.to_dict(), "model": title}
    if out is not None:
        write_text(out, json.dumps(report, indent=2) + "\n")
    if as_json:
        typer.echo(json.dumps(report))
    else:
        Console(highlight=False).print(_table(report, title))
    if result.failed:
        say(f"{len(result.failed)} rows are not in the score; the first: {result.failed[0]}")
    if result.skipped:
        say(f"no score: {result.skipped}")
    if result.failed or result.skipped:
        raise typer.Exit(1)


def _table(report: dict[str, Any], title: str) -> Any:
    from rich import box
    from rich.table import Table

    pinned = report["pinned"]
    versions = ", ".join(str(pinned.get(word, "")) for word in ("prompt", "parser", "measure"))
    counts = f"{report['n']} answers on {report['pictures']} pictures, {report['empty']} empty, "
    counts += f"{report['unread']} not understood, {report['failed']} failed"
    made = Table(
        box=box.SIMPLE_HEAD,
        title=f"{title} on {report['benchmark']} by {report['measure']}",
        caption=f"{counts}; {versions}",
    )
    for column in ("", "score", "low", "high"):
        made.add_column(column, justify="left" if not column else "right")
    numbers = (report.get(word) for word in ("score", "low", "high"))
    made.add_row("all", *("" if one is None else f"{one:.4f}" for one in numbers))
    for part in ("groups", "numbers"):
        for name, value in report.get(part, {}).items():
            made.add_row(name, f"{value:.4f}", "", "")
    return made


def score(
    answers: Annotated[Path, typer.Argument(help="What evaluate --answers wrote.")],
    metric: Annotated[str | None, typer.Option(help="Another measure.")] = None,
    items: Items = None,
    judge: JudgeUrl = None,
    judge_model: JudgeModel = "",
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """Score stored answers again, without the model and without the benchmark's files."""
    from omnimix.evaluate.answers import score as scored, write_items
    from omnimix.evaluate.benchmark import named
    from omnimix.evaluate.judges import judged

    found = scored(answers, None, metric)
    spec = named(found.benchmark)
    if spec.judge is not None and metric is None:
        found = judged(found, spec, answers, judge_at(judge, judge_model))
    if items is not None:
        write_items(found, items)
    show(found, str(found.pinned.get("model", answers.name)), as_json, out)


def judge_at(url: str | None, model: str) -> Server | None:
    """The judge, where one is named.

    Raises:
        OmnimixError: an address without a model's name.
    """
    from omnimix.evaluate.server import Server, checked

    if url is None:
        return None
    if not model:
        raise OmnimixError("nothing says which model judges", hint="name it: --judge-model NAME")
    return Server(checked(url), model)


def compare(
    a: Annotated[Path, typer.Argument(help="Answers of the one, written by evaluate --answers.")],
    b: Annotated[Path, typer.Argument(help="Answers of the other, to the same benchmark.")],
    metric: Annotated[
        str | None, typer.Option(help="Another measure than the benchmark's.")
    ] = None,
    folder: Folder = None,
    page: Annotated[
        Path | None, typer.Option(help="A page of the rows that changed: .html")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether B is better than A: paired over the same questions, with the rows that changed."""
    from omnimix.evaluate import compare as comparing
    from omnimix.evaluate.answers import score as scored

    found = comparing.compare(scored(a, None, metric), scored(b, None, metric))
    if page is not None:
        write_text(page, comparing.page(found, (a.stem, b.stem), folder))
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
        return
    typer.echo(
        f"{found.n} questions: A {found.a:.4f}, B {found.b:.4f}; B - A {found.difference:+.4f} "
        f"(95 %: {found.low:+.4f} to {found.high:+.4f})"
    )
    typer.echo(f"B better on {found.better}, worse on {found.worse}; McNemar p = {found.p:.3g}")
    if found.alone:
        typer.echo(f"{found.alone} answers stand in one file alone and are not compared")
