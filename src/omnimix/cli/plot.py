"""`omnimix plot`: curves of runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of training runs.")],
    out: Annotated[
        Path, typer.Option(help="The drawing; its ending says how: .svg, .png or .pdf.")
    ] = Path("losses.svg"),
) -> None:
    """Draw the losses of training runs in one picture; validation is dashed."""
    from omnimix.train.plots import plot_losses

    plot_losses(runs, out)
    typer.echo(f"drawn in {out}")
