"""Routes: `POST /generate` and `GET /health`. They know an engine's protocol and nothing behind it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from omnimix.data.placeholders import conversation, published
from omnimix.errors import OmnimixError, SampleError
from omnimix.generate.decoding import Options
from omnimix.serve.answers import refusal, said
from omnimix.serve.engine import Engine
from omnimix.serve.items import Forbidden, Items
from omnimix.serve.limits import BodyLimit
from omnimix.types import Media, Sample

log = logging.getLogger("omnimix.serve")


@dataclass(frozen=True)
class Settings:
    """How a server answers, whatever its clients ask.

    Attributes:
        items: where items may come from.
        options: how answers are written; no request changes them.
        max_bytes: most bytes of a request.
        max_items: most items of a request, all modalities together.
        max_waiting: most requests that are answered or wait for it; more get 503.
    """

    items: Items = field(default_factory=Items)
    options: Options = field(default_factory=lambda: Options(max_new_tokens=128))
    max_bytes: int = 64 * 1024 * 1024
    max_items: int = 64
    max_waiting: int = 32


class _Refused(Exception):
    """A request that is answered with a refusal."""

    def __init__(self, response: JSONResponse) -> None:
        self.response = response


def create_app(engine: Engine, settings: Settings | None = None) -> FastAPI:
    """The server as an ASGI application; it closes the engine when it ends."""
    chosen = settings or Settings()

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.close()

    # The pages that FastAPI makes of itself load scripts from elsewhere.
    app = FastAPI(title="omnimix", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BodyLimit, max_bytes=chosen.max_bytes)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(Exception, _failed)
    door = _Door(engine, chosen)
    app.post("/generate")(door.generate)
    app.get("/health")(door.health)
    return app


class _Door:
    """The routes of one engine."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self.inside = 0

    async def generate(self, request: Request) -> JSONResponse:
        """`{"messages": [...], "images": [...], ...}` gives `{"output": text}`."""
        if self.inside >= self.settings.max_waiting:
            return refusal(
                503, "too many requests are waiting", hint="try again in a while", Retry_After="5"
            )
        self.inside += 1
        try:
            body = _body(request, await request.body())
            sample = await asyncio.to_thread(self._sample, body)
            answer = await self.engine.generate(sample, self.settings.options)
        except _Refused as refused:
            return refused.response
        except Forbidden as error:
            return said(403, error)
        except OmnimixError as error:
            return said(400, error)
        finally:
            self.inside -= 1
        return JSONResponse({"output": answer.text})

    async def health(self) -> dict[str, Any]:
        """Whether it is there, which model it is, and what that takes."""
        takes = {
            name: {"placeholder": published(name).token, "key": published(name).key}
            for name in self.engine.recipe.modalities
        }
        facts = self.engine.health()
        return {"status": "ok", "model": self.engine.name, "modalities": takes, **facts}

    def _sample(self, body: Mapping[str, Any]) -> Sample:
        """The conversation of a request, its items found. May wait for the network."""
        modalities = self.engine.recipe.modalities
        keys = {published(name).key: name for name in modalities}
        given = {key: body[key] for key in keys if isinstance(body.get(key), list)}
        count = sum(map(len, given.values()))
        if count > self.settings.max_items:
            raise SampleError(
                f"{count} items in one request, and this server takes {self.settings.max_items}",
                where="request",
                hint="send fewer at once",
            )
        # Words that the model does not know stay out; those that are no list are refused below.
        lists: dict[str, Any] = {key: body[key] for key in keys if body.get(key) is not None}
        conversation(body.get("messages"), lists, modalities, "request", surplus="ignore")
        for key, items in given.items():
            lists[key] = [
                self._item(item, keys[key], f"{key}[{i}]") for i, item in enumerate(items)
            ]
        return conversation(body["messages"], lists, modalities, "request", surplus="ignore")

    def _item(self, item: Any, modality: str, where: str) -> Media:
        spec = self.engine.recipe.modalities[modality]
        return self.settings.items.media(item, modality, spec, where)


def _body(request: Request, content: bytes) -> Mapping[str, Any]:
    """The request's JSON object."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        what = f"the content type is {kind!r}" if kind else "the content type is missing"
        raise _Refused(refusal(415, what, hint="send application/json"))
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        what = f"the body is no JSON ({error})"
        raise _Refused(refusal(400, what, hint='send {"messages": [...]}')) from None
    if not isinstance(body, dict):
        what = f"the body is no JSON object but {type(body).__name__}"
        raise _Refused(refusal(400, what, hint='send {"messages": [...]}'))
    return body


async def _plain(request: Request, error: Exception) -> JSONResponse:
    """404 and 405 in the form of every other refusal."""
    assert isinstance(error, HTTPException)
    hints = {
        404: "there are POST /generate and GET /health",
        405: "ask /generate with POST, /health with GET",
    }
    what = f"{request.method} {request.url.path[:120]}: {error.detail}"
    response = refusal(error.status_code, what, hint=hints.get(error.status_code))
    response.headers.update(error.headers or {})
    return response


async def _failed(_: Request, error: Exception) -> JSONResponse:
    """A fault of ours; the client learns that there is one, the log which."""
    log.error("a request failed", exc_info=error)
    return refusal(500, "the server failed", hint="its log says why")
