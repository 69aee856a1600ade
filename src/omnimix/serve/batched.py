"""The engine of the server: many answers at once (`omnimix.generate.engine`), on a thread of its own.

Conversations are woven and their items hashed on threads beside it, so that a damaged item hurts nobody else and the
model never waits for a picture to be opened.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from omnimix.compose.sequence import Sequence as Woven
from omnimix.errors import Unavailable
from omnimix.generate.answers import Answer, Closing
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options, request
from omnimix.generate.engine.core import Core, Generation, Limits
from omnimix.generate.engine.prompts import prompt
from omnimix.generate.engine.shared import Shared
from omnimix.serve.engine import Piece, whole
from omnimix.types import Sample

ITEMS = 2**28
"""Bytes of encoded items that are kept."""


def limits(
    max_batch: int = 32,
    cache_memory: int = 2048,
    prefill_chunk: int = 256,
    deterministic: bool = False,
) -> Limits:
    """What a server takes.

    Args:
        cache_memory: MiB for running answers; half as many again keep beginnings of prompts.
    """
    memory = cache_memory * 2**20
    return Limits(max_batch, memory, prefill_chunk, memory // 2, ITEMS, deterministic)


def core_of(assistant: Assistant, most: Limits) -> Core:
    """What writes its answers; where several processes hold its model, each has to make one."""
    group = assistant.process_group
    if group.size == 1:
        return assistant.decoder.core(most)
    with group.together():
        run: Any = assistant.decoder.runner  # torch's: others take no part of a model
        return Shared(assistant.model, most, run, group)


def follow(assistant: Assistant, most: Limits) -> None:
    """Take part in the answers of the first process that holds the model, until that one has ended."""
    core = core_of(assistant, most)
    assert isinstance(core, Shared)
    core.follow()


class Batched:
    """Answers that are written together; each is what it would be alone.

    Args:
        assistant: who answers. Its weights are not to be changed while the engine runs.
        name: of the model.
        most: how many at once, and how much memory for what.

    Attributes:
        broken: what it broke down by.
    """

    def __init__(self, assistant: Assistant, name: str, most: Limits | None = None) -> None:
        self.name = name
        self.processor = assistant.processor
        self.recipe = assistant.processor.recipe
        # Conversations are woven in this process alone.
        self._assistant = Assistant(assistant.model, assistant.processor)
        self._core = core_of(assistant, most or limits())
        self._weaving = ThreadPoolExecutor(2, thread_name_prefix="omnimix-weave")
        self._work = threading.Condition()
        self._closing = self._closed = False
        self.broken: BaseException | None = None
        self._asked = self._answered = 0
        self._thread = threading.Thread(target=self._run, name="omnimix-engine", daemon=True)
        self._thread.start()

    async def stream(self, sample: Sample, options: Options) -> AsyncGenerator[Piece, None]:
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def listen(_: Generation) -> None:
            loop.call_soon_threadsafe(news.set)

        if self._closing:
            raise Unavailable("the engine is being closed", hint="ask again in a moment")
        self._asked += 1
        try:
            begun = await loop.run_in_executor(self._weaving, self._begin, sample, options)
            woven, asked = begun
            asked.listen = listen
            self._add(asked)
            pieces = _Pieces(self._assistant, woven, asked, options)
            try:
                over = False
                while not over:
                    await news.wait()
                    news.clear()
                    over = asked.over
                    if asked.error is not None:
                        raise asked.error
                    piece = pieces.next(over)
                    self._answered += over
                    if over or piece.text or piece.regions or piece.logprobs:
                        yield piece
            finally:
                asked.cancel()
        finally:
            self._asked -= 1

    async def generate(self, sample: Sample, options: Options) -> Answer:
        return await whole(self.stream(sample, options))

    def health(self) -> dict[str, Any]:
        core, items, prefixes = self._core, self._core.items, self._core.prefixes
        return {
            "waiting": self._asked,
            "answered": self._answered,
            "queued": core.waiting,
            "running": core.running,
            "max_batch": core.limits.max_batch,
            "processes": core.group.size,
            "tokens": core.tokens,
            "steps": core.steps,
            "cache": {"used": core.held, "most": core.limits.cache_memory},
            "items": {"hits": items.hits, "misses": items.misses, "bytes": items.bytes},
            "prefixes": {"hits": prefixes.hits, "misses": prefixes.misses, "bytes": prefixes.bytes},
        }

    async def close(self) -> None:
        self._closing = True
        while self._asked:
            await asyncio.sleep(0.02)
        self._weaving.shutdown()
        with self._work:
            self._closed = True
            self._work.notify()
        await asyncio.to_thread(self._thread.join)

    def _begin(self, sample: Sample, options: Options) -> tuple[Woven, Generation]:
        woven = self._assistant.weave(sample, options)
        endings = self._assistant.endings(options)
        given = prompt(woven, self._assistant.model)
        return woven, request(given, self._assistant.model, options, endings)

    def _add(self, asked: Generation) -> None:
        with self._work:
            if self.broken is not None:
                raise self._unavailable()
            self._core.add(asked)
            self._work.notify()

    def _unavailable(self) -> Unavailable:
        error = Unavailable(f"the engine broke down ({self.broken})", hint="start the server again")
        error.__cause__ = self.broken
        return error

    def _run(self) -> None:
        core = self._core
        try:
            while not self._idle():
                core.step()
            core.close()
        except BaseException as error:  # told to everybody who waits
            several = core.group.size > 1  # the command tells it, and ends
            with self._work:  # nobody comes between
                self.broken = error
                core.fail(self._unavailable() if several else error)
            if not several:
                raise

    def _idle(self) -> bool:
        """Wait for work; whether there will be none."""
        with self._work:
            if not (self._core.waiting or self._core.running or self._closed):
                self._work.wait(self._core.patience)
            return self._closed and not (self._core.waiting or self._core.running)


class _Pieces:
    """What a request has grown by, piece after piece."""

    def __init__(
        self, assistant: Assistant, woven: Woven, asked: Generation, options: Options
    ) -> None:
        self.assistant, self.woven, self.asked = assistant, woven, asked
        self.stops = assistant.stops(options)
        self.closing = Closing()
        self.sent, self.told = "", 0

    def next(self, over: bool) -> Piece:
        """What there is since the last call.

        Args:
            over: nothing will follow.
        """
        logprobs = self.assistant.logprobs(self.asked, self.told) if self.asked.likely else ()
        self.told += len(logprobs)
        if over:
            answer = self.assistant.answer_of(self.asked, self.woven, self.stops)
            text = answer.text[len(self.sent) :]
            return Piece(text, self.closing.of(answer, done=True), logprobs, answer)
        text = self.assistant.settled(self.asked.ids[:], self.stops)[len(self.sent) :]
        if not text:
            return Piece("", (), logprobs)
        self.sent += text
        return Piece(
            text,
            self.closing.of(self.assistant.answer_of(self.asked, self.woven, self.stops)),
            logprobs,
        )
