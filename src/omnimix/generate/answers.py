"""What comes back: an answer with what it points at, whole or while it is written."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from omnimix.prompts.coordinates import Skipped
from omnimix.types import Box, Point, Region


@dataclass(frozen=True)
class Answer:
    """What the model wrote.

    Attributes:
        text: without the stop string and outer white space.
        regions: what the text points at, in pixels of the conversation's last picture, in its order and
            with a `label` where the model's convention has one; regions of the question that the answer
            names are among them.
        tokens: how many tokens were written, the ending included.
        finished: whether the model came to an end by itself.
        ids: of the tokens.
        skipped: what looked like a region and is none, with the reason.
    """

    text: str
    regions: tuple[Region, ...]
    tokens: int
    finished: bool
    ids: tuple[int, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def boxes(self) -> tuple[Box | Point, ...]:
        """The boxes and points among the regions."""
        return tuple(region for region in self.regions if isinstance(region, Box | Point))


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
