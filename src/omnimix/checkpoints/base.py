"""What a checkpoint family is: recognise a folder, say which recipe it is, and which key is which weight.

A family reader opens a released checkpoint in three steps, none of which holds weights in memory:

1. `recognise(path)` looks inside (never at the folder's name) and says what lies there, or None: a
   `Layout` of the family's own, a frozen dataclass that carries on whatever was read;
2. `open(layout, parts)` turns it into a `Release`: a recipe, where its tokenizer lies, and weight files
   each with a rename table;
3. `omnimix.checkpoints.reading.load(release)` builds the model and fills it, every key accounted for.

In between stand the family's own words, a frozen dataclass too (the second type of `Family`): what its
configuration files say. `recipe(words)` is the only place where they become ours, `words_of(recipe)` is its
inverse, and `names(recipe)` maps keys in both directions. So a model is written by the way it is read.

A new family is a folder in `families` with a `Family` and a row of `registry.CHECKPOINTS`.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

from omnimix.checkpoints import parts as places, tables
from omnimix.checkpoints.files import Files, looks_like, read_json
from omnimix.checkpoints.parts import Beside, Parts
from omnimix.checkpoints.tables import RenameTable
from omnimix.compose.recipe import Recipe, difference
from omnimix.errors import CheckpointError, RecipeError
from omnimix.registry import CHECKPOINTS, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from omnimix.compose.model import MultimodalLM
    from omnimix.compose.processor import Processor
    from omnimix.language.tokenizer import Tokenizer

__all__ = [
    "Beside",
    "Family",
    "Layout",
    "Parts",
    "Recognised",
    "Release",
    "Weights",
    "families",
    "looks_like",
    "open_release",
    "read_json",
    "recognise",
]


@dataclass(frozen=True)
class Layout:
    """What lies at a path. A family adds typed fields for what it has read (`kw_only=True`).

    Attributes:
        family: the row of `CHECKPOINTS` that recognised it.
        kind: which of the family's layouts it is, in a word or two for messages.
        root: the folder (or file) that was recognised.
        files: files that hold weights.
        opened: files of weights that a step has looked into; the later ones take them from here.
    """

    family: str
    kind: str
    root: Path
    files: tuple[Path, ...] = ()
    opened: Files = field(default_factory=Files, compare=False, repr=False)


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
    table: RenameTable
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
        tokenizer: the recipe's, where it was loaded already.
    """

    layout: Layout
    recipe: Recipe
    folder: Path
    weights: tuple[Weights, ...]
    notes: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None


L = TypeVar("L", bound=Layout)
W = TypeVar("W")


