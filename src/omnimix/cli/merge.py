"""`omnimix merge`: a model whose adapters are worked into its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    source: Annotated[str, typer.Argument(help="The folder of a model with adapters (LoRA).")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
) -> None:
    """Work a model's adapters into its weights, and prove on a probe that it answers as before."""
    from omnimix.convert.layouts import convert

    for check in convert(source, out, merge=True):
        typer.echo(f"{check.stage}: largest difference {check.difference:.1e}")
    typer.echo(f"written: {out}")
