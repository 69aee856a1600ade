"""`omnimix check`: look through datasets before anything is paid for."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnimix.cli import options
from omnimix.disk import write_text, writing
from omnimix.errors import OmnimixError

if TYPE_CHECKING:
    from omnimix.data.check import Checker, Survey


def command(
    model: Annotated[
        str,
        typer.Argument(metavar="TRAINING | RECIPE", help="A training file, or a recipe or model."),
    ],
    data: Annotated[
        str | None,
        typer.Argument(help="With a recipe: a file or folder of rows.", show_default=False),
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a word.")
    ] = None,
    media: options.Media = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("check"),
    fix: Annotated[
        bool, typer.Option("--fix", help="Write a cleaned copy, and why each row was changed.")
    ] = False,
    rows: Annotated[int | None, typer.Option(min=1, help="Only the first rows of each.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes beside this one; one a core by default.")
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="A fault that fails nothing.")
    ] = None,
) -> None:
    """Check every row: that it opens, fits, teaches something, and points where it seems to.

    Writes report.json and report.html. Exit code 1 where a row fails.
    """
    from omnimix.cli.show import wide
    from omnimix.data.check import mend as mending
    from omnimix.data.check.style import style_faults
    from omnimix.data.check.survey import survey

    checks = list(_checks(model, data, override or [], tuple(media or ())))
    _made(out)
    console, found = wide(), []
    processes = (os.cpu_count() or 1) if workers is None else workers
    for name, check in checks:
        with _bar(name) as progress:
            done = survey(check, name, rows, processes, allow or (), progress)
        made = check.processor
        done.style = list(style_faults(made.recipe.template, made.weave.tokenizer))
        found.append((done, check))
    _write(out, found)
    console.print(_table([one for one, _ in found]))
    for done, _ in found:
        _tell(done)
    typer.echo(f"report: {out / 'report.html'} and report.json")
    for done, check in found if fix else ():
        if done.failed:
            place = _beside(check) / mending.of(check.source)
            file, changes = mending.mend(check, done.failed, place)
            typer.echo(
                f"{file}: {len(changes)} rows changed or left out, see {file.stem}.changes.jsonl"
            )
    if not all(done.fine for done, _ in found):
        raise typer.Exit(1)


def _made(out: Path) -> None:
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)


def _write(out: Path, found: Sequence[tuple[Survey, Checker]]) -> None:
    from omnimix.data.check import page

    report = json.dumps({"datasets": [one.data() for one, _ in found]}, indent=2)
    write_text(out / "report.json", report + "\n")
    write_text(out / "report.html", page.page(found))


def _beside(check: Checker) -> Path:
    """Where a cleaned copy goes: beside the original, so that paths in its rows stay right."""
    rows = getattr(check.source, "rows", None)
    return Path(getattr(rows, "folder", Path()))


def _checks(
    model: str, data: str | None, overrides: Sequence[str], media: tuple[str, ...]
) -> Iterator[tuple[str, Checker]]:
    """What is to be checked: the datasets of all stages, or one for a recipe."""
    from omnimix.compose.processor import Processor
    from omnimix.data.check import Checker

    if data is not None:
        from omnimix.cli.show import of_model
        from omnimix.registry import DATASETS

        place = Path(model)
        folder = place if place.is_dir() else place.parent
        processor = Processor.from_recipe(of_model(model, overrides), folder)
        kind = data if data in DATASETS else "rows"
        words: dict[str, Any] = {"kind": kind}
        if data not in DATASETS:
            words |= {"path": data, "media": media or None}
        yield data, Checker(DATASETS.load(kind).model_validate(words).open(Path()), processor)
        return
    from omnimix.train import settings

    training, folder = settings.load(model, overrides)
    recipe, beside = training.model(folder)
    processor = Processor.from_recipe(recipe, beside)
    seen: set[str] = set()
    for stage in training.stages:
        styled = processor.with_template(stage.template) if stage.template else processor
        parts = [(part.data, part.apart) for part in stage.mixture]
        if stage.validate is not None:
            parts.append((stage.validate.data, False))
        for spec, apart in parts:
            if "slice" in type(spec).model_fields:  # a file that is shared out is looked at whole
                spec = spec.model_copy(update={"slice": ":"})
            words = {"data": spec.dump(), "style": styled.recipe.template.name}
            key = json.dumps([words, stage.max_length, apart], sort_keys=True, default=str)
            if key in seen:  # the same rows in the same style, in an earlier stage
                continue
            seen.add(key)
            name = f"{stage.name}: {getattr(spec, 'path', spec.kind)}"
            yield name, Checker(spec.open(folder), styled, stage.max_length, apart)


EVERY = 20
"""Seconds between two lines about the progress where there is no terminal."""


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the rate on a terminal, elsewhere a plain line now and then."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn())
    rate = TextColumn("{task.fields[rate]}")
    with Progress(
        *columns, rate, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(name, total=None, rate="")

        begun = told_at = time.monotonic()

        def progress(done: int, total: int) -> None:
            nonlocal told_at
            now = time.monotonic()
            if not console.is_terminal and now - told_at > EVERY:
                told_at = now
                rate = done / (now - begun)
                typer.echo(f"{name}: {done:,} of {total:,} rows, {rate:,.0f} rows/s", err=True)
            speed = bar.tasks[0].speed
            told = f"{speed:,.0f} rows/s" if speed else ""
            bar.update(task, completed=done, total=total, rate=told)

        yield progress


def _table(found: Sequence[Survey]) -> object:
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_edge=False)
    table.add_column("dataset")
    for name in ("rows", "with faults", "tokens", "longest", "learned", "rows/s"):
        table.add_column(name, justify="right")
    for done in found:
        data = done.data()
        table.add_row(
            escape(done.name),
            f"{done.rows:,}",
            f"{len(done.failed):,}",
            f"{data['tokens'].get('sum', 0):,}",
            f"{data['tokens'].get('most', 0):,}",
            f"{data['learned'].get('sum', 0):,}",
            f"{data['rows_per_second']:,.0f}",
        )
    return table


TOLD = 20
"""Faults that are printed of a dataset; the report has all."""


def _tell(done: Survey) -> None:
    for said in done.style:
        typer.echo(f"{done.name}: {said}", err=True)
    for note, count in done.notes.items():
        typer.echo(f"{done.name}: {count} rows: {_shown(note)}", err=True)
    for row in done.failed[:TOLD]:
        for fault in row.faults:
            said = fault.said if row.where in fault.said else f"{row.where}: {fault.said}"
            typer.echo(f"{fault.code}: {_shown(said)}", err=True)
    if len(done.failed) > TOLD:
        typer.echo(f"... and {len(done.failed) - TOLD} more rows, see the report", err=True)
    if not done.rows:
        raise OmnimixError("no row was looked at", where=done.name)


def _shown(text: str) -> str:
    """A sentence on one line, whatever a row holds."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
