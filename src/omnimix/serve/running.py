"""Listening and running: from a free port to the last answer."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from omnimix.errors import OmnimixError
from omnimix.serve.gate import Drain

LAST_WORDS = 2.0
"""Seconds for telling those whose answers are cut off at the end."""
KEPT = 20
"""Seconds that a connection is kept open for another request: more than clients do (5 in OpenAI's), so that none asks on one
that is just being closed."""


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is bound, so that a port which is taken is known before a model is loaded.

    Raises:
        OmnimixError: the port is taken, or no such address is ours.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        raise OmnimixError(
            f"cannot listen there ({getattr(error, 'strerror', None) or 'no such name'})",
            where=f"{host}:{port}",
            hint="choose another --port or --host",
        ) from None
    with listener:
        yield listener


def address(listener: socket.socket) -> str:
    """Where clients find it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def patient(seconds: float = 15.0) -> type[asyncio.Protocol]:
    """uvicorn's protocol, which closes connections that ask for nothing: uvicorn waits for headers for ever.

    Args:
        seconds: between two looks; a connection that asks for nothing new from one to the next is closed.
    """
    base: Any = AutoHTTPProtocol

    class Patient(base):  # type: ignore[misc]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.loop.call_later(seconds, self._look, None)

        def _look(self, before: object) -> None:
            if self.transport.is_closing():
                return
            waits = self.cycle is None or self.cycle.response_complete
            if waits and self.cycle is before:
                self.transport.close()
                return
            self.loop.call_later(seconds, self._look, self.cycle if waits else self)

    return Patient


class Ending(uvicorn.Server):
    """A server that, asked to end, goes on listening until what is being answered is answered: whoever comes in
    between is told to ask another (503) instead of finding nobody there.

    Args:
        drain: of the application.
        grace: seconds after which the rest is cut off.
        lost: says what makes it end at once.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Drain,
        grace: int,
        lost: Callable[[], BaseException | None],
    ) -> None:
        super().__init__(config)
        self.drain = drain
        self.grace = grace
        self.lost = lost
        self.until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.drain.ending:  # asked twice
            super().handle_exit(sig, frame)
        self.drain.ending = True

    async def on_tick(self, counter: int) -> bool:
        if self.lost() is not None:
            self.drain.ending, self.grace = True, 0
        if self.drain.ending:
            now = time.monotonic()
            self.until = self.until or now + self.grace
            if now > self.until:
                self.drain.over.set()
            self.should_exit = self.drain.inside == 0 or now > self.until + LAST_WORDS
        return await super().on_tick(counter)


def run(
    app: FastAPI,
    listener: socket.socket,
    grace: int,
    root_path: str = "",
    lost: Callable[[], BaseException | None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT; what is being answered then has `grace` seconds.

    uvicorn raises the signal again when all is over; a server that was asked to end and did has not
    failed, so the signal is taken here and the process ends with 0.

    Args:
        root_path: what a proxy in front cuts from the paths of requests.
        lost: says what makes the server end at once.

    Raises:
        BaseException: what made it.
    """
    words = {"http": patient(), "log_level": "warning", "access_log": False, "server_header": False}
    words |= {"timeout_graceful_shutdown": 1, "timeout_keep_alive": KEPT, "root_path": root_path}
    config = uvicorn.Config(app, **words)  # type: ignore[arg-type]
    deaf()
    gc.freeze()  # else every request with many lists has the collector walk through the model and its libraries
    Ending(config, app.state.drain, grace, lost).run(sockets=[listener])
    error = lost()
    if error is not None:
        raise error


def deaf() -> None:
    """Let SIGTERM and SIGINT end nothing by themselves."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
