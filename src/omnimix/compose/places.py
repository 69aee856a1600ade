"""Places: which modality an item of a sample is for, and where in the sequence it stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from omnimix.compose.pointing import Way
from omnimix.compose.recipe import Recipe
from omnimix.errors import SampleError
from omnimix.prompts.template import Hole
from omnimix.types import Media

Place: TypeAlias = Literal["text", "inline", "start", "second"]


@dataclass(frozen=True)
class Spot:
    """Where one item stands.

    Attributes:
        place: `text` where it is written (a region as coordinates); else `inline` in its turn, at the `start`
            behind the begin token, or behind the first token whatever that is (`second`).
        modality: the recipe's; empty for what is written.
        shared: whether all items of the modality share one tile.
    """

    place: Place
    modality: str = ""
    shared: bool = False


class Places:
    """The places that a recipe has for the items of a sample.

    Args:
        recipe: modalities with their places and limits.
        way: how regions reach the model.
    """

    def __init__(self, recipe: Recipe, way: Way) -> None:
        self.recipe = recipe
        self.way = way

    def stands_second(self, media: Media) -> bool:
        """Whether an item stands outside of its turn's text, whose words are then joined."""
        name = self._modality(media)
        return name is not None and self.recipe.modalities[name].place == "second"

    def spots(self, holes: Iterable[Hole]) -> dict[Hole, Spot]:
        """For every hole where its item stands, in the order of the holes.

        Raises:
            SampleError: an item that no modality takes, one in an answer, or more than there are places.
        """
        spots = {hole: self._spot(hole) for hole in holes}
        counts = Counter(spot.modality for spot in spots.values() if spot.modality)
        for name, count in counts.items():
            spec = self.recipe.modalities[name]
            limit = spec.limit if spec.slots is None else spec.slots
            if limit is not None and count > limit:
                raise SampleError(
                    f"{count} items of {name!r}, but the recipe {self.recipe.name!r} has places "
                    f"for {limit}",
                    hint="send fewer at once",
                )
        return spots

    def _spot(self, hole: Hole) -> Spot:
        region = hole.media.kind == "region"
        if hole.answer and not region:
            raise SampleError(
                f"an answer holds an item of kind {hole.media.kind!r}",
                hint="only regions can stand in an answer, as coordinates",
            )
        name = self._modality(hole.media)
        # A model answers in words, so a region in an answer is written even where questions have tokens.
        if hole.answer or (name is None and region):
            return Spot("text")
        if name is None:
            taken = {k for spec in self.recipe.modalities.values() for k in spec.opens.takes()}
            raise SampleError(
                f"the recipe {self.recipe.name!r} has no place for an item of kind "
                f"{hole.media.kind!r}",
                hint=f"it takes {', '.join(sorted(taken)) or 'text only'}",
            )
        spec = self.recipe.modalities[name]
        shared = spec.slots is not None
        # A tile that many turns share belongs to none of them, so it never stands inside the text.
        return Spot("start" if shared and spec.place == "inline" else spec.place, name, shared)

    def _modality(self, media: Media) -> str | None:
        """The modality that an item is for; None for a region that is written as text."""
        if media.kind == "region" and self.way != "tokens":
            return None
        return self.recipe.modality_for(media.kind)
