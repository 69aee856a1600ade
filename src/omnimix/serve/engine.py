"""Who answers: the routes know this protocol alone, so another engine replaces the one here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

from omnimix.compose.recipe import Recipe
from omnimix.generate.answers import Answer
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.media.opening import Opener
from omnimix.media.several import Several
from omnimix.types import Sample


class Engine(Protocol):
    """Answers conversations.

    Attributes:
        name: of the model, for clients.
        recipe: what it takes; the routes read the modalities off it.
    """

    name: str
    recipe: Recipe

    async def generate(self, sample: Sample, options: Options) -> Answer:
        """The answer to the last turn.

        Raises:
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
        self.recipe = assistant.processor.recipe
        self._assistant = assistant
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="omnimix-engine")
        self._waiting = 0
        self._answered = 0

    async def generate(self, sample: Sample, options: Options) -> Answer:
        answer: Callable[[], Answer] = partial(_reply, self._assistant, sample, options)
        self._waiting += 1
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, answer)
        finally:
            self._waiting -= 1
        self._answered += 1
        return found

    def health(self) -> dict[str, Any]:
        return {"waiting": self._waiting, "answered": self._answered}

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown, wait=True)


def _reply(assistant: Assistant, sample: Sample, options: Options) -> Answer:
    return assistant.reply(sample, **vars(options))


def limited(assistant: Assistant, max_pixels: int | None) -> Assistant:
    """The same assistant, whose openers take no picture of more pixels.

    An opener whose own limit is lower keeps it.
    """
    if max_pixels is None:
        return assistant
    recipe = assistant.processor.recipe
    modalities = {}
    for name, spec in recipe.modalities.items():
        modalities[name] = spec.model_copy(update={"opens": _capped(spec.opens, max_pixels)})
    held = assistant.processor.with_recipe(recipe.model_copy(update={"modalities": modalities}))
    return Assistant(assistant.model, held, assistant.process_group)


def _capped(opens: Opener, most: int) -> Opener:
    if isinstance(opens, Several):
        rows = {
            kind: row.model_copy(update={"opens": _capped(row.opens, most)})
            for kind, row in opens.kinds.items()
        }
        return opens.model_copy(update={"kinds": rows})
    if getattr(opens, "max_pixels", most) > most:
        return opens.model_copy(update={"max_pixels": most})
    return opens
