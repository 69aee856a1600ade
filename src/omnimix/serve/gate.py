"""The gate in front of the engine: how many requests are inside, who is sent away, and what is written down of each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omnimix.serve.answers import refusal
from omnimix.serve.metrics import Metrics

log = logging.getLogger("omnimix.serve")


class Drain:
    """Whether a server is ending, and how many requests are still inside.

    Attributes:
        ending: no new request is taken.
        inside: requests that are being answered or wait for it.
        over: is set where the time that these had is over.
    """

    def __init__(self) -> None:
        self.ending = False
        self.inside = 0
        self.over = asyncio.Event()


class Gate:
    """Lets so many requests in, counts them, and writes a line about each, without anything of what it says.

    Args:
        app: what comes next.
        drain: shared with whoever ends the server.
        metrics: where requests are counted.
        paths: that there are; any other is counted as one.
        most: requests inside at once.
    """

    def __init__(
        self, app: ASGIApp, drain: Drain, metrics: Metrics, paths: Collection[str], most: int
    ) -> None:
        self.app = app
        self.drain = drain
        self.metrics = metrics
        self.paths = frozenset(paths)
        self.most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        path = path if path in self.paths else "other"
        began, status = time.monotonic(), 499  # where the client left before any

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._in(scope, receive, seen)
        except Exception:
            status = 500
            raise
        finally:
            seconds = time.monotonic() - began
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            log.info("%s %s %d %.3f s", scope["method"], path, status, seconds)

    async def _in(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":  # reading costs nothing, and tells how it stands
            await self.app(scope, receive, send)
            return
        if self.drain.ending:
            full = refusal(503, "the server is ending", hint="ask another", Retry_After="5")
            full.headers["Connection"] = "close"
            await full(scope, receive, send)
            return
        if self.drain.inside >= self.most:
            full = refusal(
                429, "too many requests are waiting", hint="try again in a while", Retry_After="5"
            )
            await full(scope, receive, send)
            return
        self.drain.inside += 1
        self.metrics.inside.inc()
        try:
            await self.app(scope, receive, send)
        finally:
            self.drain.inside -= 1
            self.metrics.inside.dec()
