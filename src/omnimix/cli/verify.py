"""`omnimix verify`: golden numbers, stage by stage."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnimix.cli import tables

if TYPE_CHECKING:
    from rich.table import Table

    from omnimix.convert.report import Check, Verdict


def command(
    folder: Annotated[
        Path,
        typer.Argument(help="A folder of `omnimix convert`, or a golden case of the checkout."),
    ],
    everything: Annotated[
        bool, typer.Option("--all", help="Go on behind the first stage that differs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Compare a case stage by stage with its golden numbers.

    Exit code 0 where everything agrees, 1 where a stage differs (it is named), 2 where nothing can be
    compared.
    """
    from omnimix.cli.show import wide
    from omnimix.convert.verifying import verify

    report = verify(folder, stop=not everything)
    if as_json:
        typer.echo(json.dumps(as_data(report), indent=2))
    else:
        console = wide()
        console.print(table(report))
        for note in report.notes:
            console.print(f"note: {note}", style="dim", markup=False)
        console.print(verdict(report), markup=False)
    if not report.passed:
        raise typer.Exit(1)


def verdict(report: Verdict) -> str:
    """One line: whether it agrees, else the first stage that differs."""
    failed = report.failed
    if failed is not None and failed.stopped:
        return f"{report.name} stopped at the stage {failed.stage!r}, {failed.what}: {failed.note}"
    if failed is not None:
        note = f": {failed.note}" if failed.note else ""
        return (
            f"{report.name} differs at the stage {failed.stage!r}, {failed.what}: difference "
            f"{shown(failed.difference)}, allowed {shown(failed.tolerance)}{note}"
        )
    if not report.checks:
        return f"{report.name}: there was nothing to compare"
    return f"{report.name} agrees: {len(report.checks)} comparisons in {len(report.lines())} stages"


def table(report: Verdict) -> Table:
    """One row a stage."""
    numbers = ("compared", "largest difference", "tolerance")
    found = tables.table(["stage"], numbers, title=report.name)
    found.add_column("at")
    found.add_column("")
    for line in report.lines():
        worst = line.worst
        mark = "[green]agrees[/]" if line.passed else "[bold red]DIFFERS[/]"
        mark = "[bold red]STOPPED[/]" if worst.stopped else mark
        where = worst.what if worst.difference else ""
        numbers = (str(line.compared), shown(worst.difference), shown(worst.tolerance))
        found.add_row(line.stage, *numbers, where, mark)
    return found


def shown(value: float) -> str:
    """A difference for people: 0, 3.1e-06, 12 (places)."""
    if not math.isfinite(value):
        return "beyond measure"
    return f"{value:.0f}" if value == int(value) and value < 1e6 else f"{value:.1e}"


def as_data(report: Verdict) -> dict[str, Any]:
    """The same for machines; a difference beyond measure is null."""
    failed = report.failed
    return {
        "case": report.name,
        "passed": report.passed,
        "differs_at": None if failed is None else failed.stage,
        "stages": [
            {"stage": line.stage, "compared": line.compared, **_check(line.worst)}
            for line in report.lines()
        ],
        "unread": report.unread,
        "notes": report.notes,
    }


def _check(check: Check) -> dict[str, Any]:
    apart = check.difference if math.isfinite(check.difference) else None
    return {
        "passed": check.passed,
        "difference": apart,
        "tolerance": check.tolerance,
        "stopped": check.stopped,
        "at": check.what,
        "note": check.note,
    }
