"""`omnimix convert`: another layout, proven on a probe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omnimix.cli import options
from omnimix.cli.guard import places_of, words_of


def command(
    source: Annotated[
        str, typer.Argument(help="A model's name, a model folder or a released checkpoint.")
    ],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    to: Annotated[str, typer.Option(help="native, or a family that can be written.")] = "native",
    part: options.Parts = None,
    word: options.Words = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Work adapters (LoRA) into the weights first.")
    ] = False,
    shards: Annotated[
        int | None,
        typer.Option(min=1, help="Files to cut the weights into, where the layout has shards."),
    ] = None,
) -> None:
    """Write a model in another layout and prove it: logits on a probe, recorded in certificate.json."""
    from omnimix.checkpoints.base import Parts
    from omnimix.convert.layouts import convert

    layout = {} if shards is None else {"shards": shards}
    checks = convert(
        source, out, to, Parts(places_of(part or ()), words_of(word or ())), merge, **layout
    )
    for check in checks:
        typer.echo(f"{check.stage}: largest difference {check.difference:.1e}")
    typer.echo(f"written: {out}")
