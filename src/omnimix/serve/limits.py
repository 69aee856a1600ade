"""What is held of requests before anything else sees them: their bodies' size, and the name that they ask for."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omnimix.serve.answers import refusal


class Room:
    """What one request takes of the bytes that all bodies together may have."""

    def __init__(self, limit: BodyLimit) -> None:
        self.limit = limit
        self.bytes = 0

    def grow(self, count: int) -> None:
        """Raises MemoryError where the others leave no room."""
        self.bytes += count
        self.limit.held += count
        if self.limit.held > self.limit.most:
            raise MemoryError


class HostCheck:
    """Refuses requests that ask for another name: a page may give its own name the address of this machine.

    Args:
        app: what comes next.
        hosts: names that are ours. Plain addresses always are, since no page has one for a name.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self.app = app
        self.hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            asked = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
            name = asked.rsplit(":", 1)[0] if asked[-1:] != "]" and ":" in asked else asked
            if not (name in self.hosts or _is_address(name.strip("[]"))):
                await refusal(
                    403,
                    f"this server is not called {name[:80]!r}",
                    hint="ask for its address, or start it with --allow-host NAME",
                )(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


class BodyLimit:
    """Reads the body of every request within a size and a time, then hands it on whole.

    A body without a length (chunked) is counted as it comes, so that no more than the limit is ever held.

    Args:
        app: what comes next.
        max_bytes: most bytes of a body; more gives 413.
        seconds: for a body to come in; more gives 408.
        bodies: how many of the largest size are held at once; more gives 503.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, seconds: float = 60.0, bodies: int = 4
    ) -> None:
        self.app = app
        self.most = max_bytes * bodies
        self.held = 0
        self.max_bytes = max_bytes
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        room = Room(self)
        try:
            await self._held(scope, receive, send, room)
        finally:
            self.held -= room.bytes

    async def _held(self, scope: Scope, receive: Receive, send: Send, room: Room) -> None:
        promised = dict(scope["headers"]).get(b"content-length", b"0")
        body: bytes | None = None
        if promised.isdigit() and int(promised) <= self.max_bytes:
            try:
                async with asyncio.timeout(self.seconds):
                    body = await self._body(receive, room)
            except MemoryError:
                full = refusal(503, "the bodies of other requests fill the server", Retry_After="5")
                full.headers["Connection"] = "close"
                await full(scope, receive, send)
                return
            except TimeoutError:
                late = refusal(408, f"the body did not come within {self.seconds:g} seconds")
                await late(scope, receive, send)
                return
        if body is None:
            large = refusal(
                413,
                f"the body has more than {self.max_bytes} bytes",
                hint="send less, or start the server with a larger --max-body",
            )
            large.headers["Connection"] = "close"
            await large(scope, receive, send)
            return
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def whole() -> Message:
            return waiting.pop() if waiting else await receive()

        await self.app(scope, whole, send)

    async def _body(self, receive: Receive, room: Room) -> bytes | None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":  # the client went away
                return bytes(body)
            body += message.get("body", b"")
            room.grow(len(message.get("body", b"")))
            if len(body) > self.max_bytes:
                return None
            if not message.get("more_body", False):
                return bytes(body)
