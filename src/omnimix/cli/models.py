"""`omnimix models`: what ships, and what others have released."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnimix.cli import tables
from omnimix.cli.counts_written import COUNTS, written

if TYPE_CHECKING:
    from rich.table import Table

PACKAGE = Path(__file__).parent.parent


def command(
    family: Annotated[str | None, typer.Option(help="Released models of one family alone.")] = None,
    grep: Annotated[
        str | None, typer.Option(help="Only those with this text in their description.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the models and recipes that ship, and the released models that can be loaded by id."""
    own = [] if family else [row for row in rows_of() if _has(row, grep)]
    released = released_rows(family, grep)
    if as_json:
        typer.echo(json.dumps([*own, *released], indent=2, ensure_ascii=False))
        return
    from omnimix.cli.show import wide

    console = wide()
    if own:
        console.print(_own_table(own))
    if released:
        console.print(_released_table(released))
    if not own and not released:
        typer.echo(f"no model has {grep!r} in its description")


def _has(row: dict[str, Any], grep: str | None) -> bool:
    return not grep or grep.lower() in " ".join(map(str, row.values())).lower()


def rows_of() -> list[dict[str, Any]]:
    """One row a model or recipe that ships; those with weights first. Reads files, builds nothing."""
    from omnimix.config import read_yaml

    counts = written()
    shipped = {path.parent.name: path for path in sorted(PACKAGE.glob("models/*/recipe.yaml"))}
    recipes = {p.stem: p for p in sorted(PACKAGE.glob("recipes/*.yaml")) if "." not in p.stem}
    return [
        {
            "name": name,
            "about": str(read_yaml(path).get("about", "")),
            "weights": name in shipped,
            "parameters": counts.get(name, {}).get("parameters"),
            "tokens": counts.get(name, {}).get("tokens"),
        }
        for name, path in {
            **shipped,
            **{n: p for n, p in recipes.items() if n not in shipped},
        }.items()
    ]


def released_rows(family: str | None = None, grep: str | None = None) -> list[dict[str, Any]]:
    """One row a released model."""
    from omnimix.checkpoints import releases

    return [
        {**releases.describe(release.id), "name": release.id, "title": release.title}
        for release in releases.releases(family, grep)
    ]


def counted(name: str) -> dict[str, Any]:
    """What `COUNTS` holds of a recipe that ships, counted now."""
    from omnimix.cli.parts import count
    from omnimix.cli.show import as_data, lines, tree
    from omnimix.compose import recipe as recipes

    recipe = recipes.load(name)
    numbers = count(recipe)
    image = numbers.tokens.get(recipe.modality_for("image") or "")
    varies = " (640 x 480)" if image and image.examples else ""
    return {
        "parameters": numbers.total,
        "tokens": f"{image.per_item}{varies}" if image else None,
        "data": as_data(recipe, numbers),
        "tree": lines(tree(recipe, numbers)),
    }


def _own_table(rows: list[dict[str, Any]]) -> Table:
    from omnimix.cli.show import millions

    numbers = ("parameters", "per picture")
    table = tables.table(("name", "ships", "about"), numbers, title="ships with omnimix")
    for row in rows:
        parameters = millions(row["parameters"]) if row["parameters"] else "?"
        tokens = "-" if row["tokens"] is None else str(row["tokens"])
        ships = "weights" if row["weights"] else "recipe"
        table.add_row(row["name"], ships, row["about"], parameters, tokens)
    return table


def _released_table(rows: list[dict[str, Any]]) -> Table:
    papers = {
        row["family"]: f"{row['family']}: {row['paper'] or 'no paper'}"
        + (f" (arXiv {row['arxiv']})" if row["arxiv"] else "")
        + f"; licence {row['licence'] or 'not stated'}"
        for row in rows
    }
    table = tables.table(
        ("id", "family", "encoder", "language model, its licence", "connector"),
        ["files"],
        title="released models, by id",
        caption="\n".join(papers.values()),
    )
    table.columns[0].no_wrap = True
    for row in rows:
        size = f"{row['bytes'] / 1e9:.1f} GB" if row["bytes"] else "?"
        language = f"{row['language']}, {row['language_licence']}"
        cells = (row["family"], row["encoder"], language, row["connector"], size)
        table.add_row(row["name"], *cells)
    return table


if __name__ == "__main__":
    from omnimix.compose import recipe as recipes

    found = {name: counted(name) for name in recipes.names()}
    COUNTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
