"""Coordinates in text: how a model writes boxes and points, and how they are read back.

Every model family has a convention of its own (`omnimix.prompts.codecs`, table `CODECS`). A codec turns
regions into text and text into regions; between the two stand fractions of what the convention measures
in: the first tile as the model sees it (`frame: tile`, the padded square where the recipe pads), or the
original picture (`frame: picture`). So a box in an answer lands on the original pixels whatever the steps
did to the picture.
"""

from __future__ import annotations

import abc
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar, Literal, TypeAlias

from omnimix.config import Spec
from omnimix.media.tiles import Frame, View
from omnimix.types import Box, Point, Polygon, Region

Numbers: TypeAlias = tuple[float, ...]
"""x and y in turn, as fractions: 2 a point, 4 a box, more a polygon."""


@dataclass(frozen=True)
class Candidate:
    """A place in a text that looks like a region.

    Attributes:
        start: where it begins.
        text: what stands there.
        numbers: its fractions.
        label: what the text calls it.
        why: why it cannot be used, where that is plain already.
        region: the region itself, where the text names one that was asked about.
        end: behind its last character, where `text` does not stand there as it is.
        number: which region of the question it names, counted from 1.
    """

    start: int
    text: str
    numbers: Numbers = ()
    label: str = ""
    why: str = ""
    region: Region | None = None
    end: int | None = None
    number: int | None = None


@dataclass(frozen=True)
class Skipped:
    """Something in an answer that looks like a region and is none.

    Attributes:
        text: what stands there.
        why: what is wrong with it.
    """

    text: str
    why: str


