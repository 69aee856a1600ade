"""The table of a paper by one command, and models ranked over benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from omnimix.cli.guard import say
from omnimix.cli.tables import table
from omnimix.disk import write_text
from omnimix.errors import OmnimixError

if TYPE_CHECKING:
    from omnimix.evaluate.answers import BenchmarkResult
    from omnimix.evaluate.server import Server


def folder_for(answers: Path | None, **others: Any) -> Path:
    """Where a table's answers go; options that mean nothing for it are refused."""
    if answers is None or answers.suffix == ".jsonl":
        raise OmnimixError("a table's answers lie in a folder", hint="name it: --answers FOLDER")
    for option, given in others.items():
        if given is not None:
            raise OmnimixError(
                f"--{option} does not go with a paper's table", hint="ask a benchmark by its name"
            )
    return answers


def ask(
    name: str,
    assistant: Any,
    given: dict[str, Any],
    folder: Path,
    answers: Path,
    overwrite: bool,
    judge: Server | None,
) -> None:
    """Ask all benchmarks of a paper and print its table; exit code 1 where something is missing in it.

    Args:
        name: the paper's number at arXiv.
        given: the options of `evaluate`.
    """
    from omnimix.cli.bars import bars
    from omnimix.evaluate.papers import run_paper
    from omnimix.parallel.process_group import join

    with bars() as step:
        words = (given["batch_size"], given["limit"], overwrite, step, judge)
        found, missing = run_paper(assistant, name, folder, answers, *words)
    if join().rank == 0:
        _show(name, found, missing, given)


def _show(
    name: str, found: dict[str, BenchmarkResult], missing: dict[str, str], given: dict[str, Any]
) -> None:
    from rich.console import Console

    from omnimix.evaluate.papers import table

    reports = {one: result.to_dict() for one, result in found.items()}
    whole = {"paper": name, "model": given["model"], "benchmarks": reports, "missing": missing}
    if given["out"] is not None:
        write_text(given["out"], json.dumps(whole, indent=2) + "\n")
    if given["as_json"]:
        typer.echo(json.dumps(whole))
    else:
        Console(highlight=False).print(_table(name, reports, given["model"]))
    for one, report in reports.items():
        if report["failed"]:
            say(
                f"{one}: {report['failed']} rows are not in the score; the first: {report['failures'][0]}"
            )
        if "skipped" in report:
            say(f"{one}: no score: {report['skipped']}")
        if table()[name].rows[one].rank and "ranked" not in report["pinned"]:
            say(
                f"{one}: a server writes its answers; the paper ranks them, so that the number is another"
            )
    for one, why in missing.items():
        say(f"{one}: not asked: {why}")
    if missing or any(report["failed"] or "skipped" in report for report in reports.values()):
        raise typer.Exit(1)


def _table(name: str, reports: dict[str, dict[str, Any]], model: str) -> Any:
    made = table(
        ["benchmark"],
        ("score", "low", "high", "n", "empty", "unread", "failed"),
        title=f"{Path(model).name}: the table of arXiv {name}",
        caption="95 % intervals over pictures; n answers; unread: nothing was found in them; failed: not asked, not in the score",
    )
    for one, report in reports.items():
        words = ("score", "low", "high")
        numbers = ("" if (x := report.get(word)) is None else f"{x:.4f}" for word in words)
        counts = (str(report[word]) for word in ("n", "empty", "unread", "failed"))
        made.add_row(one, *numbers, *counts)
        for group, value in report.get("groups", {}).items():
            made.add_row(f"  {group}", f"{value:.4f}")
    return made


def z_table(folders: list[Path], only: str | None, as_json: bool) -> None:
    """Print models by their mean z-score over the benchmarks that all of them answered."""
    from omnimix.evaluate.answers import score
    from omnimix.evaluate.compare import z_table as z_scores

    chosen = _chosen(only)
    scores: dict[str, dict[str, float]] = {}
    for folder in folders:
        files = sorted(folder.glob("*.jsonl.run.json"))
        if not files:
            raise OmnimixError(
                "no answers lie there", where=str(folder), hint="name folders of evaluate --answers"
            )
        own = scores.setdefault(str(folder), {})
        for file in files:
            result = score(file.with_name(file.name.removesuffix(".run.json")))
            if not result.skipped and (not chosen or result.benchmark in chosen):
                own[result.benchmark] = result.score.value
    means, each = z_scores(scores)
    if as_json:
        typer.echo(json.dumps({"z": means, "each": each, "scores": scores}))
        return
    _print_z(means, each, scores)


def _chosen(only: str | None) -> tuple[str, ...]:
    from omnimix.evaluate.papers import table as listed

    papers = listed()
    if only in papers:
        return papers[only].z or tuple(papers[only].rows)
    return tuple(word.strip() for word in (only or "").split(",") if word.strip())


def _print_z(
    means: dict[str, float], each: dict[str, dict[str, float]], scores: dict[str, dict[str, float]]
) -> None:
    from rich.console import Console

    models = sorted(means, key=means.__getitem__, reverse=True)
    names = [Path(model).name for model in models]
    made = table([""], names, caption="scores, in brackets their z over these models")
    made.add_row("mean z", *(f"{means[model]:+.3f}" for model in models), style="bold")
    names = list(next(iter(each.values())))
    for name in names:
        cells = (f"{scores[model][name]:.4f} ({each[model][name]:+.2f})" for model in models)
        made.add_row(name, *cells)
    Console(highlight=False).print(made)
    left = sorted({name for own in scores.values() for name in own} - set(names))
    if left:
        say(f"not in the table, since some model has no answers to it: {', '.join(left)}")
