"""Items named on the command line or in the chat: pictures, sounds, films, documents, and any other kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omnimix.cli.guard import WordsJoined
from omnimix.errors import OmnimixError
from omnimix.types import Media

WORDS = {"image": "picture", "audio": "sound", "video": "video", "document": "document"}
"""Kinds with an option and a command of their own, and what a person calls them."""

OTHER = "item"
"""The option for every other modality of a recipe: NAME=PATH."""


class ItemsInOrder(WordsJoined):
    """A command whose items stand in one list, in the order of the command line.

    Options of different names would be read into lists of their own and lose their place among each other,
    so `--image PATH` is read as `--item image=PATH`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, as_items(args))


def as_items(args: list[str]) -> list[str]:
    """`--image PATH`, `--audio PATH` and their like as `--item=image=PATH`."""
    result: list[str] = []
    rest = iter(args)
    for word in rest:
        option, equals, value = word.partition("=")
        kind = option.removeprefix("--")
        if not option.startswith("--") or kind not in WORDS:
            result.append(word)
            continue
        path = value if equals else next(rest, None)
        result.append(word if path is None else f"--{OTHER}={kind}={path}")
    return result


def item(text: str) -> Media:
    """An item by its kind and path, NAME=PATH.

    Raises:
        OmnimixError: no such file, or no name.
    """
    name, equals, path = text.partition("=")
    if not equals or not name.isidentifier() or not (path or name in WORDS):
        raise OmnimixError(
            f"an item is NAME=PATH, not {text!r}",
            hint="NAME is a modality of the recipe; `omnimix show` lists them",
        )
    file = Path(path)
    if not path or not (file.is_file() or (name == "video" and file.is_dir())):
        what = WORDS.get(name, "file")
        raise OmnimixError(
            f"this is a folder, not a {what}" if file.is_dir() else f"there is no such {what}",
            where=path or f"/{name}",
            hint="check the path",
        )
    return Media(name, file, label=path)
