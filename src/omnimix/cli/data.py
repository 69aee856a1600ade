"""`omnimix data get` and `omnimix data prepare`: a benchmark's official files and index files over them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Fetch official files of benchmarks, and prepare index files of subsets.")


@app.command("get")
def get(
    name: Annotated[str, typer.Argument(help="A benchmark; omnimix evaluate --list names all.")],
    folder: Annotated[Path, typer.Argument(help="Where its files go.")],
    mirror: Annotated[
        str | None, typer.Option(help="Fetch MIRROR/FILE instead of the authors' addresses.")
    ] = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Addresses of one's own network too.")
    ] = False,
) -> None:
    """Fetch a benchmark's official files; the same command goes on where it was stopped."""
    from omnimix.cli.bars import bars
    from omnimix.evaluate.benchmark import named
    from omnimix.evaluate.getting import downloads, get as fetch, public

    spec = named(name)
    typer.echo(f"{spec.title}\nlicence: {spec.licence}\n{spec.home}")
    with bars() as step:
        said = fetch(downloads(spec, mirror), folder, step, None if allow_private else public)
    typer.echo("\n".join(said))


@app.command("prepare")
def prepare(
    name: Annotated[str, typer.Argument(help="A benchmark.")],
    folder: Annotated[Path, typer.Argument(help="The folder with its official files.")],
    out: Annotated[Path, typer.Argument(help="Where the index files go.")],
    slim: Annotated[int | None, typer.Option(help="Rows of each part of a subset.", min=1)] = None,
) -> None:
    """Write metadata-full.json and subsets of it, shuffled once, as arXiv 2402.07865 does."""
    from omnimix.evaluate.index import HASHED, prepare as made

    if name in HASHED:
        typer.echo(
            f"{name}: the published order depends on a hash of its process; this one is its own"
        )
    for path, count in made(name, folder, out, slim).items():
        typer.echo(f"{path}: {count} rows")
