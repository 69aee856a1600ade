"""What a checkpoint family is: recognise a folder, say which recipe it is, and which key is which weight.

A family reader opens a released checkpoint in three steps, none of which holds weights in memory:

1. `recognise(path)` looks inside (never at the folder's name) and says which layout it is, or None;
2. `open(layout, parts)` turns it into a `Release`: a recipe, where its tokenizer lies, and weight files
   each with a rename table;
3. `omnimix.checkpoints.reading.load(release)` builds the model and fills it, every key accounted for.

A new family is one file with a `Family` and one row in `registry.CHECKPOINTS`.
"""

from __future__ import annotations

import abc
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omnimix.checkpoints.tables import Table
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError
from omnimix.registry import CHECKPOINTS

if TYPE_CHECKING:
    from torch import Tensor

    from omnimix.compose.model import MultimodalLM
    from omnimix.compose.processor import Processor


@dataclass(frozen=True)
class Layout:
    """What lies at a path.

    Attributes:
        family: the row of `CHECKPOINTS` that recognised it.
        kind: which of the family's layouts it is, in a word or two for messages.
        root: the folder (or file) that was recognised.
        files: files that hold weights.
        facts: what the reader already learnt (a parsed config.json for instance).
    """

    family: str
    kind: str
    root: Path
    files: tuple[Path, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Parts:
    """What a checkpoint does not hold and somebody else brings.

    Attributes:
        places: for a part's name (`llm`, `dino`, ...) a hub id, a local folder in the hub's layout, or a
            file of weights. Parts that are not named are looked up under the hub ids of the family.
        words: facts that no file tells, `image_size` for a stand-in of another size for instance.
    """

    places: Mapping[str, str | Path] = field(default_factory=dict)
    words: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Weights:
    """One source of weights: files that belong together (shards), and the table for their keys.

    Attributes:
        tensors: what the files hold together, where that is more than one file's keys after another's
            (tensors that are cut over the files); each is made when it is asked for.
        one_by_one: tensors that are made anew are made when the model takes them, one after another; a
            table that changes most of a large model's tensors asks for it.
    """

    name: str
    files: tuple[Path, ...]
    table: Table
    tensors: Mapping[str, Tensor] | None = None
    one_by_one: bool = False


@dataclass(frozen=True)
class Release:
    """A checkpoint understood: everything that `reading.load` needs.

    Attributes:
        layout: where it came from.
        recipe: the model; its tokenizer's path is relative to `folder`.
        folder: where the tokenizer lies.
        weights: sources; together they fill every parameter exactly once.
        notes: sentences that a user should see (stock encoders in place of trained ones, ...).
        files: where files lie that steps of the recipe name.
    """

    layout: Layout
    recipe: Recipe
    folder: Path
    weights: tuple[Weights, ...]
    notes: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)


class Family(abc.ABC):
    """A checkpoint family.

    Attributes:
        name: its row in `CHECKPOINTS`.
        layouts: what its readers know, for messages: `a run folder (config.json, ...)`.
        options: words that `write` knows beside the model, `shards` for instance.
    """

    name: ClassVar[str]
    layouts: ClassVar[tuple[str, ...]]
    options: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def recognise(self, path: Path) -> Layout | None:
        """Which layout lies at a path, judged by what is inside; None where it is another family's.

        Raises:
            CheckpointError: certainly this family's, but broken (a config that is no JSON, ...).
        """

    @abc.abstractmethod
    def open(self, layout: Layout, parts: Parts) -> Release:
        """The recipe and the weight files of a recognised layout. Reads headers, no weights.

        Raises:
            CheckpointError: a part that cannot be found, words that contradict each other.
        """

    def parts(self, layout: Layout) -> Parts:
        """Parts that lie beside the checkpoint and are taken where the user names none."""
        return Parts()

    def laid(self, parts: Parts, over: Path) -> Parts | None:
        """The parts with which a checkpoint is opened with another one laid over it.

        Returns:
            None where the family's checkpoints are always whole.
        """
        return None

    def write(
        self, model: MultimodalLM, processor: Processor, out: Path, **options: Any
    ) -> list[Path]:
        """Write a model in the family's layout; returns the files.

        Args:
            options: words named by the family's `options`.

        Raises:
            CheckpointError: the recipe cannot be expressed in this layout.
        """
        raise CheckpointError(
            f"models cannot be written in the layout of {self.name}",
            where=str(out),
            hint="families that can are listed by `omnimix convert --help`",
        )


def families() -> list[Family]:
    """All registered families."""
    return [CHECKPOINTS.load(name)() for name in CHECKPOINTS]


def recognise(path: Path) -> tuple[Family, Layout] | None:
    """The family whose layout lies at a path, or None."""
    if not path.exists():
        return None
    for family in families():
        layout = family.recognise(path)
        if layout is not None:
            return family, layout
    return None


def open_release(path: Path, parts: Parts | None = None, family: str | None = None) -> Release:
    """The release at a path.

    Args:
        path: a folder or file.
        parts: what the checkpoint does not hold; what lies beside it is used where nothing is named.
        family: insist on one family.

    Raises:
        CheckpointError: no family knows it, or another one than asked for; says what lies there.
    """
    found = recognise(path)
    if found is None or (family is not None and found[0].name != family):
        raise CheckpointError(
            f"no checkpoint of {family or 'a known family'}: {looks_like(path)}",
            where=str(path),
            hint=(
                f"this is one of {found[0].name} ({found[1].kind})"
                if found is not None
                else "known are "
                + "; ".join(f"{f.name}: {', '.join(f.layouts)}" for f in families())
            ),
        )
    reader, layout = found
    beside = reader.parts(layout)
    given = parts or Parts()
    return reader.open(
        layout, Parts({**beside.places, **given.places}, {**beside.words, **given.words})
    )


def looks_like(path: Path) -> str:
    """What lies at a path, in a few words for messages."""
    if not path.exists():
        return "there is nothing"
    if path.is_file():
        return f"a file of {path.stat().st_size:,} bytes"
    names = sorted(child.name + ("/" if child.is_dir() else "") for child in path.iterdir())
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if names[6:] else "")
    return f"the folder holds {shown or 'nothing'}"


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is no such file or it holds something else."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