@dataclass(frozen=True)
class ParsedRegions:
    """The regions of a text, in its order, and what looked like one and was left out.

    Attributes:
        spans: where each region stands in the text: its first character, and the one behind its last.
        numbers: which region of the question each of them is, counted from 1; None where it is one of the
            answer's own.
    """

    regions: tuple[Region, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    numbers: tuple[int | None, ...] = ()


class Codec(Spec):
    """A convention: `write` and `read` are each other's inverse up to rounding, and all that is written is read.

    Attributes:
        frame: what fractions are of: the first `tile` as the model sees it, or the original `picture`.
    """

    kind: str
    frame: Literal["tile", "picture"] = "picture"

    tokens: ClassVar[bool] = False
    """Whether it is written in special tokens, which a plain text of the answer does not show."""

    points: ClassVar[bool] = True
    """Whether it has points; where not, a point is written as the smallest box around it."""

    boxes: ClassVar[bool] = True
    """Whether it has boxes; where not, a box is written as the point in its middle."""

    def write(self, regions: Region | Sequence[Region], view: View, labels: bool = True) -> str:
        """Regions as text: points as points, everything else by its bounding box.

        Args:
            regions: in pixels of the original picture; what lies outside of it is cut.
            view: how the model sees the picture.
            labels: write labels too, where the convention has them.
        """
        many: Sequence[Region] = regions if isinstance(regions, Sequence) else [regions]
        rows = [(region.label if labels else "", self._fractions(region, view)) for region in many]
        groups = [
            (label, [numbers for _, numbers in group])
            for label, group in groupby(rows, key=lambda row: row[0])
        ]
        return self.text(groups, view)

    def read(
        self,
        text: str,
        view: View,
        asked: Sequence[Region] = (),
        others: Sequence[Candidate] = (),
    ) -> ParsedRegions:
        """Every region in a text, in pixels of the original, cut to the picture.

        Nothing in a text is an error: what cannot be used is told in `Reading.skipped`.

        Args:
            text: of an answer.
            view: how the model sees the picture.
            asked: regions of the question in order, for conventions that name them by number.
            others: what was found in the text by another convention.
        """
        regions: list[Region] = []
        skipped: list[Skipped] = []
        spans: list[tuple[int, int]] = []
        numbers: list[int | None] = []
        all_found = [*self.find(text, view, asked), *others]
        for found in sorted(all_found, key=lambda found: found.start):
            made = found.why or found.region or self._region(found, view)
            if isinstance(made, str):
                skipped.append(Skipped(found.text, made))
            else:
                regions.append(made)
                end = found.start + len(found.text) if found.end is None else found.end
                spans.append((found.start, end))
                numbers.append(found.number)
        return ParsedRegions(tuple(regions), tuple(skipped), tuple(spans), tuple(numbers))

    def names(self, regions: Sequence[Region]) -> list[str] | None:
        """What a question calls regions that reach the model as tokens of their own; None: nothing."""
        return None

    @abc.abstractmethod
    def text(self, groups: Sequence[tuple[str, list[Numbers]]], view: View) -> str:
        """Regions as text, those with the same label (maybe empty) together."""

    @abc.abstractmethod
    def find(self, text: str, view: View, asked: Sequence[Region]) -> Iterator[Candidate]:
        """Whatever looks like a region."""

    def _frame(self, view: View) -> Frame:
        return view.frame if self.frame == "tile" else Frame.whole(*view.size)

    def _fractions(self, region: Region, view: View) -> Numbers:
        width, height = view.size
        x1, x2 = (min(max(x, 0.0), width) for x in region.bounds()[::2])
        y1, y2 = (min(max(y, 0.0), height) for y in region.bounds()[1::2])
        if not self.boxes:
            x1 = x2 = (x1 + x2) / 2
            y1 = y2 = (y1 + y2) / 2
        frame = self._frame(view)
        short = not self.boxes or (isinstance(region, Point) and self.points)
        spots = [(x1, y1)] if short else [(x1, y1), (x2, y2)]
        placed = [value for spot in spots for value in frame.place(*spot)]
        return tuple(min(max(value, 0.0), 1.0) for value in placed)

    def _region(self, found: Candidate, view: View) -> Region | str:
        """The region on the original picture, or why there is none."""
        numbers = found.numbers
        if not all(math.isfinite(n) and -1e-9 <= n <= 1 + 1e-9 for n in numbers):
            return "a number lies outside the convention's range"
        frame, (width, height) = self._frame(view), view.size
        spots = [frame.back(*spot) for spot in zip(numbers[::2], numbers[1::2], strict=True)]
        cut = [(min(max(x, 0.0), float(width)), min(max(y, 0.0), float(height))) for x, y in spots]
        moved = max(
            abs(a - b) for s, c in zip(spots, cut, strict=True) for a, b in zip(s, c, strict=True)
        )
        if len(cut) == 1:
            # A hundredth of the picture, or of the tile where the picture takes little of it: as far as
            # two decimals carry a point at the rim.
            near = max(max(width, height), 1 / min(frame.scale_x, frame.scale_y)) / 100
            if moved > near:
                return "the point lies outside the picture"
            return Point(*cut[0], label=found.label)
        if len(cut) > 2:
            return Polygon(tuple(cut), label=found.label)
        if numbers[0] >= numbers[2] or numbers[1] >= numbers[3]:
            return "the box has no extent"
        (x1, y1), (x2, y2) = cut
        if x1 >= x2 or y1 >= y2:
            return "the box lies outside the picture"
        return Box(x1, y1, x2, y2, label=found.label)


def extended(
    marks: list[int], numbers: Numbers, scale: tuple[float, float], last: tuple[float, float]
) -> list[int]:
    """The marks that a region is written as, where a box keeps an extent that its reader accepts.

    What is thinner than a step of the convention, a point among them, becomes the step that it lies in.

    Args:
        marks: the numbers as the convention rounds them.
        numbers: what they were made of.
        scale: steps of a side, across and down.
        last: the largest mark.
    """
    for i in (0, 1):
        if len(marks) == 4 and marks[i] >= marks[i + 2]:
            low = min(math.floor(numbers[i] * scale[i]), round(last[i]) - 1)
            marks[i], marks[i + 2] = low, low + 1
    return marks


def named(text: str, pattern: re.Pattern[str], asked: Sequence[Region]) -> Iterator[Candidate]:
    """Regions of the question that a text names by their number, each once.

    Args:
        pattern: group 1 is the number, counted from 1, group 2 (where there is one) what is said of it.
    """
    first: dict[int, Candidate] = {}
    for match in pattern.finditer(text):
        number = int(match[1][:9])
        if not 1 <= number <= len(asked):
            why = f"the question has no region {number}"
            yield Candidate(match.start(), match.group(), why=why)
            continue
        said = (match[2] or "").strip() if pattern.groups > 1 else ""
        known = first.get(number)
        if known is None or (said and not known.label):
            start = match.start() if known is None else known.start
            end = match.end() if known is None else known.end
            region = replace(asked[number - 1], label=said)
            words: dict[str, Any] = {"label": said, "region": region, "end": end, "number": number}
            first[number] = Candidate(start, match.group(), **words)
    yield from first.values()


_BRACKET = re.compile(r"\[([^\[\]]*)\]")
_NUMERIC = re.compile(r"[\d\s.,;+\-eE]*")


class Coordinates(Codec):
    """`[x1, y1, x2, y2]` and `[x, y]` in fractions of the tile with a fixed number of decimals.

    Several in one bracket are parted by `;`.

    Attributes:
        decimals: digits after the point.
        ceiling: largest fraction that is written; below 1 it keeps every number equally long.
    """

    kind: Literal["fractions"] = "fractions"
    frame: Literal["tile", "picture"] = "tile"
    decimals: int = 2
    ceiling: float = 1.0

    scale: ClassVar[float] = 1.0
    """What the far edge is written as."""

    def text(self, groups: Sequence[tuple[str, list[Numbers]]], view: View) -> str:
        return " ".join(self.bracket(rows) for _, rows in groups)

    def bracket(self, rows: Sequence[Numbers]) -> str:
        """Several regions in one bracket."""
        return "[" + ";".join(", ".join(self.row(row)) for row in rows) + "]"

    def row(self, numbers: Numbers) -> list[str]:
        """One region."""
        words = [self.number(value) for value in numbers]
        steps = self.scale if self.scale > 1 else 10.0**self.decimals
        marks = [round(float(word) * steps / self.scale) for word in words]
        last = min(self.ceiling, 1.0) * steps
        wide = extended(marks.copy(), numbers, (steps, steps), (last, last))
        # Half a step's thousandth is added for those that round down.
        return words if wide == marks else [self.number((m + 5e-4) / steps) for m in wide]

    def number(self, value: float) -> str:
        """One fraction as it is written."""
        return f"{min(value, self.ceiling):.{self.decimals}f}"

    def find(self, text: str, view: View, asked: Sequence[Region]) -> Iterator[Candidate]:
        for match in _BRACKET.finditer(text):
            yield from self.groups(match[1], match)

    def groups(self, inside: str, match: re.Match[str], label: str = "") -> Iterator[Candidate]:
        """The regions of one bracket; words and single numbers in brackets are none."""
        if not _NUMERIC.fullmatch(inside) or not (";" in inside or "," in inside):
            return
        for group in inside.split(";"):
            if not self.counts(group):
                continue
            shown = f"[{group.strip()}]"
            try:
                numbers = tuple(float(word) / self.scale for word in group.split(","))
            except ValueError:
                yield Candidate(match.start(), shown, why="it is not made of numbers")
                continue
            why = "" if len(numbers) in (2, 4) else f"{len(numbers)} numbers are no box or point"
            yield Candidate(match.start(), shown, numbers, label, why, end=match.end())

    def counts(self, group: str) -> bool:
        """Whether a group of numbers is meant as a region at all."""
        return bool(group.strip())
