"""`omnimix models`: what ships."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the models and recipes that ship, with parameters and tokens of a picture."""
    rows = rows_of()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich import box
    from rich.table import Table

    from omnimix.cli.show import millions, wide

    table = Table(box=box.SIMPLE_HEAD)
    for title, style in (("name", "bold"), ("ships", ""), ("about", "")):
        table.add_column(title, style=style)
    for title in ("parameters", "per picture"):
        table.add_column(title, justify="right")
    for row in rows:
        parameters = millions(row["parameters"]) if row["parameters"] else "?"
        tokens = "-" if row["tokens"] is None else str(row["tokens"])
        ships = "weights" if row["weights"] else "recipe"
        table.add_row(row["name"], ships, row["about"], parameters, tokens)
    wide().print(table)


def rows_of() -> list[dict[str, Any]]:
    """One row a model or recipe; those with weights first."""
    from omnimix.cli.parts import count
    from omnimix.compose import recipe as recipes
    from omnimix.generate import folder

    shipped = folder.shipped()
    names = [*shipped, *(name for name in recipes.names() if name not in shipped)]
    rows = []
    for name in names:
        recipe = recipes.load(folder.FOLDER / name if name in shipped else name)
        counted = count(recipe)
        image = counted.tokens.get(recipe.modality_for("image") or "")
        varies = " (640 x 480)" if image and image.examples else ""
        rows.append(
            {
                "name": name,
                "about": recipe.about,
                "weights": name in shipped,
                "parameters": counted.total,
                "tokens": f"{image.per_item}{varies}" if image else None,
            }
        )
    return rows
