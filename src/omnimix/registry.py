"""Every name a recipe, a training file or a command may use, as tables of `module:Class` strings.

A row is data: nothing is imported until the name is used. The rows stand in `registry.yaml`, those of a family of
checkpoints in its own folder, `families/<family>/registry.yaml`. Another package adds rows with an entry point in the group
`omnimix.<table>` that carries the same `module:Class` string::

    [project.entry-points."omnimix.connectors"]
    my_connector = "my_package.connectors:MyConnector"
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from omnimix.errors import RegistryError

FAMILIES = Path(__file__).parent / "families"
"""A folder for each family of checkpoints; nothing else of the library knows their names."""


ROWS = Path(__file__).with_suffix(".yaml")
"""The rows of the library itself."""


@cache
def rows_of(*files: Path) -> dict[str, dict[str, str]]:
    """The rows that some files bring, by table."""
    found: dict[str, dict[str, str]] = {}
    for path in files:
        for table, rows in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            found.setdefault(table, {}).update(rows)
    return found


def did_you_mean(word: str, known: Iterable[str], listed: str = "") -> str:
    """The way out for a mistyped word: the nearest known one, or all of them.

    Args:
        listed: how to see all, where they are too many for a sentence; the nearest few are named then.
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.0 if listed else 0.6)
    if close and difflib.SequenceMatcher(None, close[0], word).ratio() >= 0.6:
        return f"did you mean {close[0]!r}?"
    return (
        f"nearest are {', '.join(close)}; {listed}" if listed else f"known are: {', '.join(names)}"
    )


def plug_in(file: Path) -> None:
    """Import a file, so that recipes may name its parts as `file:Class`; it runs as any program of yours.

    Raises:
        RegistryError: no such file, another module of its name, or an error in it.
    """
    name = file.stem
    known = sys.modules.get(name)
    if known is not None:
        if Path(getattr(known, "__file__", None) or "").resolve() == file.resolve():
            return
        raise RegistryError(
            f"there is another module {name!r}", where=str(file), hint="give the file another name"
        )
    if not file.is_file() or not name.isidentifier():
        raise RegistryError(
            "no such file of Python", where=str(file), hint="name a file such as my_parts.py"
        )
    # Worker processes import it by its name.
    sys.path.append(str(file.resolve().parent))
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever the file does
        line = next(iter(str(error).splitlines()), "no message")
        raise RegistryError(
            f"the plugin cannot be imported ({type(error).__name__}: {line})", where=str(file)
        ) from error


class Registry(Mapping[str, str]):
    """One registry: name to `module:Class`, with rows of the families and of other packages appended.

    Args:
        rows: in place of those of `registry.yaml`.
    """

    def __init__(self, name: str, what: str, rows: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.what = what
        self._own = rows

    def _table(self) -> Mapping[str, str]:
        return rows_of(ROWS).get(self.name, {}) if self._own is None else self._own

    @cache  # noqa: B019  (tables live as long as the process)
    def _rows(self) -> dict[str, str]:
        families = rows_of(*sorted(FAMILIES.glob("*/registry.yaml")))
        rows = {**self._table(), **families.get(self.name, {})}
        for point in entry_points(group=f"omnimix.{self.name}"):
            if point.name in rows and rows[point.name] != point.value:
                raise RegistryError(
                    f"two packages register the {self.what} {point.name!r}",
                    where=f"{rows[point.name]} and {point.value}",
                    hint="rename or uninstall one of them",
                )
            rows[point.name] = point.value
        return rows

    def __getitem__(self, name: str) -> str:
        if ":" in name:
            return name
        rows = self._rows()
        if name not in rows:
            raise RegistryError(f"unknown {self.what} {name!r}", hint=did_you_mean(name, rows))
        return rows[name]

    def __contains__(self, name: object) -> bool:
        return name in self._rows()

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows())

    def __len__(self) -> int:
        return len(self._rows())

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def only(self) -> str | None:
        """The one row of the table's own, which is meant where no name is given; else None."""
        own = self._table()
        return next(iter(own)) if len(own) == 1 else None

    def load(self, name: str) -> Any:
        """Import and return what the row points at.

        Raises:
            RegistryError: unknown name (with the nearest known one), or a row that cannot be imported.
        """
        target = self[name]
        module, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise RegistryError(
                f"the {self.what} {name!r} could not be imported ({error})",
                where=target,
                hint="install the package it needs, or mend the row"
                if target != name
                else f"give the file that has it: --plugin {module}.py",
            ) from error


STEPS = Registry("steps", "step")
ENCODERS = Registry("encoders", "encoder")
FINISHES = Registry("finishes", "finishing step")
CONNECTORS = Registry("connectors", "connector")
ARRANGES = Registry("arranges", "arrangement of tiles")
CODECS = Registry("codecs", "way of writing coordinates")
OPENERS = Registry("openers", "kind of media")
LANGUAGES = Registry("languages", "language model")
TOKENIZERS = Registry("tokenizers", "tokenizer")
OBJECTIVES = Registry("objectives", "objective")
DATASETS = Registry("datasets", "dataset")
FORMATS = Registry("formats", "format of rows")
CHECKPOINTS = Registry("checkpoints", "checkpoint family")
READINGS = Registry("readings", "reading of golden numbers")
SEGMENTERS = Registry("segmenters", "type of model that makes masks")
BENCHMARKS = Registry("benchmarks", "benchmark")
WIRES = Registry("wires", "wire format of the server")
MEASURES = Registry("measures", "measure")

TABLES = tuple(table for table in list(globals().values()) if isinstance(table, Registry))
