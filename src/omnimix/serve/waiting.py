"""Waiting for an engine: no longer than a request may take, and no longer than its client is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from omnimix.errors import OmnimixError, Unavailable
from omnimix.serve.engine import Piece

Found = TypeVar("Found")


async def while_there(request: Request, work: Coroutine[Any, Any, Found], deadline: float) -> Found:
    """What the work gives; it is cancelled where the client leaves or the time is over.

    Args:
        deadline: by the event loop's clock.

    Raises:
        TimeoutError: the time is over.
        ClientDisconnect: the client left.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        async with asyncio.timeout_at(deadline):
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def merged(
    streams: Sequence[AsyncGenerator[Piece, None]], over: asyncio.Event
) -> AsyncGenerator[tuple[int, Piece], None]:
    """The pieces of several answers as they come, each with the number of its answer.

    Closing it ends them all; the first that fails does so too.

    Args:
        over: is set when the server has no more time.

    Raises:
        Unavailable: it has not.
    """
    pieces: asyncio.Queue[tuple[int, Piece] | BaseException] = asyncio.Queue()

    async def pump(number: int, stream: AsyncGenerator[Piece, None]) -> None:
        try:
            async with aclosing(stream):
                async for piece in stream:
                    pieces.put_nowait((number, piece))
                    if piece.answer is not None:
                        return
            raise OmnimixError("the answer broke off", hint="ask again")
        except Exception as error:
            pieces.put_nowait(error)

    async def end() -> None:
        await over.wait()
        pieces.put_nowait(Unavailable("the server ended before the answer did", hint="ask another"))

    pumps = [asyncio.ensure_future(pump(i, stream)) for i, stream in enumerate(streams)]
    left = len(pumps)
    pumps.append(asyncio.ensure_future(end()))
    try:
        while left:
            found = await pieces.get()
            if isinstance(found, BaseException):
                raise found
            yield found
            left -= found[1].answer is not None
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
