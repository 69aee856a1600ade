"""Two pictures to compare: how they are made, and what is asked about them."""

from __future__ import annotations

import random
from dataclasses import replace

from omnimix_scenes.ask_things import criteria
from omnimix_scenes.layout import any_focus, jittered, shapes_scene
from omnimix_scenes.question import Question
from omnimix_scenes.vocab import COLOURS, HELDOUT_PAIRS, allowed
from omnimix_scenes.world import Criterion, Pair, Scene, article, plural

_MORE = (
    "Which picture has more {}, the first or the second?",
    "Where are more {}, in the first or the second picture?",
)
_CHANGED = (
    "What changed from the first picture to the second?",
    "What is different in the second picture?",
)
_BOTH = ("Do both pictures show {}?", "Is there {} in both pictures?")
_WINNERS = ("the first", "the second", "the same")


def changed_pair(rng: random.Random, split: str) -> Pair:
    """A scene and the same scene with one thing recoloured, added or taken away."""
    while True:
        scene = shapes_scene(rng, split, rng.choice((1, 2, 2, 3, 3, 4, 5)))
        unique = scene.unique()
        if unique:
            break
    thing = rng.choice(unique)
    k = scene.things.index(thing)
    without = replace(scene, things=scene.things[:k] + scene.things[k + 1 :])
    what = rng.randrange(3)
    if what == 0:
        return Pair(scene, without, f"{article(thing.name)} was removed")
    if what == 1:
        return Pair(without, scene, f"{article(thing.name)} was added")
    names = {other.name for other in scene.things}
    colours = [
        colour
        for colour in COLOURS
        if f"{colour} {thing.shape}" not in names and allowed(colour, thing.shape, split)
    ]
    colour = rng.choice(colours)
    rgb = jittered(rng, COLOURS[colour], 3 if colour == "white" else 9)
    painted = replace(thing, colour=colour, rgb=rgb)
    things = (*scene.things[:k], painted, *scene.things[k + 1 :])
    return Pair(scene, replace(scene, things=things), f"the {thing.name} became {colour}")


def free_pair(rng: random.Random, split: str) -> Pair:
    """Two scenes laid out around the same criterion, so that comparing counts is worth it."""
    focus = any_focus(rng)
    shares = [rng.randint(0, 4), rng.randint(0, 4)]
    # Equal counts come by chance in one case of five; one in three is wanted.
    if rng.random() < 0.17:
        shares[1] = shares[0]
    scenes = []
    for share in shares:
        total = max(share + rng.randint(0, 2), 1)
        scenes.append(shapes_scene(rng, split, total, focus, share))
    return Pair(scenes[0], scenes[1])


def _more(rng: random.Random, pair: Pair) -> Question | None:
    one, two = criteria(pair.first), criteria(pair.second)
    results: dict[str, list[Criterion]] = {}
    for key, amount in one.items():
        if amount or two[key]:
            winner = 0 if amount > two[key] else 1 if amount < two[key] else 2
            results.setdefault(_WINNERS[winner], []).append(key)
    answer = rng.choice(_WINNERS)
    focus = pair.first.focus
    if answer not in results:
        return None
    fitting = results[answer]
    criterion = focus if focus in fitting and rng.random() < 0.7 else rng.choice(fitting)
    asked = (rng.choice(_MORE).format(plural(criterion)),)
    return Question("compare", "more", asked, (answer,), criterion[1], _WINNERS)


def _things(scene: Scene, colour: bool) -> set[str]:
    return {thing.name if colour else thing.shape for thing in scene.things}


def _both(rng: random.Random, pair: Pair) -> Question | None:
    # Less often than a "no" is a "yes" possible, so it is tried more often.
    yes = rng.random() < 0.6
    named = rng.random() < 0.5
    nouns: list[str] = []
    for by_name in (named, not named):
        one, two = _things(pair.first, by_name), _things(pair.second, by_name)
        # A "no" is worth asking where one of the two shows it.
        nouns = nouns or sorted(one & two if yes else one ^ two)
    if not nouns:
        return None
    noun = rng.choice(nouns)
    asked = (rng.choice(_BOTH).format(article(noun)),)
    unknown = tuple(noun.split()) in HELDOUT_PAIRS
    answer = ("yes" if yes else "no",)
    return Question("compare", "both", asked, answer, noun, ("yes", "no"), heldout=unknown)


def compare(rng: random.Random, pair: Pair) -> Question | None:
    """One question about two pictures."""
    if pair.change and rng.random() < 0.6:
        asked = (rng.choice(_CHANGED),)
        unknown = any(f"{colour} {shape}" in pair.change for colour, shape in HELDOUT_PAIRS)
        return Question("compare", "changed", asked, (pair.change,), heldout=unknown)
    return _more(rng, pair) if rng.random() < 0.6 else _both(rng, pair)
