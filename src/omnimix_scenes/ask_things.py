"""Questions about objects: what, whether, how many, where."""

from __future__ import annotations

import random

from omnimix.types import Box, Region
from omnimix_scenes.question import (
    Question,
    boxes_answer,
    point_at,
    point_on_word,
    prompt,
    rough_box,
    stroke_on,
)
from omnimix_scenes.vocab import COLOURS, HELDOUT_PAIRS, SHAPES, allowed, is_heldout_word
from omnimix_scenes.world import Criterion, Scene, Thing, Word, article, plural

MOST_COUNTED = 6
_NUMBERS = tuple(str(k) for k in range(MOST_COUNTED + 1))

# Each form: what follows "at" a point, "in" a box and "under" a stroke.
_ATTRIBUTE: dict[str, tuple[str, ...]] = {
    "phrase": ("What is {}?", "Describe what is {}."),
    "name": ("Name the thing {}.", "Which thing is {}?"),
    "colour": ("What colour is the thing {}?", "Which colour is {}?"),
    "shape": ("What shape is {}?", "Which shape is {}?"),
}
_DESCRIBE = ("Describe the picture.", "What is in the picture?", "What do you see?")
_EXISTS = ("Is there {}?", "Can you see {}?", "Does the picture show {}?")
_COUNT = ("How many {} are there?", "Count the {}.", "How many {} do you see?")
_FIND = ("Where is the {}?", "Find the {}.", "Point out the {}.")
_LIST = ("Find all {}.", "Where are the {}?", "Point out all {}.")
_SIDES = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def _heldout(thing: Thing | Word) -> bool:
    if isinstance(thing, Word):
        return is_heldout_word(thing.text)
    return (thing.colour, thing.shape) in HELDOUT_PAIRS


def describe(rng: random.Random, scene: Scene) -> Question | None:
    """All things and words from left to right; only where there are at most four."""
    chart = scene.chart
    if chart is not None:
        text = f"a {chart.style} chart with {len(chart.values)} values"
        return Question("describe", "chart", (rng.choice(_DESCRIBE),), (text,))
    seen: list[Thing | Word] = [*scene.things, *scene.words]
    if len(seen) > 4:
        return None
    seen.sort(key=lambda item: (item.box.x1 + item.box.x2, item.box.y1))
    phrases = [item.phrase for item in seen]
    text = ", ".join(phrases[:-1]) + " and " + phrases[-1] if len(phrases) > 1 else "".join(phrases)
    unknown = any(_heldout(item) for item in seen)
    question = (rng.choice(_DESCRIBE),)
    return Question("describe", "scene", question, (text or "nothing",), heldout=unknown)


def attribute(rng: random.Random, scene: Scene, kinds: tuple[str, ...] = ()) -> Question | None:
    """What lies at a point, in a box or under a stroke."""
    if not scene.things:
        return None
    if scene.words and not kinds and rng.random() < 0.15:
        word = rng.choice(scene.words)
        where, spot = rng.choice(
            (("at", point_on_word(rng, word)), ("in", rough_box(rng, word.box, scene)))
        )
        asked = prompt(rng.choice(_ATTRIBUTE["phrase"]).format(f"{where} {{}}"), spot)
        return Question("attribute", "phrase", asked, (word.phrase,), word.text)
    thing = rng.choice(scene.things)
    kind = rng.choice(kinds or ("phrase", "phrase", "name", "colour", "shape"))
    pick = rng.randrange(3)
    region: Region
    if pick == 0:
        where, region = "at", point_at(rng, thing)
    elif pick == 1:
        where, region = "in", rough_box(rng, thing.box, scene)
    else:
        where, region = "under", stroke_on(rng, thing)
    asked = prompt(rng.choice(_ATTRIBUTE[kind]).format(f"{where} {{}}"), region)
    answers = {
        "phrase": (thing.phrase, ()),
        "name": (thing.name, ()),
        "colour": (thing.colour, tuple(COLOURS)),
        "shape": (thing.shape, SHAPES),
    }
    answer, choices = answers[kind]
    about = f"{thing.box.x1} {thing.box.y1}"
    return Question("attribute", kind, asked, (answer,), about, choices, heldout=_heldout(thing))


def _absent(rng: random.Random, scene: Scene) -> tuple[str, str] | None:
    """A (colour, shape) that is not there, most often of a colour and a shape that both are."""
    present = {(thing.colour, thing.shape) for thing in scene.things}
    hard = rng.random() < 0.85
    for _ in range(20):
        colour, shape = rng.choice(tuple(COLOURS)), rng.choice(SHAPES)
        if hard:
            draw = rng.random()
            if draw < 0.75:
                colour = rng.choice(scene.things).colour
            if draw > 0.25:
                shape = rng.choice(scene.things).shape
        if (colour, shape) not in present and allowed(colour, shape, scene.split):
            return colour, shape
    return None


def exists(rng: random.Random, scene: Scene) -> Question | None:
    """Whether something is there; as often yes as no, whatever the scene."""
    if not scene.things:
        return None
    yes = rng.random() < 0.5
    kind = rng.choice(("pair", "pair", "pair", "shape", "colour"))
    unknown = False
    if kind == "pair":
        pair = _absent(rng, scene)
        if yes:
            thing = rng.choice(scene.things)
            pair = (thing.colour, thing.shape)
        if pair is None:
            return None
        unknown = pair in HELDOUT_PAIRS
        noun = f"{pair[0]} {pair[1]}"
    else:
        values = tuple(COLOURS) if kind == "colour" else SHAPES
        fitting = [value for value in values if (scene.count((kind, value)) > 0) == yes]
        if not fitting:
            return None
        value = rng.choice(fitting)
        noun = f"{value} thing" if kind == "colour" else value
    asked = (rng.choice(_EXISTS).format(article(noun)),)
    return Question(
        "exists", kind, asked, ("yes" if yes else "no",), noun, ("yes", "no"), heldout=unknown
    )


