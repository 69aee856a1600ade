"""Writes docs/reference/: every word of recipes, training files and registered rows, as their docstrings say.

    .venv/bin/python tools/reference.py        (make reference)

A page for recipes, one for training files, one for each table of rows. `tests/test_reference.py` holds the pages
against what this writes, and every word against its line.
"""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from omnimix import config
from omnimix.compose.recipe import Recipe
from omnimix.config import Spec
from omnimix.registry import TABLES, Registry
from omnimix.train.settings import Training

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
HEAD = "<!-- Written by tools/reference.py from the docstrings; mend those and run `make reference`. -->\n\n"
PAGES: dict[str, type[Spec]] = {"recipe": Recipe, "training": Training}
START = """# All words

Every word of a recipe and of a training file, and the rows that may stand where a page is named: `kind` says which.
"None" in an explanation is `null` in YAML. `omnimix show --schema` and `omnimix train --schema` print the same as JSON
schema, for editors. Where a word comes from, and what it was called before, stands in [words](../words.md)."""
NO_ROWS = frozenset({"readings"})
"""Tables of the tests alone."""

_SECTION = re.compile(r"^(Attributes|Args|Raises|Returns):$", re.M)
_ENTRY = re.compile(r"^    (\w[\w`, ]*):\s(.*(?:\n {5,}.*)*)", re.M)


def sections(cls: type) -> dict[str, str]:
    """The parts of a docstring by their heading; what stands before the first is called ''."""
    own = cls.__dict__.get("__doc__")
    pieces = _SECTION.split(inspect.cleandoc(own)) if own else [""]
    return {"": pieces[0].strip(), **dict(zip(pieces[1::2], pieces[2::2], strict=True))}


def explained(cls: type) -> dict[str, str]:
    """What is said of each word, in the class's own docstring or in that of a class it is made from."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        for names, text in _ENTRY.findall(sections(one).get("Attributes", "")):
            found |= dict.fromkeys(re.findall(r"\w+", names), " ".join(text.split()))
    return found


def inner(annotation: Any) -> Iterator[type[Spec]]:
    """The classes of settings that a type holds, those of registered rows left out: they have pages."""
    if issubclass_of(annotation, Spec) and table_of(annotation) is None:
        yield annotation
    for one in get_args(annotation):
        yield from inner(one)


def told(annotation: Any) -> str:
    """A type in the words of YAML."""
    origin, given = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return told(given[0])
    if origin is Literal:
        return " \\| ".join(f"`{one}`" for one in given)
    if given and origin in (tuple, list, set, frozenset):
        if origin is tuple and given[-1] is not Ellipsis:
            return f"[{', '.join(told(one) for one in given)}]"
        return f"list of {told(given[0])}"
    if given and origin is not None and issubclass_of(origin, Mapping):
        return f"table of {told(given[1])}"
    if given:
        return " \\| ".join(dict.fromkeys(told(one) for one in given))
    names = {str: "text", int: "whole number", float: "number", bool: "true \\| false"}
    names |= {type(None): "null", Any: "anything", dict: "table"}
    return names.get(annotation) or linked(annotation)


def issubclass_of(origin: Any, parent: type) -> bool:
    return isinstance(origin, type) and issubclass(origin, parent)


@cache
def table_of(cls: Any) -> Registry | None:
    """The table whose rows may stand where this class is asked for."""
    for table in TABLES:
        rows = [table.load(row) for row in table] if table.name not in NO_ROWS else []
        if rows and all(issubclass_of(row, cls) for row in rows):
            return table
    return None


def linked(cls: Any) -> str:
    """The name of a class of settings, with a link to its section or to the page of its rows."""
    table = table_of(cls) if issubclass_of(cls, Spec) else None
    if table is not None:
        return f"[{table.what}]({table.name}.md)"
    name = getattr(cls, "__name__", str(cls))
    if not issubclass_of(cls, Spec):
        return f"`{name}`"
    page = next((page for page, top in PAGES.items() if cls in classes(top)), None)
    return f"[{name}]({page + '.md' if page else ''}#{name.lower()})"


def default(value: Any) -> str:
    """A default as it is written in YAML."""
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, Spec):
        value = value.dump()
    if isinstance(value, tuple | list):
        value = [one.dump() if isinstance(one, Spec) else one for one in value]
    text = config.to_yaml([value]).strip() if not isinstance(value, Mapping | list) else ""
    if text:
        return f"`{text.removeprefix('- ').strip()}`"
    return f"`{value}`" if value else ("`{}`" if isinstance(value, Mapping) else "`[]`")


def words(cls: type[BaseModel]) -> str:
    """The table of a class's words."""
    lines = explained(cls)
    rows = [
        f"| `{name}` | {told(field.annotation)} | {default(field.default)} | {lines.get(name, '').replace('|', chr(92) + '|')} |"
        for name, field in cls.model_fields.items()
        if name != "kind"
    ]
    head = ["| word | takes | default | meaning |", "|---|---|---|---|"]
    return "\n".join([*head, *rows]) if rows else "It has no words of its own."


def about(cls: type) -> str:
    return sections(cls)[""]


def classes(top: type[Spec]) -> list[type[Spec]]:
    """A class of settings and all inside it, each once."""
    found, waiting = [], [top]
    while waiting:
        cls = waiting.pop(0)
        if cls not in found:
            found.append(cls)
            waiting += [
                one for field in cls.model_fields.values() for one in inner(field.annotation)
            ]
    return found


def section(title: str, cls: type, deep: int = 2) -> str:
    body = words(cls) if issubclass(cls, BaseModel) else ""
    return "\n\n".join(part for part in (f"{'#' * deep} {title}", about(cls), body) if part)


def file_page(name: str, top: type[Spec]) -> str:
    return "\n\n".join(section(cls.__name__, cls, 1 if cls is top else 2) for cls in classes(top))


def table_page(table: Registry) -> str:
    """All rows of a table; classes of settings inside a row follow it."""
    parts = [f"# {table.what[0].upper()}{table.what[1:]}", f"Rows of the table `{table.name}`."]
    seen: set[type] = set()
    for row in table:
        cls = table.load(row)
        parts.append(section(f"`{row}`", cls))
        for one in classes(cls)[1:] if issubclass_of(cls, Spec) else []:
            if one not in seen and one not in classes(Recipe):
                parts.append(section(one.__name__, one, 3))
                seen.add(one)
    return "\n\n".join(parts)


def pages() -> dict[str, str]:
    """Every page by its file name."""
    found = {name: file_page(name, top) for name, top in PAGES.items()}
    found |= {table.name: table_page(table) for table in TABLES if table.name not in NO_ROWS}
    rows = [f"- [{name}]({name}.md)" for name in found]
    found["README"] = f"{START}\n\n" + "\n".join(rows)
    return {f"{name}.md": f"{HEAD}{text}\n" for name, text in found.items()}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{len(pages())} pages in {FOLDER}\n")


if __name__ == "__main__":
    main()
