"""What the routes share: the engine, what requests may ask of it, and how its answers are waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from starlette.requests import Request

from omnimix.errors import OmnimixError
from omnimix.generate.answers import Answer
from omnimix.generate.decoding import Options
from omnimix.serve.answers import Refused, said
from omnimix.serve.engine import Engine, Piece
from omnimix.serve.metrics import Metrics
from omnimix.serve.openai.uuids import Uuids
from omnimix.serve.settings import Settings
from omnimix.serve.waiting import merged, while_there
from omnimix.types import Sample

Found = TypeVar("Found")


class Late(OmnimixError):
    """An answer that did not come in the time that a request may take."""


@dataclass
class Desk:
    """Takes the requests of one engine.

    Attributes:
        engine: who answers.
        settings: how, whatever clients ask.
        metrics: what is counted.
        uuids: items that clients named.
        over: is set when the server has no more time.
    """

    engine: Engine
    settings: Settings
    metrics: Metrics = field(default_factory=Metrics)
    uuids: Uuids = field(init=False)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.uuids = Uuids(self.settings.max_named_bytes)

    async def answers(
        self, request: Request, sample: Sample, options: Sequence[Options]
    ) -> list[Answer]:
        """One answer for each of the options, written side by side.

        Raises:
            Refused: the time is over.
            OmnimixError: the sample cannot be used.
        """
        pieces = self._pieces(sample, options)
        return await self.there(request, _collected(pieces, len(options)), self._until())

    async def stream(
        self, request: Request, sample: Sample, options: Sequence[Options]
    ) -> AsyncGenerator[tuple[int, Piece], None]:
        """The pieces of the answers as they come, each with its answer's number.

        It comes back with the first of them, so that what cannot be answered is refused before anything is sent.

        Raises:
            Refused, OmnimixError: as `answers` does; later, from the stream itself, `Late` and OmnimixError.
        """
        until = self._until()
        pieces = self._pieces(sample, options)
        first = await self.there(request, _next(pieces), until)
        return self._rest(first, pieces, until)

    async def _rest(
        self,
        piece: tuple[int, Piece],
        pieces: AsyncGenerator[tuple[int, Piece], None],
        until: float,
    ) -> AsyncGenerator[tuple[int, Piece], None]:
        async with aclosing(pieces):
            yield piece
            while True:
                try:
                    async with asyncio.timeout_at(until):
                        piece = await _next(pieces)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise self._late() from None
                yield piece

    async def there(
        self, request: Request, work: Coroutine[Any, Any, Found], until: float | None = None
    ) -> Found:
        """What some work gives, as long as its client is there and its time is not over."""
        try:
            return await while_there(request, work, self._until() if until is None else until)
        except TimeoutError:
            raise Refused(said(504, self._late())) from None

    def _late(self) -> Late:
        return Late(
            f"the answer was not written within {self.settings.deadline:g} seconds",
            hint="ask for fewer tokens, or start the server with a larger --deadline",
        )

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + self.settings.deadline

    async def _pieces(
        self, sample: Sample, options: Sequence[Options]
    ) -> AsyncGenerator[tuple[int, Piece], None]:
        count = self.metrics.answer()
        streams = [self.engine.stream(sample, one) for one in options]
        async with aclosing(merged(streams, self.over)) as pieces:
            async for number, piece in pieces:
                count.piece(piece)
                yield number, piece


def several(options: Options, count: int) -> list[Options]:
    """The options of several answers to one question; with a seed, each has one of its own."""
    if options.seed is None:
        return [options] * count
    return [replace(options, seed=options.seed + k) for k in range(count)]


async def _next(pieces: AsyncGenerator[tuple[int, Piece], None]) -> tuple[int, Piece]:
    return await anext(pieces)


async def _collected(pieces: AsyncGenerator[tuple[int, Piece], None], count: int) -> list[Answer]:
    found: dict[int, Answer] = {}
    async with aclosing(pieces):
        async for number, piece in pieces:
            if piece.answer is not None:
                found[number] = piece.answer
    return [found[number] for number in range(count)]
