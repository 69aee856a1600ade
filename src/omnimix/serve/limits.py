"""The size of a request's body, held before anything else sees it."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omnimix.serve.answers import refusal


class BodyLimit:
    """Reads the body of every request within a size and a time, then hands it on whole.

    A body without a length (chunked) is counted as it comes, so that no more than the limit is ever held.

    Args:
        app: what comes next.
        max_bytes: most bytes of a body; more gives 413.
        seconds: for a body to come in; more gives 408.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float = 60.0) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        promised = dict(scope["headers"]).get(b"content-length", b"0")
        body: bytes | None = None
        if promised.isdigit() and int(promised) <= self.max_bytes:
            try:
                async with asyncio.timeout(self.seconds):
                    body = await self._body(receive)
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

    async def _body(self, receive: Receive) -> bytes | None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":  # the client went away
                return bytes(body)
            body += message.get("body", b"")
            if len(body) > self.max_bytes:
                return None
            if not message.get("more_body", False):
                return bytes(body)
