"""Who answers: the routes know this protocol alone, so another engine replaces the one here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.errors import OmnimixError
from omnimix.generate.answers import Answer, Closing, Placed, TokenLogprob
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.media.opening import Opener
from omnimix.media.several import Several
from omnimix.types import Sample


@dataclass(frozen=True)
class Piece:
    """What a running answer has grown by.

    Attributes:
        text: newly settled text, maybe none.
        regions: that closed in it.
        logprobs: of the tokens behind it, where they were asked for.
        answer: the whole, on the last piece alone.
    """

    text: str = ""
    regions: tuple[Placed, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    answer: Answer | None = None


class Engine(Protocol):
    """Answers conversations.

    Attributes:
        name: of the model, for clients.
        recipe: what it takes; the routes read the modalities off it.
        processor: how conversations are woven, for those who want to see one as the model does.
    """

    name: str
    recipe: Recipe
    processor: Processor

    def stream(self, sample: Sample, options: Options) -> AsyncGenerator[Piece, None]:
        """The answer to the last turn while it is written; `aclose` ends the writing.

        Raises:
            Unavailable, OmnimixError: as `generate` does, with the first piece.
        """
        ...

    async def generate(self, sample: Sample, options: Options) -> Answer:
        """The answer to the last turn.

        Raises:
            Unavailable: it cannot answer now, whatever is asked.
            OmnimixError: the sample cannot be used (an item that is broken, too long a conversation ...).
        """
        ...

    def health(self) -> dict[str, Any]:
        """Facts for those who watch over it; plain data."""
        ...

    async def close(self) -> None:
        """Let what is being answered come to its end, then give everything back."""
        ...


class OneAtATime:
    """One request after the other, in a thread of its own, so that the event loop stays free.

    Args:
        assistant: who answers.
        name: of the model.
    """

    def __init__(self, assistant: Assistant, name: str) -> None:
        self.name = name
        self.processor = assistant.processor
        self.recipe = assistant.processor.recipe
        self._assistant = assistant
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="omnimix-engine")
        self._waiting = 0
        self._answered = 0

    async def stream(self, sample: Sample, options: Options) -> AsyncGenerator[Piece, None]:
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Piece | BaseException]()
        left = threading.Event()

        def put(piece: Piece | BaseException) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        self._waiting += 1
        try:
            written = loop.run_in_executor(
                self._thread, _write, self._assistant, sample, options, put, left
            )
            try:
                while True:
                    piece = await pieces.get()
                    if isinstance(piece, BaseException):
                        raise piece
                    yield piece
                    if piece.answer is not None:
                        self._answered += 1
                        return
            finally:
                left.set()
                written.cancel()  # where it has not begun; else it ends with its next token
        finally:
            self._waiting -= 1

    async def generate(self, sample: Sample, options: Options) -> Answer:
        return await whole(self.stream(sample, options))

    def health(self) -> dict[str, Any]:
        return {"waiting": self._waiting, "answered": self._answered}

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown, wait=True)


def _write(
    assistant: Assistant,
    sample: Sample,
    options: Options,
    put: Callable[[Piece | BaseException], None],
    left: threading.Event,
) -> None:
    """Write an answer piece by piece until it is done or nobody listens any more."""
    try:
        closing = Closing()
        if options.logprobs is not None:  # which a stream of text has not
            answer = assistant.reply(sample, options)
            put(Piece(answer.text, closing.of(answer, done=True), answer.logprobs, answer))
            return
        written = assistant.stream(sample, options=options)
        try:
            for text in written:
                if left.is_set():
                    return
                put(Piece(text, closing.of(written.answer)))
        finally:
            written.close()
        answer = written.answer
        put(Piece("", closing.of(answer, done=True), answer=answer))
    except BaseException as error:  # handed to whoever waits
        put(error)


async def whole(pieces: AsyncGenerator[Piece, None]) -> Answer:
    """The answer that pieces end in."""
    async with aclosing(pieces):
        async for piece in pieces:
            if piece.answer is not None:
                return piece.answer
    raise OmnimixError("the answer broke off", hint="ask again")


def limited(assistant: Assistant, **most: float | None) -> Assistant:
    """The same assistant, whose openers take no more than that.

    Args:
        most: `max_pixels`, `max_seconds`, `max_pages`; None, or an opener's own limit that is lower, changes nothing.
    """
    limits = {name: value for name, value in most.items() if value is not None}
    if not limits:
        return assistant
    recipe = assistant.processor.recipe
    modalities = {}
    for name, spec in recipe.modalities.items():
        modalities[name] = spec.model_copy(update={"opens": _capped(spec.opens, limits)})
    held = assistant.processor.with_recipe(recipe.model_copy(update={"modalities": modalities}))
    made = Assistant(assistant.model, held, assistant.process_group)
    made.decoder = assistant.decoder  # with what runs the model
    return made


def _capped(opens: Opener, limits: Mapping[str, float]) -> Opener:
    if isinstance(opens, Several):
        rows = {
            kind: row.model_copy(update={"opens": _capped(row.opens, limits)})
            for kind, row in opens.kinds.items()
        }
        return opens.model_copy(update={"kinds": rows})
    lower = {name: most for name, most in limits.items() if getattr(opens, name, most) > most}
    return opens.model_copy(update=lower) if lower else opens
