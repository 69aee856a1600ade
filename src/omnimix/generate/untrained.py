"""The model of a recipe over pretrained parts, before it has learned anything."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from omnimix.checkpoints import pretrained
from omnimix.checkpoints.pretrained import FilledPart
from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import OmnimixError


def begun(
    recipe: str | Path, overrides: Sequence[str] = ()
) -> tuple[MultimodalLM, Processor, list[FilledPart]]:
    """A model whose parts begin with the weights that its recipe names, and what became of these.

    Raises:
        OmnimixError: words that cannot be used; weights that cannot be had or do not fit.
    """
    path = recipes.find(recipe)
    found = recipes.load(path, overrides)
    model, filled = pretrained.begin(found, [path.parent])
    return model.eval(), Processor.from_recipe(found, path.parent), filled


def check(recipe: str | Path, given: Sequence[str]) -> None:
    """Refuse words of loading that say something of a finished model.

    Raises:
        OmnimixError: names the first.
    """
    if given:
        raise OmnimixError(
            f"{given[0]!r} is a word for a finished model, and this is a recipe",
            where=str(recipe),
            hint="leave it out, or train first and name the model's folder",
        )


def read(recipe: str | Path) -> tuple[MultimodalLM, Processor]:
    """The model to be asked as it is; what is fresh in it is told as a warning.

    Raises:
        OmnimixError: as `begun`; a recipe that names no weights at all.
    """
    model, processor, filled = begun(recipe)
    if not any(one.filled for one in filled):
        raise OmnimixError(
            "the recipe names no weights, so that nothing in the model has learned anything",
            where=str(recipe),
            hint="say weights at its parts, or train it and name the model's folder",
        )
    fresh = ", ".join(one.part for one in filled if one.fresh)
    logging.getLogger("omnimix").warning("fresh, so untrained: %s", fresh or "nothing")
    return model, processor
