"""Questions about printed words and about charts."""

from __future__ import annotations

import random

from omnimix.types import Region
from omnimix_scenes.question import (
    Question,
    point_on_word,
    prompt,
    rough_box,
    stroke_on_word,
)
from omnimix_scenes.vocab import is_heldout_word
from omnimix_scenes.world import Scene

_ONE = ("What does it say?", "What is printed?", "Read the text.")
_SEVERAL = ("What does it say?", "What is printed?", "Read all the words.")
_THERE = ("What does {} say?", "What is printed {}?", "Read the text {}.")
_VALUE = ("What is the value of {}?", "How much is {}?")
MOST_READ = 3
"""Words that are asked for all at once."""

_HIGHEST = ("Which is the highest?", "Which has the highest value?")
_LOWEST = ("Which is the lowest?", "Which has the lowest value?")


def read(rng: random.Random, scene: Scene, whole: bool = False) -> Question | None:
    """What is printed: in all of the picture, or at one place of it."""
    words = scene.words
    if not words:
        return None
    # A page is too much to be read out at once.
    if whole or (len(words) <= MOST_READ and rng.random() < (0.5 if len(words) == 1 else 0.25)):
        asked = prompt(rng.choice(_ONE if len(words) == 1 else _SEVERAL))
        text = " ".join(word.text for word in words)
        kind, about = ("word" if len(words) == 1 else "all"), ""
    else:
        word = rng.choice(words)
        region: Region
        pick = rng.randrange(3)
        if pick == 0:
            where, region = "at", point_on_word(rng, word)
        elif pick == 1:
            where, region = "in", rough_box(rng, word.box, scene)
        else:
            where, region = "under", stroke_on_word(word)
        form = rng.choice(_THERE)
        place = "{}" if form.startswith("What does") else f"{where} {{}}"
        asked = prompt(form.format(place), region)
        text, kind, about = word.text, "region", word.text
    unknown = any(is_heldout_word(part) for part in text.split())
    return Question("read", kind, asked, (text,), about, heldout=unknown)


def chart(rng: random.Random, scene: Scene) -> Question | None:
    """A value, or the label of the highest or lowest one where there is only one."""
    given = scene.chart
    if given is None:
        return None
    draw = rng.random()
    if draw < 0.6:
        k = rng.randrange(len(given.labels))
        asked = prompt(rng.choice(_VALUE).format(given.labels[k]))
        choices = tuple(str(value) for value in range(11))
        return Question("chart", "value", asked, (str(given.values[k]),), given.labels[k], choices)
    highest = draw < 0.8
    value = max(given.values) if highest else min(given.values)
    if given.values.count(value) != 1:
        return None
    asked = prompt(rng.choice(_HIGHEST if highest else _LOWEST))
    label = given.labels[given.values.index(value)]
    kind = "highest" if highest else "lowest"
    return Question("chart", kind, asked, (label,), choices=given.labels)
