"""`omnimix train`: run the stages of a training file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    file: Annotated[Path, typer.Argument(help="A training file, recipes/nano.train.yaml for one.")],
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a word.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on where the folder's run stopped.")] = True,
    out: Annotated[Path | None, typer.Option(help="The run's folder.")] = None,
) -> None:
    """Train a model as a file says."""
    from omnimix.train.run import train

    train(file, override or [], out, resume)
