"""`POST /v1/responses` as far as a conversation goes: what is said in its words becomes a request of `chat.completions`."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from omnimix.errors import SampleError
from omnimix.generate.answers import Answer
from omnimix.serve import bodies
from omnimix.serve.desk import Desk
from omnimix.serve.engine import Piece
from omnimix.serve.openai import chat, requests
from omnimix.serve.openai.requests import ChatBody
from omnimix.serve.openai.writing import Writer, event, regions
from omnimix.serve.schema import Asked

EXAMPLE = '{"input": "..."}'


class TextFormat(Asked):
    """What an answer is: text.

    Attributes:
        format: `{"type": "text"}`.
        verbosity: means nothing here.
    """

    format: requests.ResponseFormat | None = None
    verbosity: Any = None


class ResponsesBody(Asked):
    """The body of `POST /v1/responses`.

    Attributes:
        input: a question, or messages with parts `input_text`, `input_image`, `input_file` and `output_text`, and those
            of `chat.completions`.
        instructions: what the system says.
        max_output_tokens: most tokens of the answer.
        text: of an answer that is text.
        previous_response_id, tools: nothing is kept here, nothing is called.
        model, temperature, top_p, stream, region_format, regions_as: as in `chat.completions`.
        stream_options, include, reasoning, truncation, background, tool_choice: mean nothing here.
        parallel_tool_calls, user, metadata, store, service_tier: mean nothing here.
        safety_identifier, prompt_cache_key: mean nothing here.
    """

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    model: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stream: bool | None = None
    text: TextFormat | None = None
    region_format: Literal["parsed", "raw"] = "parsed"
    regions_as: Literal["tokens", "text", "marks"] | None = None
    previous_response_id: None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    include: Any = None
    reasoning: Any = None
    parallel_tool_calls: Any = None
    stream_options: Any = None
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    def chat(self) -> ChatBody:
        """The same as a request of `chat.completions`.

        Raises:
            SampleError: something in its input that has no place here.
        """
        said = [{"role": "system", "content": self.instructions}] if self.instructions else []
        given = self.input
        if isinstance(given, str):
            given = [{"role": "user", "content": given}]
        messages = [*said, *(_message(one, f"input.{i}") for i, one in enumerate(given))]
        names = ("model", "temperature", "top_p", "stream", "region_format", "regions_as")
        words = {name: getattr(self, name) for name in names}
        words |= {"messages": messages, "max_tokens": self.max_output_tokens}
        return requests.read(ChatBody, words)


_TEXTS = ("input_text", "output_text")
_OF_MESSAGES = {"type", "id", "status", "phase"}
"""Words of messages that come back as they were given."""


def _message(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    if message.get("type", "message") != "message":
        raise SampleError(
            f"an item of type {str(message['type'])[:40]!r}",
            where=where,
            hint="the input is made of messages; nothing is called or kept here",
        )
    words = {name: value for name, value in message.items() if name not in _OF_MESSAGES}
    content = words.get("content")
    if isinstance(content, list):
        words["content"] = [_part(part) for part in content]
    return words


def _part(part: Any) -> Any:
    """A part in the words of `chat.completions`; one that is none of these is left for that to refuse."""
    if not isinstance(part, Mapping):
        return part
    kind, words = part.get("type"), {k: v for k, v in part.items() if k != "type"}
    if kind in _TEXTS:
        for name in ("annotations", "logprobs", "regions", "skipped"):
            words.pop(name, None)
        return {"type": "text", **words}
    if kind == "input_image":
        url, detail = words.pop("image_url", None), words.pop("detail", None)
        return {"type": "image_url", "image_url": {"url": url, "detail": detail}, **words}
    if kind == "input_file":
        names = ("file_data", "file_url", "filename")
        file = {name: words.pop(name) for name in names if name in words}
        return {"type": "file", "file": file, **words}
    return part


def responses(desk: Desk) -> Callable[[Request], Awaitable[Response]]:
    """The route."""

    async def route(request: Request) -> Response:
        asked = requests.read(ResponsesBody, await bodies.body(request, EXAMPLE)).chat()
        chat.check_model(desk, asked.model)
        options = [asked.options(desk.settings.options)]
        sample = await chat.read(desk, request, asked.messages)
        telling = Telling(desk.engine.name, asked.region_format == "raw")
        if not asked.stream:
            answers = await desk.answers(request, sample, options)
            (answer,) = chat.unparsed(desk, answers, options[0]) if telling.raw else answers
            return JSONResponse(telling.whole(answer))
        pieces = await desk.stream(request, sample, options)
        if telling.raw:
            pieces = chat.raw_pieces(desk, pieces, options[0])
        events = chat.guarded(telling.events(pieces))
        return StreamingResponse(events, media_type="text/event-stream", headers=chat.HEADERS)

    return route


@dataclass
class Telling:
    """Tells one answer as a response.

    Attributes:
        model: its name.
        raw: the text alone.
    """

    model: str
    raw: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))
    count: int = 0

    def whole(self, answer: Answer | None = None) -> dict[str, Any]:
        """The response, with its answer where there is one."""
        status = "in_progress"
        words: dict[str, Any] = {"output": [], "usage": None, "incomplete_details": None}
        if answer is not None:
            status = "completed" if answer.finished else "incomplete"
            reason = None if answer.finished else {"reason": "max_output_tokens"}
            words |= {
                "output": [self._message(status, [self._text(answer)])],
                "incomplete_details": reason,
                "usage": {
                    "input_tokens": answer.prompt_tokens,
                    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                    "output_tokens": answer.tokens,
                    "output_tokens_details": {"reasoning_tokens": 0},
                    "total_tokens": answer.prompt_tokens + answer.tokens,
                },
            }
        return {
            "id": f"resp_{self.id}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.model,
            "error": None,
            "instructions": None,
            "metadata": {},
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
            **words,
        }

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        words = {"id": f"msg_{self.id}", "type": "message", "role": "assistant"}
        return {**words, "status": status, "content": content}

    def _text(self, answer: Answer | None) -> dict[str, Any]:
        part = {"type": "output_text", "text": "", "annotations": []}
        if answer is None:
            return part
        return {**part, "text": answer.text, **({} if self.raw else Writer.beside(answer))}

    def _event(self, kind: str, **words: Any) -> str:
        self.count += 1
        return event({"type": kind, "sequence_number": self.count - 1, **words}, kind)

    async def events(self, pieces: AsyncGenerator[tuple[int, Piece], None]) -> AsyncIterator[str]:
        """The answer's events as it is written."""
        item: dict[str, Any] = {"output_index": 0}
        place: dict[str, Any] = {"item_id": f"msg_{self.id}", "output_index": 0, "content_index": 0}
        yield self._event("response.created", response=self.whole())
        begun = self._message("in_progress", [])
        yield self._event("response.output_item.added", item=begun, **item)
        yield self._event("response.content_part.added", part=self._text(None), **place)
        async with aclosing(pieces):
            async for _, piece in pieces:
                closed = () if self.raw else piece.regions
                if piece.text or closed:
                    found = {"regions": regions(closed)} if closed else {}
                    yield self._event(
                        "response.output_text.delta",
                        delta=piece.text,
                        logprobs=[],
                        **found,
                        **place,
                    )
                if piece.answer is not None:
                    for one in self._last(piece.answer, item, place):
                        yield one

    def _last(self, answer: Answer, item: dict[str, Any], place: dict[str, Any]) -> list[str]:
        whole, part = self.whole(answer), self._text(answer)
        return [
            self._event("response.output_text.done", text=answer.text, logprobs=[], **place),
            self._event("response.content_part.done", part=part, **place),
            self._event("response.output_item.done", item=whole["output"][0], **item),
            self._event(f"response.{whole['status']}", response=whole),
        ]