def criteria(scene: Scene) -> dict[Criterion, int]:
    """All that can be counted in a scene, with its count."""
    found: dict[Criterion, int] = {("shape", shape): 0 for shape in SHAPES}
    found |= {("colour", colour): 0 for colour in COLOURS}
    for thing in scene.things:
        found["shape", thing.shape] += 1
        found["colour", thing.colour] += 1
    # With words about it is not clear what a thing is.
    if not scene.words:
        found["any", ""] = len(scene.things)
    return found


def count(rng: random.Random, scene: Scene, focused: bool = False) -> Question | None:
    """How many; the counts that a scene offers are drawn alike, so that small ones do not prevail."""
    found = criteria(scene)
    criterion = scene.focus
    if criterion is None or not (focused or rng.random() < 0.55):
        amounts = sorted({amount for amount in found.values() if amount <= MOST_COUNTED})
        weights = [0.3 if amount < 2 else float(amount) for amount in amounts]
        amount = rng.choices(amounts, weights)[0]
        criterion = rng.choice([key for key, value in found.items() if value == amount])
    if found[criterion] > MOST_COUNTED:
        return None
    asked = (rng.choice(_COUNT).format(plural(criterion)),)
    return Question("count", criterion[0], asked, (str(found[criterion]),), criterion[1], _NUMBERS)


def _middle(box: Box) -> tuple[float, float]:
    return (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2


def _called(item: Thing | Word) -> str:
    return item.phrase if isinstance(item, Word) else f"the {item.name}"


def spatial(rng: random.Random, scene: Scene) -> Question | None:
    """How two things that are named without doubt lie to each other."""
    items: list[Thing | Word] = [*scene.unique(), *scene.words]
    if len(items) < 2:
        return None
    first, second = rng.sample(items, 2)
    (x1, y1), (x2, y2) = _middle(first.box), _middle(second.box)
    dx, dy = x1 - x2, y1 - y2
    least = 0.14 * max(scene.size)
    sides = []
    if abs(dx) > least:
        sides.append("left" if dx < 0 else "right")
    if abs(dy) > least:
        sides.append("above" if dy < 0 else "below")
    if not sides:
        return None
    unknown = _heldout(first) or _heldout(second)
    one, other = _called(first), _called(second)
    about = "/".join(sorted((one, other)))
    if rng.random() < 0.5:
        yes = rng.random() < 0.5
        side = rng.choice(sides)
        relation = _SIDES[side if yes else _OPPOSITE[side]]
        asked = (f"Is {one} {relation} {other}?",)
        answer, choices = ("yes" if yes else "no"), ("yes", "no")
        return Question("spatial", "is", asked, (answer,), about, choices, heldout=unknown)
    narrow, wide = sorted((abs(dx), abs(dy)))
    if wide < 1.7 * narrow:
        return None
    form = rng.choice(("Where is {0}, seen from {1}?", "Seen from {1}, where is {0}?"))
    side = sides[0] if abs(dx) > abs(dy) else sides[-1]
    asked = (form.format(one, other),)
    return Question("spatial", "where", asked, (side,), about, tuple(_SIDES), heldout=unknown)


def find(rng: random.Random, scene: Scene, words: bool = True) -> Question | None:
    """The box of the one thing or word of a name."""
    items: list[tuple[str, Thing | Word]] = [(thing.name, thing) for thing in scene.unique()]
    items += [
        (thing.shape, thing) for thing in scene.things if scene.count(("shape", thing.shape)) == 1
    ]
    if words:
        texts = [word.text for word in scene.words]
        items += [(w.phrase[4:], w) for w in scene.words if texts.count(w.text) == 1]
    if not items:
        return None
    noun, item = rng.choice(items)
    kind = "word" if isinstance(item, Word) else "pair" if " " in noun else "shape"
    asked = (rng.choice(_FIND).format(noun),)
    answer = boxes_answer((item.box,))
    return Question("find", kind, asked, answer, noun, boxes=(item.box,), heldout=_heldout(item))


def list_all(rng: random.Random, scene: Scene, focused: bool = False) -> Question | None:
    """The number and the boxes of all things that meet a criterion, from left to right."""
    criterion = scene.focus
    if criterion is None or not (focused or rng.random() < 0.7):
        found = criteria(scene)
        found.pop(("any", ""), None)
        present = [key for key, amount in found.items() if amount]
        if present and rng.random() < 0.88:
            criterion = rng.choice(present)
        else:
            criterion = rng.choice([key for key, amount in found.items() if not amount])
    boxes = [thing.box for thing in scene.things if thing.meets(criterion)]
    if len(boxes) > MOST_COUNTED:
        return None
    boxes.sort(key=lambda box: (box.x1, box.y1))
    asked = (rng.choice(_LIST).format(plural(criterion)),)
    answer = (f"{len(boxes)}: ", *boxes_answer(boxes)) if boxes else ("none",)
    return Question("list", criterion[0], asked, answer, criterion[1], boxes=tuple(boxes))
