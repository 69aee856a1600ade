"""Parts of a message in the words of OpenAI's API: text, pictures, sounds, videos, documents, and regions."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from omnimix.serve.schema import Asked, ItemPart, RegionPart, TextPart, part_of

Regions: TypeAlias = list[dict[str, Any]]
Uuid: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]


class Address(Asked):
    """Where an item is.

    Attributes:
        url: a data URL, an address, or a path below the server's folder.
        detail: heard by OpenAI's models; means nothing here.
        regions: on a picture, in pixels of the original: `{"box": [x1, y1, x2, y2]}` ... (`omnimix.regions`).
        uuid: what the item is called, to name it again later without its url.
    """

    url: str | None = None
    detail: Literal["auto", "low", "high", "original"] | None = None
    regions: Regions = []
    uuid: Uuid | None = None


def _or_url(schema: dict[str, Any]) -> None:
    schema["anyOf"] = [{"type": "string"}, *schema["anyOf"]]


def _address(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


Place: TypeAlias = Annotated[
    Address | None, BeforeValidator(_address), Field(json_schema_extra=_or_url)
]


class InputAudio(Asked):
    """A sound in the request.

    Attributes:
        data: the file in base64.
        format: `wav`, `mp3` ...; what a sound is, its content says.
    """

    data: str
    format: str = ""


class InputFile(Asked):
    """A document in the request.

    Attributes:
        file_data: a data URL, or base64.
        file_url: an address, or a path below the server's folder.
        filename: what refusals call it.
    """

    file_data: str | None = None
    file_url: str | None = None
    filename: str = Field(default="", max_length=200)


class ContentItem(Asked):
    """An item of a message; `regions` and `uuid` may stand here or in its address.

    Attributes:
        type: which of the others it is about.
        image_url, audio_url, video_url: an address; a bare string is its url.
        input_audio: a sound.
        file: a document.
        regions: on a picture.
        uuid: what the item is called. With null in place of its address, the item that was called so before.
    """

    type: Literal["image_url", "audio_url", "video_url", "input_audio", "file"]
    image_url: Place = None
    audio_url: Place = None
    video_url: Place = None
    input_audio: InputAudio | None = None
    file: InputFile | None = None
    regions: Regions = []
    uuid: Uuid | None = None

    @property
    def kind(self) -> str:
        """What it is, in omnimix's word."""
        return KINDS[self.type]

    @property
    def address(self) -> Address:
        """Where it is, what lies on it and what it is called."""
        given = getattr(self, self.type)
        regions, uuid, url = self.regions, self.uuid, None
        if isinstance(given, Address):
            regions, uuid, url = [*given.regions, *regions], uuid or given.uuid, given.url
        elif isinstance(given, InputAudio):
            url = _inline(given.data, f"audio/{given.format or 'wav'}")
        elif isinstance(given, InputFile):
            held = given.file_data
            url = given.file_url if held is None else _inline(held, "application/octet-stream")
        return Address.model_construct(url=url, regions=regions, uuid=uuid)


def _inline(data: str, kind: str) -> str:
    return data if data[:5].lower() == "data:" else f"data:{kind};base64,{data}"


KINDS = {
    "image_url": "image",
    "audio_url": "audio",
    "input_audio": "audio",
    "video_url": "video",
    "file": "document",
}

Part: TypeAlias = TextPart | ContentItem | ItemPart | RegionPart

PARTS: dict[str, type[Asked]] = {
    "text": TextPart,
    **dict.fromkeys(KINDS, ContentItem),
    "item": ItemPart,
    "region": RegionPart,
}


def part(value: Any) -> Any:
    """One part, whose item is the one that its `type` says."""
    if isinstance(value, BaseModel):
        return value
    found = part_of(value, PARTS)
    if isinstance(found, ContentItem):
        kind = found.type
        odd = [name for name in KINDS if name != kind and getattr(found, name) is not None]
        address = found.address
        if odd or (address.url is None and address.uuid is None):
            message = f"a part of type {kind!r} holds {kind} and no other item"
            raise PydanticCustomError("part", "{message}", {"message": message})
        if address.regions and found.kind != "image":
            message = "regions lie on pictures alone"
            raise PydanticCustomError("part", "{message}", {"message": message})
    return found


def content(value: Any) -> Any:
    """Content that is a bare string is one part of text; none is no part."""
    if value is None:
        return []
    return [TextPart(text=value)] if isinstance(value, str) else value


def or_text(schema: dict[str, Any]) -> None:
    """The JSON schema of content, which may be a bare string or nothing too."""
    parts = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string"}, parts, {"type": "null"}]


Content: TypeAlias = Annotated[
    list[Annotated[Part, BeforeValidator(part)]],
    BeforeValidator(content),
    Field(json_schema_extra=or_text),
]
