"""What an answer says, read before it is scored: a letter, yes or no, a number, a box. Reading never fails.

What cannot be read becomes the empty text, which is never right; nothing is guessed by chance.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from omnimix.errors import RegistryError
from omnimix.evaluate.grounding import answered_box
from omnimix.evaluate.short_answers import yes_no
from omnimix.generate.answers import Answer
from omnimix.registry import did_you_mean
from omnimix.types import Box

VERSION = 1
"""Goes up when an answer is read in another way."""

_LETTER = re.compile(
    r"^\W*(?:(?:the )?(?:correct )?(?:answer|option|choice)(?: is)?\W*)?\(?([A-Z])(?:[).:,\s]|$)",
    re.I,
)
_INSIDE = re.compile(r"\(([A-Z])\)|(?:answer|option|choice)(?: is)?:? *\(?([A-Z])\b", re.I)
_NUMBER = re.compile(r"-?\d+(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?")
_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
]


def letter(text: str, choices: Sequence[str]) -> str:
    """The letter of a choice: at the start (`B`, `(B)`, `Answer: B.`), in brackets, or the choice's own words.

    A word that begins with a letter (`A dog`) is no letter where it is one of the choices.
    """
    said = text.strip()
    most = chr(ord("A") + max(len(choices), 1) - 1) if choices else "Z"
    plain = [choice.strip().lower().rstrip(".") for choice in choices]
    if said.lower().rstrip(".") in plain:
        return chr(ord("A") + plain.index(said.lower().rstrip(".")))
    first = _LETTER.match(said)
    # `A man ...` is a sentence, `A` and `A. man` are answers.
    if first and not (first[1] in "AaIi" and re.match(r"^[AI] [a-z]", said)):
        return first[1].upper() if first[1].upper() <= most else ""
    inside: set[str] = {(a or b).upper() for a, b in _INSIDE.findall(said)}
    inside = {one for one in inside if one <= most}
    if len(inside) == 1:
        return inside.pop()
    named = [
        i
        for i, one in enumerate(plain)
        if one and re.search(rf"\b{re.escape(one)}\b", said.lower())
    ]
    return chr(ord("A") + named[0]) if len(named) == 1 else ""


def number(text: str) -> str:
    """The first number, thousands without commas; number words up to fifteen are numbers."""
    found = _NUMBER.search(text)
    words = (
        str(_WORDS.index(word)) for word in re.findall("[a-z]+", text.lower()) if word in _WORDS
    )
    return str(found[0]).replace(",", "") if found else next(words, "")


def true_false(text: str) -> str:
    """`True` or `False` where the answer begins with it, yes and no too."""
    word = (re.findall("[a-z]+", text.lower()) or [""])[0]
    return {"true": "True", "yes": "True", "false": "False", "no": "False"}.get(word, "")


def unit_box(answer: Answer, size: tuple[int, int]) -> Answer:
    """The box that the model's convention reads, else four numbers in brackets as fractions of the picture."""
    if any(isinstance(one, Box) for one in answer.regions):
        return answer
    box, (width, height) = answered_box(answer.text), size
    shown = Box(box.x1 * width, box.y1 * height, box.x2 * width, box.y2 * height)
    return replace(answer, regions=(shown,) if box.area() > 0 else ())


Parser = Callable[[Answer, Sequence[str], tuple[int, int]], Answer]


def _texts(read: Callable[[str], str]) -> Parser:
    return lambda answer, choices, size: replace(answer, text=read(answer.text))


PARSERS: Mapping[str, Parser] = {
    "text": lambda answer, choices, size: answer,
    "letter": lambda answer, choices, size: replace(answer, text=letter(answer.text, choices)),
    "number": _texts(number),
    "yes_no": _texts(lambda text: said if (said := yes_no(text)) != "other" else ""),
    "true_false": _texts(true_false),
    "unit_box": lambda answer, choices, size: unit_box(answer, size),
    "box": lambda answer, choices, size: answer,
}


def parser(name: str) -> Parser:
    """How an answer is read.

    Raises:
        RegistryError: unknown name, with the nearest known one.
    """
    if name not in PARSERS:
        raise RegistryError(f"unknown parser {name!r}", hint=did_you_mean(name, PARSERS))
    return PARSERS[name]
