"""A question as a person types it becomes a turn, with each region where the words point at it.

Models learn regions *inside* the sentence ("What is in <region>?"), people write "What is in the box?"
and hand the box over beside it. `question` puts the two together:

1. Placeholders `{1}`, `{2}` ... are replaced by the regions of that number; every region must be named. Where
   no region was given, one that stands beside an item as a word of its own is refused, and other braces are text.
2. Else every phrase of `PHRASES` ("the box", "this point", "here" ...) takes one region, in order.
3. Text that speaks of "marked regions", or names them itself (`<Region 1>`, `<Mark 2>`, "mark 3"), has
   them in front of its words: the model's own convention says which is which.
4. Regions that are left over go in front of the final mark: "What is it?" and a point give
   "What is it at <point>?". The little word before each kind stands in `BEFORE`.

Items (pictures, sounds, films, documents ...) stand in front of the text in the order they are given. One that
belongs inside the sentence is named there by its kind and number: `{image:2}`, `{audio:1}`, `{document:1}`;
those that are not named stay in front. A mark of a kind that was not given is text, and so is `<image>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from omnimix.errors import SampleError, kind_of
from omnimix.types import Box, Mask, Media, Part, Point, Polygon, Region, Sample, Stroke, Turn

Conversation: TypeAlias = Sample | Sequence[Turn]
"""Turns of which the last asks."""

Asked: TypeAlias = str | Sequence[Part] | Sequence[Turn] | Sample
"""A question in any form."""

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
_ITEM = re.compile(r"\{([A-Za-z_]\w*):([0-9]{1,4})\}")
_PLACEHOLDER = re.compile(r"\{(\d+)\}")
_LONE = re.compile(r"(?<!\S)\{[1-9]\d?\}(?![^\s?.,;:!])")
_PHRASE = re.compile(r"\b(?:" + "|".join(re.escape(phrase) for phrase in PHRASES) + r")\b", re.I)


def question(
    text: str | Sequence[Part],
    images: Sequence[Any] = (),
    regions: Sequence[Region] = (),
    items: Sequence[Media] = (),
) -> Turn:
    """A user's turn: items first or where they are named, then the text with the regions in their places.

    Args:
        text: what is asked; or text and media in reading order, which are left as they are.
        images: paths, bytes, Pillow pictures, arrays or `Media`.
        regions: marks on the last of the pictures.
        items: of any kind; they follow the pictures.

    Raises:
        SampleError: a placeholder without a region, or a region without its placeholder; the same for the
            mark of an item; something that is no part of a question.
    """
    media = [*map(as_media, images), *map(_item, items)]
    regions = [_region(region) for region in ([regions] if _is_region(regions) else regions or ())]
    if not isinstance(text, str):
        return Turn("user", (*media, *_parts(text, regions)))
    parts: list[Part] = [text]
    if regions and _PLACEHOLDER.search(text):
        parts = list(_numbered(text, regions))
    elif regions and _OWN_WORDS.search(text):
        parts = [*map(Media.region, regions), text]
    elif regions:
        parts = list(_pointed(text, regions))
    elif media and (lone := _LONE.search(text)):
        raise SampleError(
            f"the placeholder {lone[0]} has no region (none was given)",
            hint="give regions=[Box(...)]; a question in parts, [text], keeps its braces",
        )
    placed = list(_placed(parts, media))
    inside = {part for part in placed if isinstance(part, Media)}
    front = [one for one in media if one not in inside]
    return Turn("user", (*front, *(part for part in placed if part != "" or not regions)))


def conversation_of(asked: Asked) -> Conversation:
    """A question in any form as a conversation.

    Raises:
        SampleError: something that is no part of a question.
    """
    if isinstance(asked, Sample):
        return asked
    given: Any = asked
    if isinstance(given, Sequence) and any(isinstance(one, Turn) for one in given):
        return list(sample_of(given).turns)
    return [question(given)]


def sample_of(conversation: Conversation, name: str = "question") -> Sample:
    """A conversation as a sample.

    Raises:
        SampleError: what is none, a bare text among them.
    """
    if isinstance(conversation, Sample):
        return conversation
    turns: Any = conversation
    listed = isinstance(turns, Iterable) and not isinstance(turns, str | bytes | Mapping)
    turns = tuple(turns) if listed else ()
    odd = next((kind_of(turn) for turn in turns if not isinstance(turn, Turn)), None)
    if not turns or odd is not None:
        what = f"a list with {odd}" if odd else "an empty list" if listed else kind_of(conversation)
        raise SampleError(
            f"a conversation is a Sample or a list of turns, not {what}",
            hint='write [Turn("user", ("What is it?",))], or ask a text with answers([...])',
        )
    return Sample(turns, name)


def several(asked: Any, what: str) -> list[Any]:
    """Things that come in a list, which one alone, or a text's letters, are not.

    Raises:
        SampleError: it is no list.
    """
    if isinstance(asked, str | bytes | Mapping) or not isinstance(asked, Iterable):
        raise SampleError(
            f"{what} come in a list, not as {kind_of(asked)}", hint="put a single one in [ ]"
        )
    return list(asked)


def given(**items: Any) -> list[Media]:
    """Items by kind as media; those that are None were not given."""
    return [
        Media(kind, data, label=_label(data)) for kind, data in items.items() if data is not None
    ]


def interleaved(text: str, images: Sequence[Any], mark: str = "<image>") -> Turn:
    """A user's turn with pictures anywhere in the text: each `mark` is one of them, in order.

    Many models' users write a prompt so: `"<image>\nIs it like this one? <image>"`. Inside omnimix no text
    ever stands for a picture, so the marks end here.

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


