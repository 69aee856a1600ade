"""How drawn regions reach a model: as tokens of their own, as coordinates in text, or as marks on the picture.

The recipe decides: a region modality means tokens, else `marks` means marks, else coordinates are
written (`coordinates`). `way` is the one place where that is decided; a caller may wish for another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from omnimix.compose.marks import Marks
from omnimix.compose.recipe import Recipe
from omnimix.errors import SampleError
from omnimix.media.opening import MediaOpener
from omnimix.media.tiles import View
from omnimix.prompts.coordinates import ParsedRegions
from omnimix.types import Media, Part, Region, Sample, Turn, check_given

Way: TypeAlias = Literal["tokens", "text", "marks"]
WAYS: tuple[str, ...] = ("tokens", "text", "marks")


def way(recipe: Recipe, wish: str | None = None) -> Way:
    """How this recipe's model learns of regions.

    Raises:
        SampleError: an unknown wish, or tokens where the recipe has no region modality.
    """
    has_tokens = recipe.modality_for("region") is not None
    if wish is None:
        if has_tokens:
            return "tokens"
        return "text" if recipe.marks is None else "marks"
    if wish not in WAYS:
        raise SampleError(
            f"regions cannot be given as {wish!r}", hint=f"the ways are {', '.join(WAYS)}"
        )
    if wish == "tokens" and not has_tokens:
        raise SampleError(
            f"the recipe {recipe.name!r} has no tokens for regions",
            hint="give them as text (coordinates) or as marks on the picture",
        )
    return wish  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Pointed:
    """A sample made ready for its model.

    Attributes:
        sample: with marks on its pictures and names in its text, where the model needs them.
        asked: the regions of its questions in reading order.
        way: how they reach the model.
        on: the picture of each of them, counted from 0.
    """

    sample: Sample
    asked: tuple[Region, ...]
    way: Way
    on: tuple[int, ...] = ()


def point(recipe: Recipe, sample: Sample, wish: str | None = None) -> Pointed:
    """Names and draws the regions of a sample as its model needs them.

    Raises:
        SampleError: a region without its picture, or a way that the recipe does not have.
        RegionError: a region that does not lie on its picture (marks; the other ways check later).
    """
    chosen = way(recipe, wish)
    asked = [
        part
        for turn in sample.turns
        for part in turn.content
        if turn.role != "assistant" and isinstance(part, Media) and part.kind == "region"
    ]
    regions = tuple(media.data for media in asked)
    if not regions:
        return Pointed(sample, (), chosen)
    on = tuple(_pictures_of(sample, asked))
    if chosen == "marks":
        marks = recipe.marks or Marks()
        drawn = _drawn(recipe, marks, sample, asked)
        numbers = {media: marks.called(i) for i, media in enumerate(asked, start=1)}
        return Pointed(_named(drawn, numbers, drop=True), regions, chosen, on)
    names = recipe.coordinates.names(regions) if chosen == "tokens" else None
    if names is not None:
        called = {media: name for media, name in zip(asked, names, strict=True)}
        sample = _named(sample, called, drop=False)
    return Pointed(sample, regions, chosen, on)


def _pictures_of(sample: Sample, asked: list[Media]) -> Iterator[int]:
    pictures = 0
    for media in sample.media():
        pictures += media.kind == "image"
        if media in asked:
            yield which(media, pictures)


def _named(sample: Sample, names: dict[Media, str], drop: bool) -> Sample:
    """The sample with the name of each region behind the words in front of it.

    A region in front of all words of its turn gets no name where it keeps its own place (`drop` False):
    its turn's text says by itself which ones it means, as records of Draw-and-Understand do
    (arXiv:2403.20271).
    """
    turns = []
    for turn in sample.turns:
        parts: list[Part] = []
        for part in turn.content:
            if not isinstance(part, Media) or part not in names:
                parts.append(part)
                continue
            spoken = any(isinstance(p, str) and p.strip() for p in parts)
            if drop or spoken:
                parts.append(names[part])
            if not drop:
                parts.append(part)
        turns.append(replace(turn, content=tuple(_joined(parts))))
    return replace(sample, turns=tuple(turns))


def _joined(parts: list[Part]) -> list[Part]:
    """Neighbouring texts as one."""
    result: list[Part] = []
    for part in parts:
        if result and isinstance(part, str) and isinstance(result[-1], str):
            result[-1] += part
        else:
            result.append(part)
    return result


def _drawn(recipe: Recipe, marks: Marks, sample: Sample, asked: list[Media]) -> Sample:
    """The sample with its regions drawn on the pictures they lie on."""
    name = recipe.modality_for("image")
    if name is None:
        raise SampleError(
            f"the recipe {recipe.name!r} takes no pictures", hint="ask without regions"
        )
    opens = recipe.modalities[name].opens
    numbers = {media: i for i, media in enumerate(asked, start=1)}
    pictures: list[Media] = []
    on: dict[int, list[tuple[int, Region]]] = {}
    for media in sample.media():
        if media.kind == "image":
            pictures.append(media)
        elif media in numbers:
            on.setdefault(which(media, len(pictures)), []).append((numbers[media], media.data))
    drawn: dict[Media, Media] = {}
    for index, regions in on.items():
        assert isinstance(opens, MediaOpener)
        picture = opens.once(pictures[index])
        for number, region in regions:
            check_given(region, picture.width, picture.height, f"region {number}")
        drawn[pictures[index]] = Media.image(
            marks.draw(picture, regions), label=pictures[index].label
        )
    return _replaced(sample, lambda media: drawn.get(media, media))


def _replaced(sample: Sample, change: Callable[[Media], Media]) -> Sample:
    turns = tuple(
        Turn(turn.role, tuple(change(p) if isinstance(p, Media) else p for p in turn.content))
        for turn in sample.turns
    )
    return replace(sample, turns=turns)


def written(recipe: Recipe, regions: Sequence[Region], view: View, labels: bool) -> str:
    """Regions on one picture as text, in the recipe's convention.

    Args:
        labels: write what they are called too, as answers do.

    Raises:
        RegionError: one that does not lie on the picture.
    """
    for region in regions:
        check_given(region, *view.size)
    return recipe.coordinates.write(regions, view, labels=labels)


def readable(
    recipe: Recipe, text: str, view: View, asked: Sequence[Region], chosen: str = "tokens"
) -> ParsedRegions:
    """The regions of an answer: in the recipe's convention, and by their marks where it saw marks."""
    codec = recipe.coordinates
    if chosen != "marks" or not asked:
        return codec.read(text, view, asked)
    marks = recipe.marks or Marks()
    return codec.read(text, view, asked, tuple(marks.find(text, asked)))


def which(media: Media, pictures: int) -> int:
    """Which picture a region lies on: the one it names, else the last of those before it.

    Args:
        media: the region.
        pictures: how many pictures came before it.

    Raises:
        SampleError: that one did not come.
    """
    last = pictures - 1
    index = last if media.on is None else media.on
    if not 0 <= index <= last:
        named = "no picture came" if last < 0 else f"{last + 1} came"
        of = "a picture" if media.on is None else f"picture {index}, counted from 0"
        raise SampleError(
            f"a region lies on {of}, but {named} before it",
            hint="put the picture before the region",
        )
    return index
