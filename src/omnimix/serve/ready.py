"""Ready prompts of the family that is served, for pages to offer: data that lies in the family's wing."""

from __future__ import annotations

from functools import cache
from typing import Literal

from pydantic import TypeAdapter

from omnimix.compose.recipe import Recipe
from omnimix.config import Spec, read_yaml
from omnimix.generate.folder import FOLDER as SHIPPED
from omnimix.registry import FAMILIES


class ReadyPrompt(Spec):
    """A ready prompt.

    Attributes:
        name: on the button.
        text: what is asked; in braces what a person fills in, and `{1}` for the first region.
        takes: kinds of regions of which one must be drawn.
    """

    name: str
    text: str
    takes: tuple[Literal["point", "box", "polygon", "stroke", "mask"], ...] = ()


class Ready(Spec):
    """The ready prompts of some recipes.

    Attributes:
        templates, recipes: names of their templates, or their own.
        regions: whether they have a modality for regions; None: either.
        prompts: in the order in which they are offered.
    """

    templates: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    regions: bool | None = None
    prompts: tuple[ReadyPrompt, ...]


@cache
def _all() -> list[Ready]:
    files = [*sorted(FAMILIES.glob("*/ready.yaml")), *sorted(SHIPPED.glob("*/ready.yaml"))]
    check = TypeAdapter(list[Ready]).validate_python
    return [row for file in files for row in check(read_yaml(file))]


def prompts(recipe: Recipe) -> list[ReadyPrompt]:
    """The ready prompts of a model, by the style that it is asked in."""
    marked = recipe.modality_for("region") is not None
    fits = [
        row for row in _all() if recipe.template.name in row.templates or recipe.name in row.recipes
    ]
    return [one for row in fits if row.regions in (None, marked) for one in row.prompts]
