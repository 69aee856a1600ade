"""Lessons: short questions with dense answers, for the first stage of a model that cannot see yet.

A conversation of tasks spends most of its tokens on questions and learns a word or two from each answer. A
lesson turns that round: next to no question, and an answer that tells what is there. They are asked in
training alone, never scored, and only where a training file names them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

from omnimix.types import Box, Media, Part, Point, Region
from omnimix_scenes.fonts import font
from omnimix_scenes.question import (
    Question,
    boxes_answer,
    point_at,
    point_on_word,
    rough_box,
    stroke_on,
    stroke_on_word,
)
from omnimix_scenes.world import Scene, Thing, Word

MOST_NAMED = 5


def _about(box: Box, kind: str = "") -> str:
    return f"{box.x1} {box.y1} {kind}"


def _spot(rng: random.Random, scene: Scene, item: Thing | Word, kind: str) -> Region:
    """A region on a thing or word."""
    if isinstance(item, Word):
        if kind == "box":
            return rough_box(rng, item.box, scene)
        return point_on_word(rng, item) if kind == "point" else stroke_on_word(item)
    if kind == "box":
        return rough_box(rng, item.box, scene)
    return point_at(rng, item) if kind == "point" else stroke_on(rng, item)


def tag(rng: random.Random, scene: Scene) -> Question | None:
    """A region alone, answered with all that is known about the thing under it."""
    if not scene.things:
        return None
    thing = rng.choice(scene.things)
    kind = rng.choice(("point", "box", "stroke"))
    asked = (Media.region(_spot(rng, scene, thing, kind), on=0),)
    return Question("tag", kind, asked, (thing.phrase,), _about(thing.box))


def outline(rng: random.Random, scene: Scene) -> Question | None:
    """The box of what lies at a point or under a stroke."""
    items: list[Thing | Word] = [*scene.things, *scene.words]
    if not items:
        return None
    item = rng.choice(items)
    region = Media.region(_spot(rng, scene, item, rng.choice(("point", "stroke"))), on=0)
    return Question("outline", "box", ("Box ", region), boxes_answer((item.box,)), _about(item.box))


@lru_cache(maxsize=256)
def letter_boxes(word: Word) -> tuple[Box, ...]:
    """The box of each letter of a printed word, in pixels."""
    face = font(word.font, word.points)
    left = word.box.x1 - face.getbbox(word.text)[0]
    edges = [left + face.getlength(word.text[:k]) for k in range(len(word.text) + 1)]
    return tuple(Box(x1, word.box.y1, x2, word.box.y2) for x1, x2 in pairwise(edges))


def spell(rng: random.Random, scene: Scene) -> Question | None:
    """The letter at a point."""
    if not scene.words:
        return None
    word = rng.choice(scene.words)
    k = rng.randrange(len(word.text))
    box = letter_boxes(word)[k]
    across, down = box.x2 - box.x1, box.y2 - box.y1
    x = box.x1 + across * rng.uniform(0.3, 0.7)
    y = box.y1 + down * rng.uniform(0.35, 0.65)
    asked = (Media.region(Point(round(x, 1), round(y, 1)), on=0),)
    return Question("spell", "letter", asked, (word.text[k],), _about(box, "letter"))


RASTER = 7
"""Cells a side into which `cell` cuts the square around a picture."""


def cell(rng: random.Random, scene: Scene) -> Question | None:
    """How many things have their middle in a cell of a raster: one place for each thing, to count by."""
    if not scene.things:
        return None
    width, height = scene.size
    side = max(width, height)
    step = side / RASTER
    left, top = (side - width) / 2, (side - height) / 2
    middles = [
        (
            int(((thing.box.x1 + thing.box.x2) / 2 + left) // step),
            int(((thing.box.y1 + thing.box.y2) / 2 + top) // step),
        )
        for thing in scene.things
    ]
    if rng.random() < 0.5:
        column, row = rng.choice(middles)
    else:
        column, row = rng.randrange(RASTER), rng.randrange(RASTER)
    box = Box(
        max(column * step - left, 0.0),
        max(row * step - top, 0.0),
        min((column + 1) * step - left, float(width)),
        min((row + 1) * step - top, float(height)),
    )
    # The rim of an oblong picture cuts cells; what little is left of one is not asked about.
    if box.x2 - box.x1 < step / 2 or box.y2 - box.y1 < step / 2:
        return None
    amount = middles.count((column, row))
    return Question(
        "cell", "count", ("Count ", Media.region(box, on=0)), (str(amount),), _about(box, "cell")
    )


def census(rng: random.Random, scene: Scene) -> Question | None:
    """Everything that is there with its box, from left to right."""
    items: list[Thing | Word] = [*scene.things, *scene.words]
    if not 0 < len(items) <= MOST_NAMED:
        return None
    items.sort(key=lambda item: (item.box.x1, item.box.y1))
    answer: list[Part] = []
    for item in items:
        name = item.phrase[4:] if isinstance(item, Word) else item.phrase[2:]
        answer += [f"{name} ", Media.region(item.box, on=0), ", "]
    return Question("census", "scene", ("List.",), tuple(answer[:-1]))


LESSONS: dict[str, Callable[[random.Random, Scene], Question | None]] = {
    "tag": tag,
    "outline": outline,
    "spell": spell,
    "census": census,
    "cell": cell,
}
