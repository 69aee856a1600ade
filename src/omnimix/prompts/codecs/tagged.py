"""Conventions with tags in plain text: InternVL and Molmo."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from omnimix.media.tiles import View
from omnimix.prompts.coordinates import Candidate, Codec, Numbers, extended
from omnimix.types import Region

_SIDE = (1000.0, 1000.0)
# Every bracket is looked at from one start alone, so that reading takes time in proportion to the text.
_BOXES = re.compile(
    r"(?:<ref>([^<]*)</ref>\s*)?(?:<box>\s*)?\[\s*((?:\[[^\[\]<>]*\][\s,]*)+)\](?:\s*</box>)?"
)
_LIST = re.compile(r"\[([^\[\]]*)\]")
_POINTS = re.compile(r"<points?\b([^<>]*)>(?:([^<]*)</points?>)?")
_WORD = re.compile(r'(?<![A-Za-z_])([A-Za-z_]+)(\d*)\s*=\s*"([^"]*)"')


class InternVL(Codec):
    """`<ref>name</ref><box>[[x1, y1, x2, y2]]</box>` in whole thousandths of the picture.

    Several boxes of one name stand in one list. It has no points. Where the tags are gone from a text (they
    are special tokens), the double brackets alone are read. Source: InternVL's documentation of its chat
    data format, OpenGVLab/InternVL issues 285 and 1009 (maintainers).
    """

    kind: Literal["internvl"] = "internvl"

    tokens: ClassVar[bool] = True
    points: ClassVar[bool] = False

    def text(self, groups: Sequence[tuple[str, list[Numbers]]], view: View) -> str:
        parts = []
        for label, rows in groups:
            marks = [extended([round(n * 1000) for n in row], row, _SIDE, _SIDE) for row in rows]
            boxes = ", ".join(map(str, marks))
            parts.append((f"<ref>{label}</ref>" if label else "") + f"<box>[{boxes}]</box>")
        return "".join(parts)

    def find(self, text: str, view: View, asked: Sequence[Region]) -> Iterator[Candidate]:
        for match in _BOXES.finditer(text):
            for part in _LIST.finditer(match[2]):
                shown = part.group()
                try:
                    numbers = tuple(float(word) / 1000 for word in part[1].split(","))
                except ValueError:
                    yield Candidate(match.start(), shown, why="it is not made of numbers")
                    continue
                why = "" if len(numbers) == 4 else f"{len(numbers)} numbers are no box"
                label = (match[1] or "").strip()
                yield Candidate(match.start(), shown, numbers, label, why, end=match.end())


class Molmo(Codec):
    """`<point x="52.9" y="43.9" alt="name">name</point>` in percent of the picture, one decimal.

    Several points of one name are `<points x1= y1= x2= y2= ... alt=>`. Molmo knows no boxes: any other
    region is its middle. Numbers above 100 are no points. Source: the model card of
    allenai/Molmo-7B-O-0924 and a maintainer's reply in its discussion 1.
    """

    kind: Literal["molmo"] = "molmo"

    boxes: ClassVar[bool] = False

    def text(self, groups: Sequence[tuple[str, list[Numbers]]], view: View) -> str:
        return " ".join(self._tag(label, rows) for label, rows in groups)

    def _tag(self, label: str, rows: list[Numbers]) -> str:
        many = len(rows) > 1
        words = []
        for i, (u, v) in enumerate(rows, start=1):
            number = str(i) if many else ""
            words += [f'x{number}="{u * 100:.1f}"', f'y{number}="{v * 100:.1f}"']
        tag, name = "points" if many else "point", html.escape(label)
        return f'<{tag} {" ".join(words)} alt="{name}">{name}</{tag}>'

    def find(self, text: str, view: View, asked: Sequence[Region]) -> Iterator[Candidate]:
        for match in _POINTS.finditer(text):
            words: dict[str, str] = {}
            for name, number, value in _WORD.findall(match[1]):
                words[name + number] = value
            label = html.unescape(words.pop("alt", "") or match[2] or "").strip()
            places = [word[1:] for word in words if re.fullmatch(r"x\d*", word)]
            if not places:
                yield Candidate(match.start(), match.group(), why="the point has no x")
            for place in places:
                yield self._point(match, words, place, label)

    def _point(
        self, match: re.Match[str], words: dict[str, str], place: str, label: str
    ) -> Candidate:
        x, y = words[f"x{place}"], words.get(f"y{place}", "nothing")
        shown = f"x={x} y={y}"
        try:
            spot = (float(x) / 100, float(y) / 100)
            return Candidate(match.start(), shown, spot, label, end=match.end())
        except ValueError:
            return Candidate(match.start(), shown, why="it is not made of numbers")
