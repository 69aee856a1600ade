"""Conventions with special tokens for places: Kosmos-2, PaliGemma, Florence-2."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from omnimix.media.tiles import View
from omnimix.prompts.coordinates import Candidate, Codec, Numbers, extended
from omnimix.types import Region

_PHRASE = re.compile(
    r"(?:<phrase>([^<]*)</phrase>\s*)?<object>((?:(?!</object>|<object>).)*)(?:</object>)?", re.S
)
_PATCHES = re.compile(r"<patch_index_(\d+)>")
_MANY = "</delimiter_of_multi_objects/>"
_LOC4 = re.compile(r"((?:<loc\d{4}>)+)((?:\s*<seg\d{3}>)*)[ \t]*([^<;\n]*)")
_LOC = re.compile(r"<loc(\d{4})>")
_PLACES = re.compile(r"(?:<loc_\d+>|<poly>|</poly>|<sep>)+")
_PLACE = re.compile(r"<loc_(\d+)>")


class Kosmos2(Codec):
    """`<phrase>name</phrase><object><patch_index_0044><patch_index_0863></object>`, a grid of 32 x 32 patches.

    The two patches hold the box's corners; a box is read from their centres, or from their outer edges
    where both lie in one row or column. It has no points. Source: the Kosmos-2 paper and transformers'
    `processing_kosmos2` (coordinate_to_patch_index and its inverse).
    """

    kind: Literal["kosmos2"] = "kosmos2"

    tokens: ClassVar[bool] = True
    points: ClassVar[bool] = False
    side: ClassVar[int] = 32

    def text(self, groups: Sequence[tuple[str, list[Numbers]]], view: View) -> str:
        parts = []
        for label, rows in groups:
            boxes = _MANY.join(
                "".join(f"<patch_index_{index:04d}>" for index in self._patches(row))
                for row in rows
            )
            name = f"<phrase>{label}</phrase>" if label else ""
            parts.append(f"{name}<object>{boxes}</object>")
        return "".join(parts)

    def _patches(self, row: Numbers) -> tuple[int, int]:
        last = self.side - 1
        x1, y1 = (min(math.floor(n * self.side), last) for n in row[:2])
        x2, y2 = (min(max(math.ceil(n * self.side - 1), 0), last) for n in row[2:])
        return y1 * self.side + x1, max(y1, y2) * self.side + max(x1, x2)

    def find(self, text: str, view: View, asked: Sequence[Region]) -> Iterator[Candidate]:
        for match in _PHRASE.finditer(text):
            label = (match[1] or "").strip()
            for part in match[2].split(_MANY):
                shown = part.strip()
                indices = [int(index[:9]) for index in _PATCHES.findall(part)]
                if len(indices) != 2:
                    why = f"{len(indices)} patches are no box"
                    yield Candidate(match.start(), shown, why=why)
                elif max(indices) >= self.side**2:
                    yield Candidate(match.start(), shown, why=f"there is no patch {max(indices)}")
                else:
                    yield Candidate(
                        match.start(), shown, self._corners(*indices), label, end=match.end()
                    )

    def _corners(self, first: int, second: int) -> Numbers:
        (y1, x1), (y2, x2) = divmod(first, self.side), divmod(second, self.side)
        edge = 0.0 if x1 == x2 or y1 == y2 else 0.5
        corners = (x1 + edge, y1 + edge, x2 + 1 - edge, y2 + 1 - edge)
        return tuple(n / self.side for n in corners)


class PaliGemma(Codec):
    """`<loc0256><loc0128><loc0768><loc0640> name`: y before x, 1024 steps of the picture, parted by ` ; `.

    It has no points. Codewords of masks (`<seg042>`) behind a box are passed over. Source: big_vision's
    README of PaliGemma (1024 location tokens in normalised image space, y first) and the model's demo,
    which divides by 1024.
    """

    kind: Literal["paligemma"] = "paligemma"

    tokens: ClassVar[bool] = True
    points: ClassVar[bool] = False
    steps: ClassVar[int] = 1024

    def text(self, groups: Sequence[tuple[str, list[Numbers]]], view: View) -> str:
        parts = []
        for label, rows in groups:
            for row in rows:
                last = self.steps - 1
                bins = [min(int(n * self.steps), last) for n in row]
                x1, y1, x2, y2 = extended(bins, row, (self.steps, self.steps), (last, last))
                locations = "".join(f"<loc{n:04d}>" for n in (y1, x1, y2, x2))
                parts.append(f"{locations} {label}" if label else locations)
        return " ; ".join(parts)

    def find(self, text: str, view: View, asked: Sequence[Region]) -> Iterator[Candidate]:
        for match in _LOC4.finditer(text):
            bins = [int(n) for n in _LOC.findall(match[1])]
            label = match[3].strip()
            for i in range(0, len(bins), 4):
                four = bins[i : i + 4]
                shown = "".join(f"<loc{n:04d}>" for n in four)
                if len(four) < 4:
                    yield Candidate(match.start(), shown, why=f"{len(four)} locations are no box")
                    continue
                y1, x1, y2, x2 = (n / self.steps if n < self.steps else math.inf for n in four)
                yield Candidate(match.start(), shown, (x1, y1, x2, y2), label, end=match.end())


class Florence2(Codec):
    """`name<loc_52><loc_334><loc_932><loc_774>`: 1000 steps of the picture, read at the middle of a step.

    Four in a row are a box; more are further boxes of that name, or the corners of a polygon between
    `<poly>` and `</poly>`. It has no points. Source: transformers' `processing_florence2` (its quantizer
    rounds down) and the model card.
    """

    kind: Literal["florence2"] = "florence2"

    tokens: ClassVar[bool] = True
    points: ClassVar[bool] = False
    steps: ClassVar[int] = 1000

    def text(self, groups: Sequence[tuple[str, list[Numbers]]], view: View) -> str:
        parts = []
        for label, rows in groups:
            last = self.steps - 1
            bins = [[min(int(n * self.steps + 1e-6), last) for n in row] for row in rows]
            for marks, row in zip(bins, rows, strict=True):
                extended(marks, row, (self.steps, self.steps), (last, last))
            parts.append(label + "".join(f"<loc_{n}>" for marks in bins for n in marks))
        return "".join(parts)

    def find(self, text: str, view: View, asked: Sequence[Region]) -> Iterator[Candidate]:
        for match in _PLACES.finditer(text):
            start = match.start()
            begin = max(text.rfind("<", 0, start), text.rfind(">", 0, start)) + 1
            label, outline = text[begin:start].strip(), "<poly>" in match.group()
            for part in re.split(r"<sep>|</?poly>", match.group()):
                bins = [int(n[:9]) for n in _PLACE.findall(part)]
                values = tuple((n + 0.5) / self.steps for n in bins)
                if bins:
                    yield from self._regions(match, part, values, label, outline)

    def _regions(
        self, match: re.Match[str], shown: str, values: Numbers, label: str, outline: bool
    ) -> Iterator[Candidate]:
        if outline:
            whole = len(values) >= 6 and len(values) % 2 == 0
            why = "" if whole else f"{len(values)} locations are no outline"
            yield Candidate(match.start(), shown, values, label, why, end=match.end())
            return
        for i in range(0, len(values), 4):
            four = values[i : i + 4]
            why = "" if len(four) == 4 else f"{len(four)} locations are no box"
            yield Candidate(match.start(), shown, four, label, why, end=match.end())
