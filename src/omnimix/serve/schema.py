"""What the server is asked: a conversation of typed parts in reading order, and how to answer it.

The shape is that of chat interfaces everywhere (`messages` of `role` and `content`, content as a list of parts
with a `type`), reduced to what every model here understands. Words that are not listed are refused by name.
Other bodies are read into this one by a wire format (`omnimix.serve.wires`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    field_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from omnimix.config import Spec, first_error, validate
from omnimix.errors import OmnimixError, RecipeError, SampleError
from omnimix.generate.decoding import Options
from omnimix.registry import did_you_mean

Kind: TypeAlias = Literal["image", "audio", "video", "document"]


def _first_alone(schema: Any) -> None:
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            schema["fail_fast"] = True
        for part in schema.values():
            _first_alone(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            _first_alone(part)


class Asked(Spec):
    """A word of a request: no unknown words, and no value that is only nearly of its type.

    Lists end at their first fault: no more than one is told, and a million would take minutes to collect.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        schema = handler(source)
        _first_alone(schema)
        return schema


class TextPart(Asked):
    """Text of a turn.

    Attributes:
        type: `text`.
        text: what is said.
    """

    type: Literal["text"] = "text"
    text: str


class MediaPart(Asked):
    """One picture, sound, video or document.

    Attributes:
        type: `image`, `audio`, `video` or `document`.
        source: a path, a data URL, an address, a document's text, or an object that says which
            (`omnimix.serve.items`).
        label: what refusals call it; its place in the request where left out.
    """

    type: Kind
    source: Any
    label: str = Field(default="", max_length=200)


class ItemPart(Asked):
    """One item of a modality that is named, where several take the same kind or the kind is the model's own.

    Attributes:
        type: `item`.
        modality: its name in the recipe.
        source: as in the part of one medium.
        label: what refusals call it; its place in the request where left out.
    """

    type: Literal["item"] = "item"
    modality: str
    source: Any
    label: str = Field(default="", max_length=200)


class RegionPart(Asked):
    """A place on a picture.

    Attributes:
        type: `region`.
        region: `{"box": [x1, y1, x2, y2]}` or another form of `omnimix.regions`, in pixels.
        on: which picture of the conversation, counted from 0; the last one before it where left out.
        label: what refusals call it.
    """

    type: Literal["region"] = "region"
    region: Any
    on: int | None = Field(default=None, ge=0)
    label: str = Field(default="", max_length=200)


Part: TypeAlias = TextPart | MediaPart | ItemPart | RegionPart

PARTS: dict[str, type[Asked]] = {
    "text": TextPart,
    **dict.fromkeys(("image", "audio", "video", "document"), MediaPart),
    "item": ItemPart,
    "region": RegionPart,
}
"""The types of parts. Which one is meant is looked up here, so that a refusal names one type's words alone."""


def part_of(value: Any, parts: Mapping[str, type[Asked]]) -> Any:
    """One part by its `type`, so that a refusal names one type's words alone."""
    if isinstance(value, BaseModel):
        return value
    kind = value.get("type") if isinstance(value, Mapping) else None
    if not isinstance(kind, str) or kind not in parts:
        said = "a part needs a word 'type'" if kind is None else f"unknown type {kind!r} of a part"
        message = f"{said}; {did_you_mean(str(kind or ''), parts)}"
        raise PydanticCustomError("part_type", "{message}", {"message": message})
    try:
        return parts[kind].model_validate(value)
    except ValidationError as error:
        path, message = first_error(error)
        raise PydanticCustomError("part", "{message}", {"message": message, "path": path}) from None


def _part(value: Any) -> Any:
    return part_of(value, PARTS)


def _content(value: Any) -> Any:
    """Content that is a bare string is one part of text."""
    return [TextPart(text=value)] if isinstance(value, str) else value


class Message(Asked):
    """A turn: who says it, and its parts in reading order; a bare string is a text.

    Attributes:
        role: `system`, `user` or `assistant`.
        content: parts with a `type`, in reading order.
    """

    role: Literal["system", "user", "assistant"]
    content: Annotated[list[Annotated[Part, BeforeValidator(_part)]], BeforeValidator(_content)]

    @field_validator("content")
    @classmethod
    def _says_something(cls, content: list[Part]) -> list[Part]:
        if all(isinstance(part, TextPart) and not part.text.strip() for part in content):
            raise PydanticCustomError("empty", "the message says nothing")
        return content


class Choices(Asked):
    """How the answer is written; what is left out is the server's choice.

    The names are those of `omnimix.generate.decoding.Options`.

    Attributes:
        max_new_tokens: most tokens of the answer, at most as many as the server writes.
        min_new_tokens: fewest tokens of the answer; it does not end before.
        temperature: 0 takes the likeliest token every time.
        top_p: with a temperature, only the likeliest tokens that together reach this share.
        seed: of the sampling.
        stop_strings: strings that end the answer and are cut from it, beside the model's own ends; at most 16.
    """

    max_new_tokens: int | None = Field(default=None, ge=1)
    min_new_tokens: int | None = Field(default=None, ge=0)
    temperature: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop_strings: list[Annotated[str, Field(min_length=1)]] | None = Field(
        default=None, max_length=16
    )

    def over(self, server: Options) -> Options:
        """The server's options with these in their place.

        Raises:
            OmnimixError: more tokens than the server writes.
        """
        most = server.max_new_tokens
        if self.max_new_tokens is not None and self.max_new_tokens > most:
            raise OmnimixError(
                f"{self.max_new_tokens} tokens are more than the {most} that this server writes",
                where="options.max_new_tokens",
                hint="ask for fewer, or start it with a larger --max-new-tokens",
            )
        values = {field.name: getattr(server, field.name) for field in fields(server)}
        chosen = {name: value for name, value in self if value is not None}
        if "stop_strings" in chosen:
            chosen["stop_strings"] = tuple(chosen["stop_strings"])
        return Options(**{**values, **chosen}) if chosen else server


class Request(Asked):
    """The body of `POST /chat`.

    Attributes:
        messages: the conversation, the oldest turn first.
        options: how the answer is written.
    """

    messages: list[Message] = Field(min_length=1)
    options: Choices = Choices()

    def items(self) -> Iterator[MediaPart | ItemPart | RegionPart]:
        """Everything that is no text, in reading order."""
        for message in self.messages:
            for part in message.content:
                if not isinstance(part, TextPart):
                    yield part


FORMS = {
    r"options": f"options are {', '.join(Choices.model_fields)}",
    r"messages\.\d+\.content\.\d+": 'a part is {"type": "text", "text": "..."}, {"type": "image", "source": "..."} '
    'or {"type": "region", "region": {"box": [x1, y1, x2, y2]}}',
    r"messages\.\d+\.role": "roles are system, user and assistant",
    r"messages\.\d+\.content": 'write a text, or a list of parts: [{"type": "text", "text": "..."}]',
    r"": 'write {"messages": [{"role": "user", "content": [{"type": "text", "text": "..."}]}]}',
}
"""What is written at a place of a request; the first that the place begins with is the way out."""


def request(body: Mapping[str, Any]) -> Request:
    """A body as a request.

    Raises:
        SampleError: the first word that is missing, unknown or of another type, with its place.
    """
    try:
        return validate(Request, body, "request")
    except RecipeError as error:
        place = (error.where or "").removeprefix("request").removeprefix(": ")
        form = next(form for pattern, form in FORMS.items() if re.match(pattern, place))
        raise SampleError(error.what, where=error.where, hint=form) from None
