"""`omnimix sweep`: recipes along named axes, trained and asked alike, and one report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from omnimix.errors import OmnimixError


def command(
    axes: Annotated[Path, typer.Argument(help="A sweep's file, scenes.sweep.yaml for one.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the sweep; runs/NAME by default.")
    ] = None,
) -> None:
    """Train a recipe along axes and compare the models. The same command goes on; finished cells are kept."""
    from omnimix.cli import sweeping
    from omnimix.disk import write_text
    from omnimix.train.settings import FOLDER

    file = axes if axes.is_file() or not (FOLDER / axes.name).is_file() else FOLDER / axes.name
    spec = sweeping.load(file)
    place = out or Path("runs") / spec.name
    place.mkdir(parents=True, exist_ok=True)
    shipped = file.parent == FOLDER
    found, failed = sweeping.run(spec, Path.cwd() if shipped else file.parent, place, typer.echo)
    rows = sweeping.report(found)
    write_text(place / "report.json", json.dumps(rows, indent=2) + "\n")
    write_text(place / "report.md", sweeping.markdown(spec, rows, failed))
    sweeping.plots(rows, place)
    typer.echo(f"the report lies in {place / 'report.md'}")
    if failed:
        name, why = next(iter(failed.items()))
        raise OmnimixError(
            f"{len(failed)} of {len(found) + len(failed)} cells failed, the first of them {name}: {why.rstrip('.')}",
            hint="the report is of the others; the same command tries these again",
        )
