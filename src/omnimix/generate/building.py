"""A new model out of a recipe over pretrained parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omnimix.checkpoints.pretrained import FilledPart
from omnimix.generate import untrained
from omnimix.generate.assistant import Assistant


def build(recipe: str | Path, overrides: Sequence[str] = ()) -> tuple[Assistant, list[FilledPart]]:
    """A model whose parts begin with the weights that its recipe names, and what became of these.

    Args:
        recipe: a file, or the name of a shipped one.
        overrides: dotted `path=value` words.

    Raises:
        OmnimixError: words that cannot be used; weights that cannot be had or do not fit.
    """
    model, processor, filled = untrained.begun(recipe, overrides)
    return Assistant(model, processor), filled
