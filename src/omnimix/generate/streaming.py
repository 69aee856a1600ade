"""An answer while it is written: tokens come from a thread of their own, and the caller may stop it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TypeAlias

import torch

from omnimix.generate.answer import Answer
from omnimix.generate.writing import Endings

Tokens: TypeAlias = "queue.SimpleQueue[int | BaseException | None]"


class Stream(Iterator[str]):
    """An answer while it is written: its pieces of text, and at any time what there is of it.

    Args:
        pieces: the text, piece by piece.
        answer: makes the answer of what has been written; told whether the writing is over.
    """

    def __init__(
        self, pieces: Generator[str, None, None], answer: Callable[[bool], Answer]
    ) -> None:
        self._pieces = pieces
        self._answer = answer
        self._done = False

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration:
            self._done = True
            raise

    def close(self) -> None:
        """End the writing."""
        self._pieces.close()

    @property
    def answer(self) -> Answer:
        """What has been written so far."""
        return self._answer(self._done)


def tokens(write: Callable[[Put], object], ended: Endings) -> Iterator[int]:
    """Token after token of a batch of one, written in a thread; closing the iterator ends it.

    Args:
        write: writes into the streamer that it is given.
        ended: told when nobody listens any more.
    """
    written: Tokens = queue.SimpleQueue()

    def run() -> None:
        try:
            write(Put(written))
            written.put(None)
        except BaseException as error:  # handed to the caller's thread
            written.put(error)

    writer = threading.Thread(target=run, daemon=True)
    writer.start()
    try:
        while (token := written.get()) is not None:
            if isinstance(token, BaseException):
                raise token
            yield token
    finally:
        ended.cancelled = True
        writer.join()


class Put:
    """A streamer of transformers: the prompt comes first, then token after token."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self.prompt_seen:
            for token in value.flatten().tolist():
                self.tokens.put(int(token))
        self.prompt_seen = True

    def end(self) -> None:
        """Nothing is left to do; the writer's thread says when it is through."""