def _label(data: Any) -> str:
    return str(data) if isinstance(data, Path) else ""


def _is_region(region: Any) -> bool:
    return isinstance(region, tuple(BEFORE))


def _region(region: Any) -> Region:
    if not _is_region(region):
        raise SampleError(
            f"a region is {kind_of(region)}",
            hint="write Box(x1, y1, x2, y2), Point(x, y) or another form of omnimix.types, in pixels",
        )
    found: Region = region
    return found


def _item(item: Any) -> Media:
    if not isinstance(item, Media):
        raise SampleError(
            f"an item of no kind, {type(item).__name__}",
            hint="write Media.audio(...), Media.document(...) or Media(name of a modality, ...)",
        )
    return item


def _parts(parts: Sequence[Any], regions: Sequence[Region]) -> Iterator[Part]:
    if regions:
        raise SampleError(
            "regions beside a question in parts",
            hint="put Media.region(...) where it stands in the sentence",
        )
    if isinstance(parts, bytes | Mapping) or not isinstance(parts, Iterable):
        raise SampleError(
            f"a question is a text, or text and Media in reading order, not {kind_of(parts)}",
            hint='write "What is it?"',
        )
    for part in parts:
        yield part if isinstance(part, str) else _item(part)


def _placed(parts: Sequence[Part], media: Sequence[Media]) -> Iterator[Part]:
    """The parts, with items where the text names them."""
    by_kind: dict[str, list[Media]] = {}
    for one in media:
        by_kind.setdefault(one.kind, []).append(one)
    taken: set[str] = set()
    for part in parts:
        if isinstance(part, Media):
            yield part
            continue
        last = 0
        for found in _ITEM.finditer(part):
            kind, number = found[1], int(found[2])
            if kind not in by_kind:
                continue
            if not 1 <= number <= len(by_kind[kind]) or found[0] in taken:
                what = "stands twice" if found[0] in taken else "has no item"
                raise SampleError(
                    f"the mark {found[0]} {what} ({len(by_kind[kind])} of {kind} were given)",
                    hint=f"write {{{kind}:1}} for the first, each once",
                )
            taken.add(found[0])
            if part[last : found.start()]:
                yield part[last : found.start()]
            yield by_kind[kind][number - 1]
            last = found.end()
        if part[last:] or not last:
            yield part[last:]


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
