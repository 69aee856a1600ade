"""What a picture holds: the exact ground truth that pictures and answers are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from omnimix.types import Box, Point
from omnimix_scenes.vocab import PLURALS, Rgb

Criterion: TypeAlias = tuple[str, str]
"""What is counted or listed: ("shape", "circle"), ("colour", "red") or ("any", "")."""


def article(noun: str) -> str:
    """The noun with "a" or "an" in front."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def plural(criterion: Criterion) -> str:
    """How a criterion is spoken of: "circles", "red things" or "things"."""
    kind, value = criterion
    if kind == "shape":
        return PLURALS[value]
    return f"{value} things" if kind == "colour" else "things"


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawn object.

    Attributes:
        box: the tight box of the whole object, also where another one covers it.
        spots: points well inside the visible part, the most central one first.
        side: the longer side of its box in pixels; `tilt` is in degrees, clockwise.
        rgb: the fill as drawn, a shade of `colour`.
    """

    shape: str
    colour: str
    size: str
    pattern: str
    box: Box
    spots: tuple[Point, ...]
    side: int
    tilt: int
    rgb: Rgb

    @property
    def centre(self) -> Point:
        """The visible point nearest to the object's centre of mass."""
        return self.spots[0]

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def phrase(self) -> str:
        """The whole description, "a small red striped circle"; plain is not mentioned."""
        pattern = "" if self.pattern == "plain" else f"{self.pattern} "
        return f"a {self.size} {self.colour} {pattern}{self.shape}"

    def meets(self, criterion: Criterion) -> bool:
        kind, value = criterion
        return kind == "any" or value == (self.shape if kind == "shape" else self.colour)


@dataclass(frozen=True, slots=True)
class Word:
    """One printed word or number; `box` is the box of its ink, `plate` that of the sign behind."""

    text: str
    font: str
    points: int
    ink: Rgb
    box: Box
    plate: Box | None = None
    plate_rgb: Rgb = (255, 255, 255)

    @property
    def phrase(self) -> str:
        return f"the {'number' if self.text.isdigit() else 'word'} {self.text}"


@dataclass(frozen=True, slots=True)
class Chart:
    """A bar or line chart of labelled whole numbers on an axis from 0 to 10."""

    style: str
    labels: tuple[str, ...]
    values: tuple[int, ...]
    rgbs: tuple[Rgb, ...]
    plot: Box
    label_points: int
    tick_points: int
    step: int


@dataclass(frozen=True, slots=True)
class Ground:
    """The background: a colour that blends into another along an axis."""

    first: Rgb
    second: Rgb
    across: bool
    shadow: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture's ground truth.

    Attributes:
        kind: "shapes", "mixed", "words" or "chart".
        things: objects from the lowest to the topmost.
        words: printed words, from top to bottom.
        focus: the criterion that the objects were laid out around, the most telling one to count.
    """

    kind: str
    split: str
    width: int
    height: int
    ground: Ground
    things: tuple[Thing, ...] = ()
    words: tuple[Word, ...] = ()
    chart: Chart | None = None
    focus: Criterion | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    def count(self, criterion: Criterion) -> int:
        return sum(thing.meets(criterion) for thing in self.things)

    def unique(self) -> list[Thing]:
        """The things that colour and shape alone name."""
        names = [thing.name for thing in self.things]
        return [thing for thing in self.things if names.count(thing.name) == 1]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two scenes to compare; `change` says what became of the first, if they are related."""

    first: Scene
    second: Scene
    change: str = ""
