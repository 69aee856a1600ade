"""One question and its answer, and the ways to point at things in it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from omnimix.types import Box, Media, Part, Point, Region, Stroke
from omnimix_scenes.world import Scene, Thing, Word


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its answer.

    Attributes:
        kind: the form of the question within its task.
        prompt: what is asked, without the picture.
        answer: what is answered, boxes as media.
        choices: the answers to guess from, for the level of chance; empty where there are too many.
        about: what it asks after; no conversation asks the same twice in other words.
        boxes: the boxes of the answer.
        heldout: whether it turns on something that never occurs in training.
    """

    task: str
    kind: str
    prompt: tuple[Part, ...]
    answer: tuple[Part, ...]
    about: str = ""
    choices: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    heldout: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """What tells two questions about one picture apart, whatever their wording."""
        return (self.task, self.kind, self.about)

    @property
    def text(self) -> str:
        """The answer's words, without its boxes."""
        return "".join(part for part in self.answer if isinstance(part, str)).strip()


def prompt(template: str, region: Region | None = None, on: int = 0) -> tuple[Part, ...]:
    """The template's text with the region in place of "{}"."""
    if region is None:
        return (template,)
    before, after = template.split("{}")
    return (before, Media.region(region, on=on), after)


def boxes_answer(boxes: Sequence[Box]) -> tuple[Part, ...]:
    """Boxes separated by spaces."""
    parts: list[Part] = []
    for box in boxes:
        parts += [Media.region(box, on=0), " "]
    return tuple(parts[:-1])


def rough_box(rng: random.Random, box: Box, scene: Scene) -> Box:
    """A box as a person would draw it: each edge off by up to 8 percent, inside the picture."""
    across, down = (box.x2 - box.x1) * 0.08, (box.y2 - box.y1) * 0.08
    return Box(
        round(max(box.x1 + rng.uniform(-across, across), 0.0), 1),
        round(max(box.y1 + rng.uniform(-down, down), 0.0), 1),
        round(min(box.x2 + rng.uniform(-across, across), scene.width), 1),
        round(min(box.y2 + rng.uniform(-down, down), scene.height), 1),
    )


def point_at(rng: random.Random, thing: Thing) -> Point:
    """A click on the visible part of a thing."""
    return rng.choice(thing.spots)


def stroke_on(rng: random.Random, thing: Thing) -> Stroke:
    """A short scribble along neighbouring points of the visible part of a thing."""
    start = rng.choice(thing.spots)
    near = sorted(thing.spots, key=lambda p: (p.x - start.x) ** 2 + (p.y - start.y) ** 2)
    points = [(p.x, p.y) for p in near[: rng.randint(2, 3)]]
    if len(points) < 2:
        points.append((start.x + 2.0, start.y + 1.0))
    return Stroke(tuple(points))


def point_on_word(rng: random.Random, word: Word) -> Point:
    """A click on a printed word, off its edges."""
    across, down = word.box.x2 - word.box.x1, word.box.y2 - word.box.y1
    x = word.box.x1 + across * rng.uniform(0.15, 0.85)
    y = word.box.y1 + down * rng.uniform(0.25, 0.75)
    return Point(round(x, 1), round(y, 1))


def stroke_on_word(word: Word) -> Stroke:
    """An underline-like stroke through a printed word."""
    middle = (word.box.y1 + word.box.y2) / 2
    margin = (word.box.x2 - word.box.x1) * 0.08
    return Stroke(((word.box.x1 + margin, middle), (word.box.x2 - margin, middle)))
