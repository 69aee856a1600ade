"""`POST /v1/chat/completions` and `/v1/completions`, whole and streamed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from omnimix.errors import OmnimixError
from omnimix.generate.answers import Answer
from omnimix.generate.decoding import Options
from omnimix.generate.stopping import cut, free
from omnimix.language.tokenizer import end_tokens
from omnimix.serve import bodies
from omnimix.serve.answers import Refused, said, told
from omnimix.serve.desk import Desk, Late, several
from omnimix.serve.engine import Piece, Unavailable
from omnimix.serve.keys import owner
from omnimix.serve.openai import requests
from omnimix.serve.openai.reading import Reader
from omnimix.serve.openai.requests import ChatMessage, Sampling
from omnimix.serve.openai.writing import DONE, Writer, event, usage
from omnimix.types import Sample

CHAT = '{"messages": [{"role": "user", "content": "..."}]}'
COMPLETION = '{"prompt": "..."}'
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Of streams: a proxy that collects them would make them come at once."""

log = logging.getLogger("omnimix.serve")


def chat(desk: Desk) -> Callable[[Request], Awaitable[Response]]:
    """The route of conversations."""

    async def route(request: Request) -> Response:
        asked = requests.read(requests.ChatBody, await bodies.body(request, CHAT))
        check_model(desk, asked.model)
        sample = await read(desk, request, asked.messages)
        return await _answer(desk, request, asked, sample, plain=False)

    return route


def completions(desk: Desk) -> Callable[[Request], Awaitable[Response]]:
    """The route of single texts."""

    async def route(request: Request) -> Response:
        asked = requests.read(requests.CompletionBody, await bodies.body(request, COMPLETION))
        check_model(desk, asked.model)
        message = ChatMessage.model_validate({"role": "user", "content": asked.prompt})
        sample = await read(desk, request, [message])
        return await _answer(desk, request, asked, sample, plain=True)

    return route


def check_model(desk: Desk, name: str | None) -> None:
    """Refuse a question to another model.

    Raises:
        Refused: there is one model here, and it is called otherwise.
    """
    if name is not None and name != desk.engine.name:
        error = OmnimixError(
            f"there is no model {name[:80]!r} here", where="model", hint=f"ask {desk.engine.name!r}"
        )
        raise Refused(said(404, error, code="model_not_found"))


async def read(desk: Desk, request: Request, messages: list[ChatMessage]) -> Sample:
    """The conversation of some messages; may wait for the network."""
    settings = desk.settings
    reader = Reader(
        desk.engine.recipe,
        settings.items,
        desk.uuids,
        owner(request.scope),
        settings.max_items,
        settings.max_characters,
    )
    return await asyncio.to_thread(reader.sample, messages)


async def _answer(
    desk: Desk, request: Request, asked: Sampling, sample: Sample, plain: bool
) -> Response:
    many = several(asked.options(desk.settings.options), asked.n or 1)
    raw = asked.region_format == "raw"
    writer = Writer(desk.engine.name, raw, plain)
    if not asked.stream:
        if asked.stream_options is not None:
            raise OmnimixError(
                "stream_options needs stream", where="stream_options", hint='add "stream": true'
            )
        answers = await desk.answers(request, sample, many)
        return JSONResponse(writer.whole(unparsed(desk, answers, many[0]) if raw else answers))
    counted = asked.stream_options is not None and asked.stream_options.include_usage
    pieces = await desk.stream(request, sample, many)
    if raw:
        pieces = raw_pieces(desk, pieces, many[0])
    events = guarded(_chunks(writer, pieces, len(many), counted))
    return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)


def unparsed(desk: Desk, answers: Sequence[Answer], options: Options) -> list[Answer]:
    """The answers with the text that the model wrote, special tokens included."""
    recipe, tokenizer = desk.engine.recipe, desk.engine.processor.weave.tokenizer
    if not recipe.coordinates.tokens:
        return list(answers)
    stops = options.stops(recipe.template.stop_strings)
    ends = end_tokens(tokenizer, stops.strings)
    texts = []
    for answer in answers:
        ids = answer.ids[:-1] if answer.ids and answer.ids[-1] in ends else answer.ids
        begins = free(tokenizer, ids, stops, specials=True)
        texts.append(cut(tokenizer.decode(ids, specials=True), stops.strings, begins)[0].strip())
    return [replace(answer, text=text) for answer, text in zip(answers, texts, strict=True)]


async def raw_pieces(
    desk: Desk, pieces: AsyncGenerator[tuple[int, Piece], None], options: Options
) -> AsyncGenerator[tuple[int, Piece], None]:
    """Pieces of what the model wrote. Special tokens do not come in pieces, so that with them an answer comes whole."""
    async with aclosing(pieces):
        async for number, piece in pieces:
            if not desk.engine.recipe.coordinates.tokens:
                yield number, piece
            elif piece.answer is not None:
                (answer,) = unparsed(desk, [piece.answer], options)
                yield number, replace(piece, text=answer.text)
            elif piece.logprobs:
                yield number, replace(piece, text="")


async def _chunks(
    writer: Writer, pieces: AsyncGenerator[tuple[int, Piece], None], count: int, counted: bool
) -> AsyncIterator[str]:
    answers: dict[int, Answer] = {}
    async with aclosing(pieces):
        for index in range(count):
            yield writer.first(index)
        async for index, piece in pieces:
            if piece.answer is not None:
                answers[index] = piece.answer
            yield writer.piece(index, piece)
    if counted:
        yield writer.chunk(usage=usage([answers[index] for index in range(count)]))
    yield DONE


async def guarded(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """A stream that says at its end why there is no more of it: its status is sent already."""
    try:
        async for one in events:
            if one:
                yield one
    except OmnimixError as error:
        status = 503 if isinstance(error, Unavailable) else 504 if isinstance(error, Late) else 400
        yield event(told(status, error))
    except Exception as error:
        log.error("a stream failed", exc_info=error)
        failed = OmnimixError("the server failed", hint="its log says why")
        yield event(told(500, failed))
