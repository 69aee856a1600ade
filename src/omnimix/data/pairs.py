"""Formats of one question or caption a row: Alpaca, tables of picture and text, and grounding in pixels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from omnimix.data.placing import READS, items_of, placed, role_of
from omnimix.data.roots import Roots
from omnimix.data.rows import RowFormat, id_of
from omnimix.data.talks import messages_of
from omnimix.errors import SampleError
from omnimix.types import Box, Media, Part, Point, Sample, Turn, text_of

PICTURES = ("image", "image_path", "filepath", "file_name", "filename", "path", "img", "picture")
TEXTS = ("text", "caption", "title", "answer", "label", "description")


class AlpacaFormat(RowFormat):
    """`{"instruction": "Translate.", "input": "Guten Tag", "output": "Good day", "system": "", "history": [["Hi",
    "Hello"]]}`, with `image` or `images` where there are some: marks are optional, items without any come first."""

    kind: Literal["alpaca"] = "alpaca"

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        return {"instruction", "output"} <= row.keys()

    def reads(self) -> frozenset[str]:
        return READS

    def sample(self, row: Mapping[str, Any], roots: Roots, where: str) -> Sample:
        asked = text_of(row["instruction"], "the instruction", where)
        if row.get("input"):
            asked += f"\n{text_of(row['input'], 'the input', where)}"
        said: list[tuple[str, Any]] = []
        if row.get("system"):
            said.append(("system", row["system"]))
        for question, answer in row.get("history") or ():
            said += [("user", question), ("assistant", answer)]
        said += [("user", asked), ("assistant", row["output"])]
        items = items_of(row, roots, where)
        text = "".join(one for _, one in said if isinstance(one, str))
        front = "".join(
            f"<{kind}>" * len(several) for kind, several in items.items() if f"<{kind}>" not in text
        )
        first = next(i for i, (role, _) in enumerate(said) if role == "user")
        said[first] = ("user", front + text_of(said[first][1], "the question", where))
        return Sample(placed(said, items, where), id_of(row, where))


class PairFormat(RowFormat):
    """A picture and its text, a row each: `filepath,title` or `image,question,answer`.

    Attributes:
        image: column of the picture; default the first of `image`, `image_path`, `filepath`, `file_name` ...
        text: column of what the model is to write; default the first of `answer`, `text`, `caption`, `title` ...
        question: column of what is asked; without one the picture alone is the question.
    """

    kind: Literal["pairs"] = "pairs"
    image: str | None = None
    text: str | None = None
    question: str = "question"

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        return _first(row, PICTURES) is not None and _first(row, TEXTS) is not None

    def reads(self) -> frozenset[str]:
        return frozenset({self.image} if self.image else PICTURES)

    def sample(self, row: Mapping[str, Any], roots: Roots, where: str) -> Sample:
        picture = self.image or _first(row, PICTURES)
        own = ("answer", *TEXTS) if self.question in row else TEXTS
        text = self.text or _first(row, own)
        if picture is None or text is None or picture not in row or text not in row:
            raise SampleError(
                f"the row has {'no text' if picture in row else 'no picture'}; its columns are "
                f"{', '.join(map(str, row))}",
                where=where,
                hint="name the columns: format: {kind: pairs, image: ..., text: ...}",
            )
        asked: list[Part] = [roots.media("image", row[picture], where)]
        if row.get(self.question):
            asked.append(text_of(row[self.question], "the question", where))
        answer = text_of(row[text], f"the column {text!r}", where)
        turns = (Turn("user", tuple(asked)), Turn("assistant", (answer,)))
        return Sample(turns, id_of(row, where))


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in row), None)


class GroundedFormat(RowFormat):
    """`{"messages": [{"role": "user", "content": "<image>Find <ref-object>"}, {"role": "assistant", "content":
    "<bbox>"}], "images": ["a.png"], "objects": {"ref": ["a dog"], "bbox": [[10, 20, 90, 80]]}}`, as ms-swift
    trains grounding.

    `bbox` holds two corners or a point, in the unit of `bbox_type`: `real` (pixels, the default), `norm1000` or
    `norm1`; `image_id` says for each on which picture it lies.
    """

    kind: Literal["grounded"] = "grounded"

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        return "messages" in row and isinstance(row.get("objects"), Mapping)

    def reads(self) -> frozenset[str]:
        return READS

    def sample(self, row: Mapping[str, Any], roots: Roots, where: str) -> Sample:
        objects = row["objects"]
        refs, boxes = list(objects.get("ref") or ()), list(objects.get("bbox") or ())
        unit = objects.get("bbox_type") or "real"
        ids = objects.get("image_id") or [0] * len(boxes)
        names, places = iter(refs), iter(zip(boxes, ids, strict=True))
        items = items_of(row, roots, where)
        sizes = _Sizes(items.get("image", []), unit, where)
        said = []
        for i, message in enumerate(messages_of(row, where), 1):
            text = text_of(message["content"], f"message {i}", where)
            said.append(
                (role_of(message["role"], where), list(_filled(text, names, places, sizes, where)))
            )
        left = len(list(names)), len(list(places))
        if any(left):
            raise SampleError(
                f"{left[0]} names and {left[1]} boxes of 'objects' have no place in the messages",
                where=where,
                hint="write one <ref-object> for each name and one <bbox> for each box",
            )
        return Sample(placed(said, items, where), id_of(row, where))


_FIELDS = re.compile("(<ref-object>|<bbox>)")


def _filled(
    text: str, names: Iterator[Any], places: Iterator[Any], sizes: _Sizes, where: str
) -> Iterator[Part]:
    for piece in _FIELDS.split(text):
        try:
            if piece == "<ref-object>":
                yield text_of(next(names), "a name of 'objects'", where)
            elif piece == "<bbox>":
                yield sizes.region(*next(places))
            else:
                yield piece
        except StopIteration:
            raise SampleError(
                f"more places {piece} than 'objects' has entries", where=where
            ) from None


class _Sizes:
    """Boxes of a unit as regions in pixels; a picture is opened for its size where the unit is a share of it."""

    def __init__(self, pictures: list[Media], unit: str, where: str) -> None:
        if unit not in ("real", "norm1000", "norm1"):
            raise SampleError(
                f"unknown bbox_type {unit!r}", where=where, hint="it is real, norm1000 or norm1"
            )
        self.pictures = pictures
        self.share = {"real": None, "norm1000": 1000.0, "norm1": 1.0}[unit]
        self.where = where

    def region(self, numbers: Any, on: Any) -> Media:
        plain = isinstance(numbers, list | tuple) and len(numbers) in (2, 4)
        if not plain or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
            raise SampleError(
                f"{numbers!r} is no box", where=self.where, hint="write [x1, y1, x2, y2] or [x, y]"
            )
        if not isinstance(on, int) or not 0 <= on < len(self.pictures):
            raise SampleError(f"there is no picture {on!r} for a box", where=self.where)
        if self.share is not None:
            from omnimix.media.image import ImageOpener

            width, height = ImageOpener().open(self.pictures[on]).size
            sides = (width, height) * 2
            numbers = [n * side / self.share for n, side in zip(numbers, sides, strict=False)]
        region = Point(*map(float, numbers)) if len(numbers) == 2 else Box(*map(float, numbers))
        return Media.region(region, on if len(self.pictures) > 1 else None)
