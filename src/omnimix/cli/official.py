"""`omnimix evaluate MODEL NAME --folder DIR`, `omnimix score` and `omnimix compare`: official benchmarks."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from omnimix.cli import papers
from omnimix.cli.guard import say
from omnimix.cli.tables import table
from omnimix.disk import write_text
from omnimix.errors import OmnimixError

if TYPE_CHECKING:
    from omnimix.evaluate.answers import BenchmarkResult
    from omnimix.evaluate.benchmark import BenchmarkSpec
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
JudgePrompt: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="The judge's prompt, with {question}, {reference} and {answer} in it. Default: our own."
    ),
]
Overwrite: TypeAlias = Annotated[bool, typer.Option("--overwrite", help="Begin answers anew.")]
Index: TypeAlias = Annotated[
    Path | None, typer.Option(help="With --folder, the rows of an index file of data prepare.")
]
Rank: TypeAlias = Annotated[
    Literal["sum", "mean"] | None,
    typer.Option(
        help="With --folder, take the likeliest choice: sum or mean over its tokens. Default: write."
    ),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
Out: TypeAlias = Annotated[Path | None, typer.Option(help="Write the report as JSON to a file.")]


def opened(
    model: str, device: str | None, feature_cache: Path | None, server: str | None = None
) -> Any:
    """The assistant, or the server that stands in its place."""
    from omnimix.evaluate.server import Server, checked
    from omnimix.generate.assistant import load

    if server is not None:
        return Server(checked(server), model)
    assistant = load(model, device)
    if feature_cache is not None:
        assistant.keep_features(feature_cache)
    return assistant


def from_files(
    given: dict[str, Any],
    folder: Folder = None,
    named: Named = None,
    answers: Answers = None,
    items: Items = None,
    style: Style = "default",
    judge: JudgeUrl = None,
    judge_model: JudgeModel = "",
    judge_prompt: JudgePrompt = None,
    overwrite: Overwrite = False,
    index: Index = None,
    rank: Rank = None,
) -> None:
    """Answer a benchmark's official files, score, and have judged what needs a judge.

    Args:
        given: the other options of `evaluate`.
    """
    from omnimix.cli.bars import bars
    from omnimix.evaluate.answers import run
    from omnimix.evaluate.judges import judged
    from omnimix.evaluate.papers import table as paper_table
    from omnimix.evaluate.written import write_items
    from omnimix.parallel.process_group import join

    assert folder is not None
    name = _name(given, named)
    words = (given[word] for word in ("model", "device", "feature_cache", "server"))
    group = join()
    if name in paper_table():
        others = {"items": items, "index": index, "rank": rank, "judge-prompt": judge_prompt}
        place = papers.folder_for(answers, **others)
        more = (folder, place, overwrite, judge_at(judge, judge_model))
        return papers.ask(name, opened(*words), given, *more)
    spec = _asked(name, folder, style, answers, judge_prompt)
    judging, assistant = judge_at(judge, judge_model), opened(*words)
    with bars() as step:
        found = run(
            assistant,
            name,
            folder,
            answers,
            style,
            given["batch_size"],
            given["limit"],
            overwrite,
            lambda done, total: step(name, done, total),
            rows=given["rows"],
            index=index,
            rank=rank,
        )
    if group.rank:  # the first of several processes says what came of it
        return
    if spec.judge is not None and answers is not None:
        found = judged(found, spec, answers, judging)
    if items is not None:
        write_items(found, items)
    show(found, given["model"], given["as_json"], given["out"])


def _asked(
    name: str, folder: Path, style: str, answers: Path | None, judge_prompt: Path | None
) -> BenchmarkSpec:
    """The benchmark, after all that can be wrong about it before a model is loaded."""
    from omnimix.evaluate.benchmark import opened as official_rows
    from omnimix.evaluate.judges import prompted

    spec, _ = official_rows(name, folder, style)
    if spec.judge is not None and answers is None:
        raise OmnimixError("judged answers have to stay", hint="say where: --answers FILE.jsonl")
    return spec if judge_prompt is None else prompted(spec, judge_prompt)


def _name(given: dict[str, Any], named: str | None) -> str:
    """Which benchmark, where the other options go with official files."""
    for option in ("data", "metric", "tasks", "swap_pictures", "max_new_tokens", "media"):
        if given.get(option):
            shown = "--" + option.replace("_", "-")
            raise OmnimixError(f"{shown} does not go with --folder", hint="leave one of them out")
    name = named or given["benchmark"]
    if name is None:
        raise OmnimixError("nothing says which benchmark it is", hint="name it; --list names all")
    return str(name)


def with_files(command: Callable[..., None]) -> Callable[..., None]:
    """`evaluate` with the options of official files beside its own; they mean something with `--folder` alone."""
    own, more = (inspect.signature(one, eval_str=True).parameters for one in (command, from_files))
    added = [one for one in more.values() if one.name != "given"]

    @functools.wraps(command)
    def joined(**words: Any) -> None:
        files = {one.name: words.pop(one.name) for one in added}
        if files["folder"] is not None:
            return from_files(words, **files)
        odd = [one.name for one in added if files[one.name] != one.default and one.name != "named"]
        if odd:
            raise OmnimixError(
                f"--{odd[0].replace('_', '-')} goes with --folder alone", hint="name it"
            )
        words["benchmark"] = files["named"] or words["benchmark"]
        return command(**words)

    whole = [*own.values(), *added]
    joined.__signature__ = inspect.Signature(whole)  # type: ignore[attr-defined]
    joined.__annotations__ = {one.name: one.annotation for one in whole}
    del joined.__wrapped__
    return joined


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
    pinned = report["pinned"]
    versions = ", ".join(str(pinned.get(word, "")) for word in ("prompt", "parser", "measure"))
    counts = f"{report['n']} answers on {report['pictures']} pictures, {report['empty']} empty, "
    counts += f"{report['unread']} not understood, {report['failed']} failed"
    counts = "; ".join((counts, *report.get("notes", ())))
    made = table(
        [""],
        ("score", "low", "high"),
        title=f"{title} on {report['benchmark']} by {report['measure']}",
        caption=f"{counts}; {versions}",
    )
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
    export: Annotated[
        Path | None, typer.Option(help="Answers in the form of the official server, as JSON.")
    ] = None,
    judge: JudgeUrl = None,
    judge_model: JudgeModel = "",
    judge_prompt: JudgePrompt = None,
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """Score stored answers again, without the model and without the benchmark's files."""
    from omnimix.evaluate.answers import score as scored
    from omnimix.evaluate.benchmark import named
    from omnimix.evaluate.judges import judged, prompted
    from omnimix.evaluate.written import exported, write_items

    for option, said in (("judge", judge), ("judge-prompt", judge_prompt)):
        if metric is not None and said is not None:
            raise OmnimixError(
                f"--{option} does not go with --metric", hint="leave one of them out"
            )
    found = scored(answers, None, metric)
    spec = named(found.benchmark)
    spec = spec if judge_prompt is None else prompted(spec, judge_prompt)
    if export is not None:
        write_text(export, json.dumps(exported(found, spec.export)) + "\n")
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
    answers: Annotated[
        list[Path],
        typer.Argument(
            help="Two files of evaluate --answers, or with --z-table a folder of them for each model."
        ),
    ],
    metric: Annotated[
        str | None, typer.Option(help="Another measure than the benchmark's.")
    ] = None,
    folder: Folder = None,
    page: Annotated[
        Path | None, typer.Option(help="A page of the rows that changed: .html")
    ] = None,
    z_table: Annotated[
        bool, typer.Option("--z-table", help="Rank models by their mean z-score over benchmarks.")
    ] = False,
    only: Annotated[
        str | None, typer.Option(help="With --z-table, these benchmarks, or a paper's: 2402.07865.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether B is better than A: paired over the same questions, with the rows that changed."""
    from omnimix.evaluate import compare as comparing
    from omnimix.evaluate.answers import score as scored

    if z_table:
        return papers.z_table(answers, only, as_json)
    if len(answers) != 2:
        raise OmnimixError(
            f"two files are compared, not {len(answers)}", hint="for more models: --z-table"
        )
    a, b = answers
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
