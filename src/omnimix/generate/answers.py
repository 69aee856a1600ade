"""What comes back: an answer with what it points at, whole or while it is written."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from omnimix.prompts.coordinates import Skipped
from omnimix.types import Box, Point, Region


@dataclass(frozen=True)
class Placed:
    """A region of an answer, and where it stands there.

    Attributes:
        index: which of the answer's regions it is, counted from 0.
        region: in pixels of its picture.
        start, end: its first character in the answer's text, and the one behind its last; equal where the
            convention writes regions in special tokens, which a text does not show.
        picture: which picture of the conversation it lies on, counted from 0.
        joined: of a body's key point: those before it that a line joins it to, by their `index`.
    """

    index: int
    region: Region
    start: int
    end: int
    picture: int
    joined: tuple[int, ...] = ()


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token was.

    Attributes:
        token: its text.
        logprob: natural logarithm of its share.
        top: the likeliest tokens at its place with theirs, the likeliest first.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


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
        placed: the regions once more, with where they stand.
        prompt_tokens: of the conversation, items included.
        finish_reason: `stop` where the model came to an end by itself, `length` where the answer was full,
            `cancelled` where nobody listened any more.
        logprobs: how likely the tokens were, where that was asked for.
    """

    text: str
    regions: tuple[Region, ...]
    tokens: int
    finished: bool
    ids: tuple[int, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    placed: tuple[Placed, ...] = ()
    prompt_tokens: int = 0
    finish_reason: Literal["stop", "length", "cancelled"] = "stop"
    logprobs: tuple[TokenLogprob, ...] = ()

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


class Closing:
    """The regions of a growing answer, each handed out once: when text that cannot be part of it stands behind it.

    One that later text changes after all (a name that follows its first mention) is handed out again under
    its index.
    """

    def __init__(self) -> None:
        self._given: dict[int, tuple[int, int, str]] = {}

    def of(self, answer: Answer, done: bool = False) -> tuple[Placed, ...]:
        """Those that closed since the last call.

        Args:
            answer: as far as it is written.
            done: nothing will follow, so that all are closed.
        """
        return tuple(self._new(answer.placed, len(answer.text), done))

    def _new(self, placed: Sequence[Placed], length: int, done: bool) -> Iterator[Placed]:
        for one in placed:
            known = (one.start, one.end, one.region.label)
            if (done or one.end < length) and self._given.get(one.index) != known:
                self._given[one.index] = known
                yield one
