"""Routes: a path for every wire format, and `GET /health`. They know an engine's protocol and nothing behind it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from omnimix.errors import OmnimixError, kind_of
from omnimix.generate.decoding import Options
from omnimix.serve import opening, wires
from omnimix.serve.answers import refusal, said
from omnimix.serve.engine import Engine
from omnimix.serve.items import Forbidden, ItemReader
from omnimix.serve.limits import BodyLimit, HostCheck
from omnimix.serve.wires import Wire
from omnimix.types import Sample

_MOST_VALUES = 2_000_000
_MOST_OBJECTS = 50_000

log = logging.getLogger("omnimix.serve")


@dataclass(frozen=True)
class Settings:
    """How a server answers, whatever its clients ask.

    Attributes:
        items: where items may come from.
        options: how answers are written where a request does not say, and the most tokens of any.
        max_bytes: most bytes of a request.
        max_items: most items of a request, all modalities together.
        max_waiting: most requests that are answered or wait for it; more get 503.
        hosts: names under which clients may ask, besides plain addresses; None takes any. No page of the
            web can have a name without a dot, so that of starlette's test client is among them.
    """

    items: ItemReader = field(default_factory=ItemReader)
    options: Options = field(default_factory=lambda: Options(max_new_tokens=128))
    max_bytes: int = 64 * 1024 * 1024
    max_items: int = 64
    max_waiting: int = 32
    hosts: tuple[str, ...] | None = ("localhost", "testserver")


class _Refused(Exception):
    """A request that is answered with a refusal."""

    def __init__(self, response: JSONResponse) -> None:
        self.response = response


def create_app(engine: Engine, settings: Settings | None = None) -> FastAPI:
    """The server as an ASGI application; it closes the engine when it ends."""
    chosen = settings or Settings()
    formats = wires.wires()

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.close()

    # The pages that FastAPI makes of itself load scripts from elsewhere.
    app = FastAPI(title="omnimix", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BodyLimit, max_bytes=chosen.max_bytes)
    if chosen.hosts is not None:
        app.add_middleware(HostCheck, hosts=chosen.hosts)
    app.add_exception_handler(HTTPException, _plain(formats))
    app.add_exception_handler(Exception, _failed)
    door = _Door(engine, chosen, formats)
    for wire in formats:
        app.post(wire.path)(door.route(wire))
    app.get("/health")(door.health)
    return app


class _Door:
    """The routes of one engine."""

    def __init__(self, engine: Engine, settings: Settings, formats: Sequence[Wire]) -> None:
        self.engine = engine
        self.settings = settings
        self.formats = formats
        self.inside = 0

    def route(self, wire: Wire) -> Callable[[Request], Awaitable[JSONResponse]]:
        """The route that answers bodies of one format."""

        async def answer(request: Request) -> JSONResponse:
            return await self._answer(wire, request)

        return answer

    async def _answer(self, wire: Wire, request: Request) -> JSONResponse:
        if self.inside >= self.settings.max_waiting:
            return refusal(
                503, "too many requests are waiting", hint="try again in a while", Retry_After="5"
            )
        self.inside += 1
        try:
            content = await request.body()
            body = await asyncio.to_thread(_body, request, content, wire.example)
            sample, options = await asyncio.to_thread(self._asked, wire, body)
            answer = await self.engine.generate(sample, options)
        except _Refused as refused:
            return refused.response
        except Forbidden as error:
            return said(403, error)
        except OmnimixError as error:
            return said(400, error)
        finally:
            self.inside -= 1
        return JSONResponse(wire.written(answer))

    async def health(self) -> dict[str, Any]:
        """Whether it is there, which model it is, and what that takes."""
        takes = {
            name: {"type": spec.media} | _merged(wire.words(name) for wire in self.formats)
            for name, spec in self.engine.recipe.modalities.items()
        }
        facts = self.engine.health()
        paths = [wire.path for wire in self.formats]
        return {
            "status": "ok",
            "model": self.engine.name,
            "paths": paths,
            "modalities": takes,
            **facts,
        }

    def _asked(self, wire: Wire, content: Mapping[str, Any]) -> tuple[Sample, Options]:
        """The conversation of a body with its items found, and how to answer. May wait for the network."""
        recipe, settings = self.engine.recipe, self.settings
        body = wire.read(content, recipe)
        options = body.request.options.over(settings.options)
        return opening.sample(body, recipe, settings.items, settings.max_items), options


def _merged(tables: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {word: value for table in tables for word, value in table.items()}


def _body(request: Request, content: bytes, example: str) -> Mapping[str, Any]:
    """The request's JSON object."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        what = f"the content type is {kind!r}" if kind else "the content type is missing"
        raise _Refused(refusal(415, what, hint="send application/json"))
    # The parser keeps the interpreter to itself until it is through, so it is told apart before what would
    # take it long. Signs inside of texts count as well: no text that a model reads has so many.
    for signs, most in ((b"[,", _MOST_VALUES), (b"{", _MOST_OBJECTS)):
        if sum(content.count(bytes([sign])) for sign in signs) > most:
            what = f"the body holds more than {most} {'objects' if signs == b'{' else 'values'}"
            raise _Refused(refusal(400, what, hint="send files as data URLs, or fewer items"))
    try:
        # The standard's reader would take halves of characters, raw or escaped, which no tokenizer can.
        body = json.loads(content.decode("utf-8-sig"))
        if b"\\u" in content:
            json.dumps(body, ensure_ascii=False).encode()
    except UnicodeError:
        what = "the body holds half of a character (a lone surrogate), or bytes that are no UTF-8"
        raise _Refused(refusal(400, what, hint="send whole characters in UTF-8")) from None
    except (ValueError, RecursionError) as error:
        what = f"the body is no JSON ({error})"
        raise _Refused(refusal(400, what, hint=f"send {example}")) from None
    if not isinstance(body, dict):
        what = f"the body is no JSON object but {kind_of(body)}"
        raise _Refused(refusal(400, what, hint=f"send {example}"))
    return body


def _plain(formats: Sequence[Wire]) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    """404 and 405 in the form of every other refusal."""
    posts = [wire.path for wire in formats]
    hints = {
        404: f"there are {', '.join(f'POST {path}' for path in posts)} and GET /health",
        405: f"ask {', '.join(posts)} with POST, /health with GET",
    }

    async def plain(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        what = f"{request.method} {request.url.path[:120]}: {error.detail}"
        response = refusal(error.status_code, what, hint=hints.get(error.status_code))
        response.headers.update(error.headers or {})
        return response

    return plain


async def _failed(_: Request, error: Exception) -> JSONResponse:
    """A fault of ours; the client learns that there is one, the log which."""
    log.error("a request failed", exc_info=error)
    return refusal(500, "the server failed", hint="its log says why")
