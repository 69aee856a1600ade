"""Files that steps name in a recipe (a tokenizer for instance), found where the model lies.

A recipe holds no places of a machine, so a step says `tokenizer.json` and whoever prepares items says in
which folders to look: beside the weights first, then beside the shipped recipes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeAlias

from omnimix.errors import RecipeError
from omnimix.hub import is_inside

Place: TypeAlias = Path | Mapping[str, Path]
"""A folder, or a table from a file's name to where it lies."""

_FOLDERS: ContextVar[tuple[Place, ...]] = ContextVar("folders", default=())


@contextmanager
def looking_in(folders: Sequence[Place]) -> Iterator[None]:
    """Names of files are looked up in these folders, in order."""
    before = _FOLDERS.set(tuple(folders))
    try:
        yield
    finally:
        _FOLDERS.reset(before)


def found(name: str) -> Path:
    """The file of that name, which lies below one of the folders.

    Recipes come from strangers: one that named any file would have it read, and copied into what is saved.

    Raises:
        RecipeError: it is in none of the folders, or the name leads out of them.
    """
    inside = is_inside(name)
    for folder in _FOLDERS.get():
        # A table names files by its own word: whoever made it says that this one may be read.
        path = folder.get(name) if isinstance(folder, Mapping) else folder / name
        if path is not None and (inside or isinstance(folder, Mapping)) and path.is_file():
            return path
    if not inside:
        raise RecipeError(
            f"the file {name!r} does not lie in the model's folder",
            hint="put it beside the model's recipe.yaml, or hand it over with files={name: path}",
        )
    raise RecipeError(
        f"the file {name!r} is not there", hint="put it beside the model's recipe.yaml"
    )
