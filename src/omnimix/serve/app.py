"""The server as an application: what stands in front of its routes, and the routes. They know an engine's protocol alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from omnimix.errors import OmnimixError, Unavailable
from omnimix.generate.decoding import Options
from omnimix.serve import bodies, described, opening, pages, wires
from omnimix.serve.answers import Refused, refusal, said
from omnimix.serve.desk import Desk
from omnimix.serve.engine import Engine
from omnimix.serve.gate import Drain, Gate
from omnimix.serve.items import Forbidden
from omnimix.serve.keys import KeyCheck
from omnimix.serve.limits import BodyLimit, HostCheck
from omnimix.serve.openai import chat, models, prompt, responses, segment
from omnimix.serve.openai.uuids import Forgotten
from omnimix.serve.settings import Settings
from omnimix.serve.wires import Wire
from omnimix.types import Sample

__all__ = ["Settings", "create_app"]

log = logging.getLogger("omnimix.serve")

Route = Callable[[Request], Awaitable[Response]]


def create_app(engine: Engine, settings: Settings | None = None) -> FastAPI:
    """The server as an ASGI application; it closes the engine when it ends."""
    chosen = settings or Settings()
    drain = Drain()
    desk = Desk(engine, chosen, over=drain.over)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.close()

    # The pages that FastAPI makes of itself load scripts from elsewhere.
    app = FastAPI(title="omnimix", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.drain = drain
    posts = _posts(desk)
    gets = _gets(desk, drain, list(posts))
    for path, route in posts.items():
        app.post(path)(route)
    for path, route in gets.items():
        app.get(path)(route)
    gets["/openapi.json"] = _description(desk, list(posts), list(gets))
    app.get("/openapi.json")(gets["/openapi.json"])
    for path, route in pages.files(chosen.page).items():
        app.add_route(path, route, methods=["GET"])
    _guard(app, desk, drain, [*posts, *gets])
    _explain(app, list(posts), list(gets))
    return app


def _posts(desk: Desk) -> dict[str, Route]:
    """What is asked, by path."""
    return {
        "/v1/chat/completions": chat.chat(desk),
        "/v1/completions": chat.completions(desk),
        "/v1/responses": responses.responses(desk),
        "/v1/prompt": prompt.prompt(desk),
        "/v1/segment": segment.segment(desk),
        **{wire.path: _wired(desk, wire) for wire in wires.wires()},
    }


def _gets(desk: Desk, drain: Drain, paths: Sequence[str]) -> dict[str, Route]:
    """What may be looked at, by path."""

    async def ready(_: Request) -> Response:
        if drain.ending:
            return refusal(503, "the server is ending", hint="ask another", Retry_After="5")
        return JSONResponse({"status": "ready"})

    async def health(_: Request) -> Response:
        return JSONResponse(_health(desk, paths))

    async def metrics(_: Request) -> Response:
        return Response(desk.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    desk.metrics.watch(desk.engine.health)
    return {
        "/v1/models": models.models(desk),
        "/v1/models/{name:path}": models.model(desk),
        "/health": health,
        "/ready": ready,
        "/metrics": metrics,
    }


def _description(desk: Desk, posts: Sequence[str], gets: Sequence[str]) -> Route:
    words = described.openapi(posts, gets, bool(desk.settings.keys))

    async def route(_: Request) -> Response:
        return JSONResponse(words)

    return route


def _guard(app: FastAPI, desk: Desk, drain: Drain, paths: Sequence[str]) -> None:
    """What stands in front of the routes; what is added last sees a request first."""
    settings = desk.settings
    words: dict[str, Any] = {"drain": drain, "metrics": desk.metrics, "paths": paths}
    app.add_middleware(Gate, most=settings.max_waiting, **words)
    app.add_middleware(BodyLimit, max_bytes=settings.max_bytes)
    app.add_middleware(KeyCheck, keys=settings.keys, rate=settings.rate, guarded=paths)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    if settings.hosts is not None:
        app.add_middleware(HostCheck, hosts=settings.hosts)


def _wired(desk: Desk, wire: Wire) -> Route:
    """The route that answers bodies of one wire format."""

    async def route(request: Request) -> Response:
        content = await bodies.body(request, wire.example)
        sample, options = await asyncio.to_thread(_asked, desk, wire, content)
        (answer,) = await desk.answers(request, sample, [options])
        return JSONResponse(wire.written(answer))

    return route


def _asked(desk: Desk, wire: Wire, content: Mapping[str, Any]) -> tuple[Sample, Options]:
    """The conversation of a body with its items found, and how to answer. May wait for the network."""
    recipe, settings = desk.engine.recipe, desk.settings
    body = wire.read(content, recipe)
    options = body.request.options.over(settings.options)
    return opening.sample(body, recipe, settings.items, settings.max_items), options


def _health(desk: Desk, paths: Iterable[str]) -> dict[str, Any]:
    """Whether it is there, which model it is, and what that takes."""
    formats = wires.wires()
    takes = {
        name: {"type": spec.media} | _merged(wire.words(name) for wire in formats)
        for name, spec in desk.engine.recipe.modalities.items()
    }
    return {
        "status": "ok",
        "model": desk.engine.name,
        "paths": list(paths),
        "modalities": takes,
        **desk.engine.health(),
    }


def _merged(tables: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {word: value for table in tables for word, value in table.items()}


def _explain(app: FastAPI, posts: Sequence[str], gets: Sequence[str]) -> None:
    """Every refusal in one form."""
    hints = {
        404: f"there are POST {', '.join(posts)} and GET {', '.join(gets)}",
        405: f"ask {', '.join(posts)} with POST, {', '.join(gets)} with GET",
    }

    async def plain(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = f"{request.method} {request.url.path[:120]}: {error.detail}"
        response = refusal(error.status_code, what, hint=hints.get(error.status_code))
        response.headers.update(error.headers or {})
        return response

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return error.response

    async def wrong(_: Request, error: Exception) -> Response:
        assert isinstance(error, OmnimixError)
        if isinstance(error, Unavailable):
            return said(429 if error.busy else 503, error, Retry_After="5")
        code = "unknown_item" if isinstance(error, Forgotten) else None
        return said(403 if isinstance(error, Forbidden) else 400, error, code)

    async def left(_: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody hears it

    app.add_exception_handler(HTTPException, plain)
    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(OmnimixError, wrong)
    app.add_exception_handler(ClientDisconnect, left)
    app.add_exception_handler(Exception, _failed)


async def _failed(_: Request, error: Exception) -> Response:
    """A fault of ours; the client learns that there is one, the log which."""
    log.error("a request failed", exc_info=error)
    return refusal(500, "the server failed", hint="its log says why")
