"""A new model out of a recipe over pretrained parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omnimix.checkpoints import pretrained
from omnimix.checkpoints.pretrained import FilledPart
from omnimix.compose import recipe as recipes
from omnimix.compose.processor import Processor
from omnimix.generate.assistant import Assistant


def build(recipe: str | Path, overrides: Sequence[str] = ()) -> tuple[Assistant, list[FilledPart]]:
    """A model whose parts begin with the weights that its recipe names, and what became of these.

    Args:
        recipe: a file, or the name of a shipped one.
        overrides: dotted `path=value` words.

    Raises:
        OmnimixError: words that cannot be used; weights that cannot be had or do not fit.
    """
    path = recipes.find(recipe)
    found = recipes.load(path, overrides)
    model, filled = pretrained.begin(found, [path.parent])
    return Assistant(model.eval(), Processor.from_recipe(found, path.parent)), filled
