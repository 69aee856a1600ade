"""Items named on the command line or in the chat: pictures, sounds, films, documents, and any other kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omnimix.errors import OmnimixError
from omnimix.types import Media

if TYPE_CHECKING:
    from omnimix.generate.assistant import Assistant

WORDS = {"image": "picture", "audio": "sound", "video": "video", "document": "document"}
"""Kinds with an option and a command of their own, and what a person calls them."""

OTHER = "item"
"""The option for every other modality of a recipe: NAME=PATH."""


def named(args: Sequence[str]) -> list[tuple[str, str]]:
    """Kind and path of all items on a command line, in the order they stand there.

    An option that is read into a list of its own loses its place among the others.
    """
    found = []
    options = {f"--{kind}": kind for kind in (*WORDS, OTHER)}
    rest = iter(args)
    for word in rest:
        option, equals, value = word.partition("=")
        if option in options:
            found.append((options[option], value if equals else next(rest, "")))
    return found


def item(kind: str, text: str) -> Media:
    """An item by its kind and path; `item` takes NAME=PATH.

    Raises:
        OmnimixError: no such file, or no name.
    """
    name, path = kind, text
    if kind == OTHER:
        name, equals, path = text.partition("=")
        if not equals or not name.isidentifier() or not path:
            raise OmnimixError(
                f"an item is NAME=PATH, not {text!r}",
                hint="NAME is a modality of the recipe; `omnimix show` lists them",
            )
    file = Path(path)
    if not (file.is_file() or (kind == "video" and file.is_dir())) or not path:
        raise OmnimixError(
            f"there is no such {WORDS.get(kind, 'file')}",
            where=path or f"/{kind}",
            hint="check the path",
        )
    return Media.image(path) if kind == "image" else Media(name, file, label=path)


def check_place(assistant: Assistant, media: Media) -> None:
    """Refuse what the model takes no items of, or what cannot be opened, before a question is made of it.

    Raises:
        OmnimixError: the kinds that it takes, or what is wrong with the file.
    """
    from omnimix.media.opening import MediaOpener

    recipe = assistant.processor.recipe
    name = recipe.modality_for(media.kind)
    if name is None:
        takes = [kind for spec in recipe.modalities.values() for kind in spec.opens.takes()]
        known = ", ".join(dict.fromkeys([*recipe.modalities, *takes]))
        raise OmnimixError(
            f"the model {recipe.name!r} has no place for an item of kind {media.kind!r}",
            hint=f"it takes {known or 'text only'}",
        )
    opens = recipe.modalities[name].opens
    if isinstance(opens, MediaOpener):
        opens.open(media)
