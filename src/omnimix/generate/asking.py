"""A question as a person types it becomes a turn, with each region where the words point at it.

Models learn regions *inside* the sentence ("What is in <region>?"), people write "What is in the box?"
and hand the box over beside it. `question` puts the two together:

1. Placeholders `{1}`, `{2}` ... are replaced by the regions of that number; every region must be named.
2. Else every phrase of `PHRASES` ("the box", "this point", "here" ...) takes one region, in order.
3. Text that speaks of "marked regions", or names them itself (`<Region 1>`, `<Mark 2>`, "mark 3"), has
   them in front of its words: the model's own convention says which is which.
4. Regions that are left over go in front of the final mark: "What is it?" and a point give
   "What is it at <point>?". The little word before each kind stands in `BEFORE`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omnimix.errors import SampleError
from omnimix.types import Box, Mask, Media, Part, Point, Polygon, Region, Stroke, Turn

PHRASES: tuple[str, ...] = (
    "the box",
    "this box",
    "the point",
    "this point",
    "the stroke",
    "this stroke",
    "the region",
    "this region",
    "here",
)
"""Words that stand for a region; a phrase counts as a whole word, in any case."""

BEFORE: dict[type, str] = {
    Point: "at",
    Box: "in",
    Polygon: "in",
    Mask: "in",
    Stroke: "under",
}
"""The word in front of a region that the text does not name itself."""

_OWN_WORDS = re.compile(
    r"\bmarked (?:regions?|points?|box(?:es)?)\b|<(?:Region|Mark) \d+>|\bmark \d+\b", re.I
)
_PLACEHOLDER = re.compile(r"\{(\d+)\}")
_PHRASE = re.compile(r"\b(?:" + "|".join(re.escape(phrase) for phrase in PHRASES) + r")\b", re.I)


def question(text: str, images: Sequence[Any] = (), regions: Sequence[Region] = ()) -> Turn:
    """A user's turn: pictures first, then the text with the regions in their places.

    Args:
        text: what is asked.
        images: paths, bytes, Pillow pictures, arrays or `Media`.
        regions: marks on the last of the pictures.

    Raises:
        SampleError: a placeholder without a region, or a region without its placeholder.
    """
    if not regions:
        return Turn("user", (*map(as_media, images), text))
    if _PLACEHOLDER.search(text):
        parts = list(_numbered(text, regions))
    elif _OWN_WORDS.search(text):
        parts = [*map(Media.region, regions), text]
    else:
        parts = list(_pointed(text, regions))
    return Turn("user", (*map(as_media, images), *(part for part in parts if part != "")))


def interleaved(text: str, images: Sequence[Any], mark: str = "<image>") -> Turn:
    """A user's turn with pictures anywhere in the text: each `mark` is one of them, in order.

    This is how users of xGen-MM write a prompt: `"<image>\nIs it like this one? <image>"`. Inside omnimix
    no text ever stands for a picture, so the marks end here.

    Raises:
        SampleError: marks and pictures differ in number.
    """
    pieces = text.split(mark)
    if len(pieces) - 1 != len(images):
        raise SampleError(
            f"{len(pieces) - 1} marks {mark} for {len(images)} pictures",
            hint="write one mark for each picture",
        )
    parts: list[Part] = [pieces[0]]
    for image, piece in zip(images, pieces[1:], strict=True):
        parts += [as_media(image), piece]
    return Turn("user", tuple(part for part in parts if part != ""))


def as_media(image: Any) -> Media:
    """A picture in any form as `Media`."""
    if isinstance(image, Media):
        return image
    return Media.image(str(image) if isinstance(image, Path) else image)


def _numbered(text: str, regions: Sequence[Region]) -> Iterator[Part]:
    named = {int(number) for number in _PLACEHOLDER.findall(text)}
    wanted = set(range(1, len(regions) + 1))
    if named != wanted:
        odd = min(named ^ wanted)
        what = "has no region" if odd in named else "is missing from the text"
        raise SampleError(
            f"the placeholder {{{odd}}} {what} ({len(regions)} regions were given)",
            hint="write {1} for the first region, {2} for the second",
        )
    for i, part in enumerate(_PLACEHOLDER.split(text)):
        yield Media.region(regions[int(part) - 1]) if i % 2 else part


def _pointed(text: str, regions: Sequence[Region]) -> Iterator[Part]:
    waiting = list(regions)
    last = 0
    for match in _PHRASE.finditer(text):
        if not waiting:
            break
        region = waiting.pop(0)
        here = match.group().lower() == "here"
        yield text[last : match.start()] + (f"{BEFORE[type(region)]} " if here else "")
        yield Media.region(region)
        last = match.end()
    rest = text[last:]
    if not waiting:
        yield rest
        return
    words = rest.rstrip()
    mark = words[-1:] if words[-1:] in ("?", ".", "!") else ""
    words = words.removesuffix(mark)
    for i, region in enumerate(waiting):
        joint = " and" if i else ""
        yield f"{words}{joint} {BEFORE[type(region)]} "
        yield Media.region(region)
        words = ""
    yield mark
