"""`omnimix soup`: two models of one recipe, mixed tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from omnimix.cli.guard import places_of, words_of
from omnimix.errors import OmnimixError


def command(
    a: Annotated[str, typer.Argument(metavar="A", help="A model's name, folder or released id.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one of the same recipe.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder.")],
    weight: Annotated[float, typer.Option(help="Share of A: 1 is A, 0 is B.")] = 0.5,
    per_part: Annotated[
        list[str] | None,
        typer.Option("--per-part", metavar="PART=SHARE", help="Another share for one part."),
    ] = None,
    extrapolate: Annotated[
        bool, typer.Option("--extrapolate", help="Allow shares outside 0 to 1.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Take from A what B leaves out.")
    ] = False,
    dtype: Annotated[
        str, typer.Option(help="float32, float16, bfloat16, or stored: as A holds it.")
    ] = "float32",
    part_a: Annotated[
        list[str] | None,
        typer.Option("--part-a", metavar="NAME=PLACE", help="A part that A lacks."),
    ] = None,
    part_b: Annotated[
        list[str] | None,
        typer.Option("--part-b", metavar="NAME=PLACE", help="A part that B lacks."),
    ] = None,
    word_a: Annotated[
        list[str] | None,
        typer.Option("--word-a", metavar="NAME=VALUE", help="A fact that no file of A tells."),
    ] = None,
    word_b: Annotated[
        list[str] | None,
        typer.Option("--word-b", metavar="NAME=VALUE", help="A fact that no file of B tells."),
    ] = None,
) -> None:
    """Mix two models of equal recipes: weight * A + (1 - weight) * B, with a certificate of norms."""
    from omnimix.checkpoints.base import Parts
    from omnimix.convert.mixing import Ingredient, soup

    facts = soup(
        Ingredient(a, Parts(places_of(part_a or ()), words_of(word_a or ()))),
        Ingredient(b, Parts(places_of(part_b or ()), words_of(word_b or ()))),
        out,
        weight,
        shares(per_part or ()),
        extrapolate,
        partial,
        dtype,
    )
    for part, norms in facts["norms"].items():
        typer.echo(
            f"{part}: {norms['numbers']:,} numbers, norm {norms['result']:.4g} "
            f"(A {norms['a']:.4g}, B {norms['b']:.4g}, apart {norms['a_less_b']:.4g})"
        )
    if facts["only_in_a"]:
        typer.echo(f"only in A and taken as they are: {facts['only_in_a']} tensors")
    if facts["not_mixed"]:
        typer.echo(f"counters and masks that differ, taken whole: {len(facts['not_mixed'])}")
    typer.echo(f"written: {out}")


def shares(words: Iterable[str]) -> dict[str, float]:
    """Shares of `--per-part PART=SHARE` options.

    Raises:
        OmnimixError: an option without a part or a number.
    """
    found: dict[str, float] = {}
    for word in words:
        name, _, share = word.partition("=")
        try:
            found[name] = float(share)
        except ValueError:
            name = ""
        if not name:
            raise OmnimixError(
                f"--per-part takes PART=SHARE, not {word!r}", hint="for instance language=0.3"
            )
    return found