class Family(abc.ABC, Generic[L, W]):
    """A checkpoint family; `L` is its layout, `W` its words.

    Attributes:
        name: its row in `CHECKPOINTS`.
        title: its name in print.
        layouts: what its readers know, for messages: `a run folder (config.json, ...)`.
        part_names: parts that a checkpoint may lack and `Parts.places` may bring.
        known_words: facts that no file of a checkpoint may tell and `Parts.words` may bring.
        options: words that `write` knows beside the model, `shards` for instance.
        dtype: what its releases are run in where nobody says another; None takes float32.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    layouts: ClassVar[tuple[str, ...]]
    part_names: ClassVar[tuple[str, ...]] = ()
    known_words: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[tuple[str, ...]] = ()
    dtype: ClassVar[torch.dtype | None] = None

    @abc.abstractmethod
    def recognise(self, path: Path) -> L | None:
        """What lies at a path, judged by what is inside; None where it is another family's.

        Raises:
            CheckpointError: certainly this family's, but broken (a config that is no JSON, ...).
        """

    @abc.abstractmethod
    def open(self, layout: L, parts: Parts) -> Release:
        """The recipe and the weight files of a recognised layout. Reads headers, no weights.

        Raises:
            CheckpointError: a part that cannot be found, words that contradict each other.
        """

    def part_of(self, layout: L, beside: Beside) -> str | None:
        """Which part lies in a folder `backbones` beside the checkpoint, told by what is inside."""
        return None

    def parts(self, layout: L) -> Parts:
        """What lies beside the checkpoint or above it: what parts.json says, and `backbones`.

        Raises:
            CheckpointError: a parts.json of other words than the family knows.
        """
        lying = places.beside(layout.root, lambda one: self.part_of(layout, one))
        said = self.checked(places.written(layout.root), "parts.json")
        return Parts({**lying, **said.places}, said.words)

    def checked(self, parts: Parts, where: str) -> Parts:
        """The same parts, all of which the family knows.

        Raises:
            CheckpointError: unknown ones, or a word among the places, with the way out.
        """
        for name in parts.places:
            if name in self.known_words and name not in self.part_names:
                raise CheckpointError(
                    f"{name} is a word, not a place",
                    where=where,
                    hint=f"give it as --word {name}={parts.places[name]}",
                )
            self._known(name, self.part_names, "part", where)
        for name in parts.words:
            if name in self.part_names and name not in self.known_words:
                raise CheckpointError(
                    f"{name} is a part, not a word",
                    where=where,
                    hint=f"give its place as --part {name}=FOLDER",
                )
            self._known(name, self.known_words, "word", where)
        return parts

    def _known(self, name: str, known: Iterable[str], what: str, where: str) -> None:
        if name not in known:
            hint = did_you_mean(name, known) if known else f"it knows none, leave the {what} out"
            raise CheckpointError(f"{self.title} knows no {what} {name!r}", where=where, hint=hint)

    def laid(self, parts: Parts, over: Path) -> Parts | None:
        """The parts with which a checkpoint is opened with another one laid over it.

        Returns:
            None where the family's checkpoints are always whole.
        """
        return None

    def recipe(self, words: W) -> Recipe:
        """The model that the family's words describe."""
        raise NotImplementedError(self.name)

    def names(self, recipe: Recipe) -> Mapping[str, RenameTable]:
        """The rename table of every source of weights, the checkpoint's own first; used both ways."""
        raise NotImplementedError(self.name)

    def untrained(self, encoder: str, language: str, connector: str, resize: str) -> dict[str, Any]:
        """The plain words of a recipe over the pretrained parts that a release of the family was made from.

        Args:
            encoder, language, connector, resize: the family's own names of them.

        Raises:
            CheckpointError: a family that is not begun so.
        """
        raise CheckpointError(
            f"models of {self.title} are not begun from an id",
            hint="name its recipe, or start from the released weights: initial_checkpoint",
        )

    def words_of(self, recipe: Recipe) -> W:
        """The inverse of `recipe`.

        Raises:
            CheckpointError: what of the recipe has no words there.
        """
        raise CheckpointError(
            f"models cannot be written in the layout of {self.title}",
            where=recipe.name,
            hint="families that can are listed by `omnimix convert --help`",
        )

    def expressed(self, recipe: Recipe) -> W:
        """The family's words for a recipe, proven by reading them back.

        Raises:
            CheckpointError: the recipe cannot be expressed, by the first of its words that differs.
        """
        try:
            words = self.words_of(recipe)
            again = self.recipe(words)
        except (LookupError, TypeError, ValueError, AttributeError, RecipeError) as error:
            # An inverse looks for its words where a model of the family has them.
            raise self.refusal(recipe, str(error) or type(error).__name__) from None
        odd = difference(again, recipe, ("what its words make", "the recipe"))
        if odd is not None:
            raise self.refusal(recipe, odd)
        return words

    def refusal(self, recipe: Recipe, why: str, hint: str | None = None) -> CheckpointError:
        """The error about a recipe that the family has no words for."""
        return CheckpointError(
            f"the recipe cannot be expressed as {self.title}: {why.rstrip('.')}",
            where=recipe.name,
            hint=hint
            or f"`omnimix show {recipe.name}` shows it; the layout native takes any recipe",
        )

    def foreign(
        self, table: RenameTable, state: Mapping[str, Tensor], recipe: Recipe
    ) -> dict[str, Tensor]:
        """Our tensors under the family's keys.

        Raises:
            CheckpointError: a tensor that has no key there.
        """
        plan = table.writing(state)
        odd = [*plan.unknown, *plan.missing]
        if odd:
            raise self.refusal(recipe, f"{odd[0]} has no key there")
        return {key: t.contiguous() for key, t in tables.write(plan, state).items()}

    def write(
        self, model: MultimodalLM, processor: Processor, out: Path, **options: Any
    ) -> list[Path]:
        """Write a model in the family's layout; returns the files.

        Args:
            options: words named by the family's `options`.

        Raises:
            CheckpointError: the recipe cannot be expressed in this layout.
        """
        return self.put(self.expressed(processor.recipe), model, processor, out, **options)

    def put(
        self, words: W, model: MultimodalLM, processor: Processor, out: Path, **options: Any
    ) -> list[Path]:
        """The files of a model whose words are known."""
        raise NotImplementedError(self.name)


Recognised: TypeAlias = tuple[Family[Any, Any], Layout]
"""A family and what it found at a path."""


def families() -> list[Family[Any, Any]]:
    """All registered families."""
    return [CHECKPOINTS.load(name)() for name in CHECKPOINTS]


def recognise(path: Path) -> Recognised | None:
    """The family whose layout lies at a path, or None."""
    if not path.exists():
        return None
    for family in families():
        layout = family.recognise(path)
        if layout is not None:
            return family, layout
    return None


def open_release(
    place: Path | Recognised, parts: Parts | None = None, family: str | None = None
) -> Release:
    """The release at a path.

    Args:
        place: a folder or file, or what `recognise` said of it.
        parts: what the checkpoint does not hold; what lies beside it is used where nothing is named.
        family: insist on one family.

    Raises:
        CheckpointError: no family knows it, or another one than asked for; says what lies there.
    """
    known = recognise(place) if isinstance(place, Path) else place
    path = place if isinstance(place, Path) else place[1].root
    if known is None or (family is not None and known[0].name != family):
        raise CheckpointError(
            f"no checkpoint of {family or 'a known family'}: {looks_like(path)}",
            where=str(path),
            hint=(
                f"this is one of {known[0].name} ({known[1].kind})"
                if known is not None
                else "known are "
                + "; ".join(f"{f.name}: {', '.join(f.layouts)}" for f in families())
            ),
        )
    reader, layout = known
    given = reader.checked(parts or Parts(), str(layout.root))
    lying = reader.parts(layout)
    return reader.open(
        layout, Parts({**lying.places, **given.places}, {**lying.words, **given.words})
    )
