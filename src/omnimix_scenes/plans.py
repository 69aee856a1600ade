"""What is drawn and asked together: the kinds of pictures, their shares and their tasks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from omnimix_scenes import ask_print, ask_things, pairs
from omnimix_scenes.ask_lessons import LESSONS
from omnimix_scenes.layout import any_focus, mixed_scene, shapes_scene
from omnimix_scenes.printing import chart_scene, page_scene, words_scene
from omnimix_scenes.question import Question
from omnimix_scenes.world import Pair, Scene

ASKERS: dict[str, Callable[[random.Random, Scene], Question | None]] = {
    "describe": ask_things.describe,
    "attribute": ask_things.attribute,
    "exists": ask_things.exists,
    "count": ask_things.count,
    "spatial": ask_things.spatial,
    "find": ask_things.find,
    "list": ask_things.list_all,
    "read": ask_print.read,
    "chart": ask_print.chart,
    **LESSONS,
}
_THINGS = {
    "describe": 1.0,
    "attribute": 2.0,
    "exists": 1.4,
    "count": 4.0,
    "spatial": 1.6,
    "find": 3.0,
    "list": 1.5,
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of picture: its share, the weights of its tasks, and how many questions it bears.

    `lessons` are the weights of lessons, which count only where they are asked for by name.
    """

    share: float
    tasks: dict[str, float]
    least: int
    most: int
    lessons: dict[str, float] = field(default_factory=dict)


KINDS: dict[str, Kind] = {
    "shapes": Kind(0.40, _THINGS, 6, 6, {"tag": 4.0, "outline": 2.0, "census": 0.5, "cell": 3.0}),
    "mixed": Kind(
        0.16,
        _THINGS | {"read": 5.0},
        6,
        6,
        {"tag": 4.0, "outline": 1.5, "spell": 4.0, "census": 0.5},
    ),
    "words": Kind(
        0.21,
        {"read": 4.0, "find": 1.5, "describe": 0.7},
        2,
        4,
        {"spell": 8.0, "outline": 1.0, "census": 0.5},
    ),
    "chart": Kind(0.11, {"chart": 5.0, "describe": 0.4}, 3, 4),
    "pair": Kind(0.12, {"compare": 1.0}, 2, 3),
    # Drawn only where it is asked for by name: a lesson's picture.
    "page": Kind(0.0, {"read": 1.0}, 2, 4, {"spell": 3.0, "outline": 0.3}),
}
NAMED_SHARE = 0.2
"""Share of a kind without one of its own where it is named."""
# How many objects a scene of shapes holds, 0 to 8.
_AMOUNTS = (0.02, 0.10, 0.14, 0.16, 0.16, 0.14, 0.12, 0.09, 0.07)


# How often 0 to 6 things of the same colour or shape are laid out in a conversation's scene: many are
# rare in all other scenes.
_SHARES = (0.5, 0.6, 0.8, 1.4, 1.5, 1.5, 1.5)


def _focused(rng: random.Random, split: str, share: int) -> Scene:
    """A scene to count in, of which `share` is the answer."""
    if rng.random() < 0.2:
        return shapes_scene(rng, split, share, ("any", ""), share)
    count = min(max(share + rng.randint(0, 4), 1), 8)
    return shapes_scene(rng, split, count, any_focus(rng), share)


def _shapes(rng: random.Random, split: str) -> Scene:
    """A scene of shapes; in half of them there are 0 to 6 of one colour or shape."""
    if rng.random() < 0.5:
        return _focused(rng, split, rng.choices(range(len(_SHARES)), _SHARES)[0])
    return shapes_scene(rng, split, rng.choices(range(len(_AMOUNTS)), _AMOUNTS)[0])


def _mixed(rng: random.Random, split: str) -> Scene:
    base = words_scene(rng, split, rng.choice((1, 1, 1, 2)), small=True)
    return mixed_scene(rng, base, rng.randint(1, 4))


def _pair(rng: random.Random, split: str) -> Pair:
    if rng.random() < 0.6:
        return pairs.changed_pair(rng, split)
    return pairs.free_pair(rng, split)


def seen_of(rng: random.Random, kind: str, split: str) -> Scene | Pair:
    """What a conversation of this kind is about."""
    if kind == "pair":
        return _pair(rng, split)
    if kind == "mixed":
        return _mixed(rng, split)
    if kind == "words":
        return words_scene(rng, split, rng.choice((1, 1, 2, 3)))
    if kind == "page":
        return page_scene(rng, split)
    return chart_scene(rng, split) if kind == "chart" else _shapes(rng, split)


def asked_of(rng: random.Random, task: str, split: str) -> tuple[Scene | Pair, Question | None]:
    """A fresh scene made for one question of a task, and the question, if it can be asked."""
    seen: Scene | Pair
    if task == "compare":
        seen = _pair(rng, split)
        return seen, pairs.compare(rng, seen)
    if task == "chart":
        seen = chart_scene(rng, split)
        return seen, ask_print.chart(rng, seen)
    if task == "read":
        seen = words_scene(rng, split, 1, lengths=(3, 6), numbers=False)
        return seen, ask_print.read(rng, seen, whole=True)
    if task == "count":
        seen = _focused(rng, split, rng.randint(0, ask_things.MOST_COUNTED))
        return seen, ask_things.count(rng, seen, focused=True)
    if task == "describe":
        mixed = rng.random() < 0.25
        seen = _mixed(rng, split) if mixed else shapes_scene(rng, split, rng.randint(1, 4))
        return seen, ask_things.describe(rng, seen)
    if task == "list":
        share = rng.choice((0, 1, 2, 3, 4, 5))
        focus = any_focus(rng)
        seen = shapes_scene(rng, split, min(max(share + rng.randint(0, 4), 1), 8), focus, share)
        return seen, ask_things.list_all(rng, seen, focused=True)
    seen = shapes_scene(rng, split, rng.randint(2, 6))
    if task == "find":
        return seen, ask_things.find(rng, seen, words=False)
    if task == "attribute":
        return seen, ask_things.attribute(rng, seen, kinds=("name", "colour", "shape"))
    return seen, ASKERS[task](rng, seen)


def pictures(seen: Scene | Pair) -> tuple[Scene, ...]:
    return (seen.first, seen.second) if isinstance(seen, Pair) else (seen,)
