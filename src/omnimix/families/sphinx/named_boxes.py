"""Boxes that an answer names, as SPHINX's demo reads and colours them (golden/specs/sphinx.md section 7).

For pixels of a picture use `Answer.boxes`; this is the demo's own reading with its quirks: objects are
found from right to left, named ones first, and numbers without a decimal point are not seen. Golden:
sphinx/metrics, `demo_boxes`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

COLOURS = ("red", "blue", "green", "purple", "orange")

_LIST = r"\[[\d.,;\s]*\]"
_OBJECT = re.compile(rf"<p>(.{{0,500}}?)</p>\s*({_LIST})|({_LIST})")
_NUMBER = re.compile(r"\d+\.\d+")


@dataclass(frozen=True)
class Named:
    """One bracket of an answer.

    Attributes:
        name: what stands between `<p>` and `</p>`; empty where there is none.
        coords: groups of numbers between semicolons: 4 are a box, 2 a point, fractions of the padded square.
        colour: it is drawn and written in.
    """

    name: str
    coords: tuple[tuple[float, ...], ...]
    colour: str


def read(text: str) -> tuple[list[Named], str]:
    """The objects of an answer, and the answer with coloured spans around them."""
    found = list(_OBJECT.finditer(text))[::-1]
    named = [match for match in found if match.group(2) is not None]
    colours = {m.start(): COLOURS[i % len(COLOURS)] for i, m in enumerate(named)}
    rest = COLOURS[len(named) % len(COLOURS)]  # all nameless ones share the next colour
    objects = [_object(m, colours.get(m.start(), rest)) for m in named]
    objects += [_object(m, rest) for m in found if m.group(2) is None]
    for match in found:
        colour = colours.get(match.start(), rest)
        inner = (match.group(1) or "") + (match.group(2) or match.group(3))
        span = f'<span style="color:{colour}">{inner}</span>'
        text = text[: match.start()] + span + text[match.end() :]
    return objects, text


def _object(match: re.Match[str], colour: str) -> Named:
    groups = (match.group(2) or match.group(3)).split(";")
    coords = tuple(tuple(map(float, _NUMBER.findall(group))) for group in groups)
    return Named(match.group(1) or "", coords, colour)


def pixel_boxes(objects: Sequence[Named], width: int, height: int) -> list[tuple[int, ...]]:
    """All boxes in whole pixels of a picture, cut towards zero; they may lie outside."""
    side = max(width, height)
    border = (max(0, (height - width) // 2), max(0, (width - height) // 2))
    return [
        tuple(int(value * side - border[i % 2]) for i, value in enumerate(group))
        for one in objects
        for group in one.coords
        if len(group) == 4
    ]
