"""Messages become a conversation: items are found where the server allows it, regions stand where the words point.

Parts stand in reading order. Regions beside a picture, or beside a message, go into that message's text:

- where it has `<region>`, each takes the next region, and there must be as many of one as of the other;
- else by the rules of `omnimix.prompts.questions`: `{1}`, "the box", "this point" ..., or at its end.

A picture whose regions a text in front of it would name stands in front of that text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from omnimix.compose.recipe import Recipe
from omnimix.errors import OmnimixError, SampleError
from omnimix.prompts.questions import question
from omnimix.regions import from_json
from omnimix.serve import opening
from omnimix.serve.items import SCHEME, ItemReader
from omnimix.serve.openai.parts import Address, ContentItem
from omnimix.serve.openai.requests import ChatMessage
from omnimix.serve.openai.uuids import Uuids
from omnimix.serve.schema import MediaPart, TextPart
from omnimix.types import Media, Part, Sample, Turn

MARK = "<region>"
"""Stands in a text for the next region of its message."""


@dataclass
class Reader:
    """Reads the messages of one request.

    Attributes:
        recipe: of the model, which says what it takes.
        items: where items may come from.
        uuids: items that were named before.
        owner: whose names those are.
        most: items of the request, regions among them.
        characters: most of the request's texts together.
    """

    recipe: Recipe
    items: ItemReader
    uuids: Uuids
    owner: str
    most: int
    characters: int
    pictures: int = field(default=0, init=False)

    def sample(self, messages: Sequence[ChatMessage]) -> Sample:
        """The conversation. May wait for the network.

        Raises:
            OmnimixError: too much of anything, an item that the model has no place for, or that cannot be had.
        """
        self._measure(messages)
        turns = [self._turn(message, f"messages[{i}]") for i, message in enumerate(messages)]
        if turns[-1].role != "user":
            raise SampleError(
                "the last message is no user's", where="messages", hint="end with a question"
            )
        return Sample(tuple(turns), "request")

    def _measure(self, messages: Sequence[ChatMessage]) -> None:
        parts = [part for message in messages for part in message.content]
        given = [part for part in parts if not isinstance(part, TextPart)]
        addresses = [part.address for part in given if isinstance(part, ContentItem)]
        count = len(given) + sum(len(address.regions) for address in addresses)
        count += sum(len(message.regions) for message in messages if message.role == "user")
        if count > self.most:
            raise SampleError(
                f"{count} items and regions in one request, and this server takes {self.most}",
                where="messages",
                hint="send fewer at once",
            )
        characters = sum(len(part.text) for part in parts if isinstance(part, TextPart))
        if characters > self.characters:
            raise SampleError(
                f"the messages have {characters} characters, and this server takes {self.characters}",
                where="messages",
                hint="shorten them",
            )

    def _turn(self, message: ChatMessage, where: str) -> Turn:
        role = "system" if message.role == "developer" else message.role
        parts: list[Part] = []
        regions: list[Media] = []
        for i, part in _in_order(message.content):
            place = f"{where}.content[{i}]"
            if isinstance(part, TextPart):
                parts.append(part.text)
            elif isinstance(part, ContentItem):
                address = part.address
                parts.append(self._item(part.kind, address, place))
                regions += [
                    self._beside(_region(one, f"{place}.regions[{k}]"), f"{place}.regions[{k}]")
                    for k, one in enumerate(address.regions)
                ]
            else:
                parts.append(self._own(part, place))
        if role == "user":
            regions += [
                _region(one, f"{where}.regions[{k}]") for k, one in enumerate(message.regions)
            ]
        elif regions:
            raise SampleError(
                "regions are asked about by users",
                where=where,
                hint="mark them in a user's message",
            )
        said = _with_regions(parts, regions, where)
        if not any(not isinstance(part, str) or part.strip() for part in said):
            raise SampleError("the message says nothing", where=where, hint="give it a content")
        return Turn(role, tuple(said))

    def _beside(self, mark: Media, where: str) -> Media:
        """A region that stands beside the picture that was read last, and lies on no other."""
        own = self.pictures - 1
        if mark.on not in (None, own):
            raise SampleError(
                f"a region beside picture {own} says that it lies on picture {mark.on}",
                where=where,
                hint="leave its picture out, or put it beside the message; pictures count from 0",
            )
        return replace(mark, on=own)

    def _item(self, kind: str, address: Address, where: str) -> Media:
        url, uuid = address.url, address.uuid
        if url is None:
            assert uuid is not None
            media = self.uuids.get(self.owner, uuid, where)
            self.pictures += kind == "image"
            if media.kind != kind:
                raise SampleError(
                    f"the item {uuid!r} is of kind {media.kind}, not {kind}",
                    where=where,
                    hint="name it in a part of its own type",
                )
        else:
            media = self._own(MediaPart(type=kind, source=_source(url)), where)  # type: ignore[arg-type]
            if uuid is not None:
                self.uuids.put(self.owner, uuid, media)
        return media

    def _own(self, part: Any, where: str) -> Media:
        found = opening.media(part, self.recipe, self.items, where)
        self.pictures += found.kind == "image"
        return found


def _source(url: str) -> dict[str, str]:
    """An address or a path; never a text, whatever the kind."""
    return {"url" if SCHEME.match(url) else "path": url}


def _in_order(content: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """The parts with their places; a picture with regions behind all text goes in front of it."""
    parts = list(enumerate(content))
    first = next((k for k, (_, part) in enumerate(parts) if isinstance(part, TextPart)), None)
    if first is None:
        return iter(parts)
    marked = [
        pair
        for pair in parts[first:]
        if isinstance(pair[1], ContentItem) and pair[1].address.regions
    ]
    rest = [pair for pair in parts[first:] if pair not in marked]
    return iter([*parts[:first], *marked, *rest])


def _region(data: Mapping[str, Any], where: str) -> Media:
    """A region of plain data; `picture` says which picture it lies on."""
    words = {name: value for name, value in data.items() if name != "picture"}
    on = data.get("picture")
    if on is not None and (isinstance(on, bool) or not isinstance(on, int) or on < 0):
        raise SampleError(
            "picture is no number of a picture", where=where, hint="they count from 0"
        )
    return Media("region", from_json(words, where), on=on)


def _with_regions(parts: list[Part], regions: list[Media], where: str) -> list[Part]:
    """The parts of a message with its regions in its text."""
    if not regions:
        return parts
    marks = sum(part.count(MARK) for part in parts if isinstance(part, str))
    if marks:
        if marks != len(regions):
            raise SampleError(
                f"{marks} {MARK} for {len(regions)} regions",
                where=where,
                hint=f"write {MARK} once for each region, or not at all",
            )
        return list(_marked(parts, iter(regions)))
    texts = [i for i, part in enumerate(parts) if isinstance(part, str)]
    if not texts:
        return [*parts, *regions]
    last = texts[-1]
    text = parts[last]
    assert isinstance(text, str)
    places = {id(media.data): media for media in regions}
    try:
        asked = question(text, (), [media.data for media in regions]).content
    except OmnimixError as error:
        raise error.at(where) from None
    said = [part if isinstance(part, str) else places[id(part.data)] for part in asked]
    return [*parts[:last], *said, *parts[last + 1 :]]


def _marked(parts: Sequence[Part], regions: Iterator[Media]) -> Iterator[Part]:
    for part in parts:
        if not isinstance(part, str):
            yield part
            continue
        first, *rest = part.split(MARK)
        if first:
            yield first
        for text in rest:
            yield next(regions)
            if text:
                yield text
