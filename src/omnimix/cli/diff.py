"""`omnimix diff`: where two models begin to differ on one question."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omnimix.cli import options


def command(
    a: Annotated[str, typer.Argument(help="A model, as for chat.")],
    b: Annotated[str, typer.Argument(help="Another, or the same with --dtype-b.")],
    sample: Annotated[
        Path, typer.Option(help="A file of records, of which one is asked; or a picture.")
    ],
    row: Annotated[int, typer.Option(help="Which record, from 1.", min=1)] = 1,
    question: Annotated[str, typer.Option(help="What is asked about a picture.")] = "What is this?",
    dtype_a: Annotated[str | None, typer.Option(help="float32, bfloat16 ...")] = None,
    dtype_b: Annotated[str | None, typer.Option(help="float32, bfloat16 ...")] = None,
    tolerance: Annotated[
        float, typer.Option(help="Share of a stage's largest number that is no difference.")
    ] = 1e-3,
    device: options.Device = None,
) -> None:
    """Compare prompt, ids, pixels, features, embeddings, logits and answer; exit code 1 where they differ."""
    import torch

    from omnimix.errors import OmnimixError
    from omnimix.evaluate.asking import question_of
    from omnimix.evaluate.differ import differences, first_of_all
    from omnimix.evaluate.records import open_records
    from omnimix.generate.assistant import load
    from omnimix.types import Media, Sample, Turn

    kinds = [getattr(torch, name, None) if name else None for name in (dtype_a, dtype_b)]
    for name, kind in zip((dtype_a, dtype_b), kinds, strict=True):
        if name and not isinstance(kind, torch.dtype):
            raise OmnimixError(f"there is no type {name!r}", hint="float32, bfloat16 or float16")
    if sample.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"):
        asked = Sample((Turn("user", (Media.image(sample), question)),), sample.name)
    else:
        source = open_records(sample)
        if row > (source.length or 0):
            raise OmnimixError(f"there are {source.length} records", where=str(sample))
        asked = question_of(source[row - 1])
    found = differences(load(a, device, kinds[0]), load(b, device, kinds[1]), asked, tolerance)
    for one in found:
        size = "" if one.largest is None else f"largest difference {one.largest:.3g}"
        state = "same" if one.same else "DIFFERS"
        typer.echo(f"{one.stage:<11}{state:<9}{' '.join(filter(None, (size, one.said)))}")
    first = first_of_all(found)
    if first is not None:
        typer.echo(f"first to differ: {first.stage}")
        raise typer.Exit(1)
