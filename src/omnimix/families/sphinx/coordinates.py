"""How SPHINX and SPHINX-V write coordinates (golden/specs/sphinx.md section 7, golden/specs/sphinx_v.md section 1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Literal

from omnimix.media.tiles import View
from omnimix.prompts.coordinates import Candidate, Coordinates, Numbers, named
from omnimix.types import Point, Region

_NAMED_BRACKET = re.compile(r"(?:<p>([^<>]*)</p>\s*)?\[([^\[\]]*)\]")
_TAG = re.compile(r"<(?:Region|Mark) (\d+)>(?::[ \t]*([^\n<]*))?")


class SphinxCoordinates(Coordinates):
    """SPHINX: fractions of the padded square, three decimals, `<p>name</p>[x1, y1, x2, y2]`.

    Several of one name share a bracket, parted by `;`. Whole numbers in brackets are text, as in SPHINX's
    own demo. Source: LLaMA2-Accessory, SPHINX's README and demo (golden/specs/sphinx.md sections 7 and 9).
    """

    kind: Literal["sphinx"] = "sphinx"  # type: ignore[assignment]
    decimals: int = 3

    def text(self, groups: Sequence[tuple[str, list[Numbers]]], view: View) -> str:
        return " ".join(
            (f"<p>{label}</p>" if label else "") + self.bracket(rows) for label, rows in groups
        )

    def find(self, text: str, view: View, asked: Sequence[Region]) -> Iterator[Candidate]:
        for match in _NAMED_BRACKET.finditer(text):
            yield from self.groups(match[2], match, (match[1] or "").strip())

    def counts(self, group: str) -> bool:
        return "." in group


class SphinxV(SphinxCoordinates):
    """SPHINX-V: drawn regions are named `<Region k>` (boxes) or `<Mark k>` (points alone), from 1.

    In an answer `<Region 1>: roof` says what the first region of the question is; coordinates are written
    as SPHINX writes them. Source: Draw-and-Understand, README and data (golden/specs/sphinx_v.md section 1).
    """

    kind: Literal["sphinx_v"] = "sphinx_v"  # type: ignore[assignment]

    def names(self, regions: Sequence[Region]) -> list[str] | None:
        word = "Mark" if all(isinstance(region, Point) for region in regions) else "Region"
        return [f"<{word} {i}>" for i in range(1, len(regions) + 1)]

    def find(self, text: str, view: View, asked: Sequence[Region]) -> Iterator[Candidate]:
        yield from chain(super().find(text, view, asked), named(text, _TAG, asked))
