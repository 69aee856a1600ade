"""While a model writes: options, where an answer ends, and which text is settled already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria

from omnimix.errors import OmnimixError
from omnimix.language.tokenizer import Tokenizer


@dataclass(frozen=True)
class Options:
    """How an answer is written.

    Attributes:
        max_new_tokens: the most tokens of an answer; they are kept free in the context.
        temperature: 0 takes the likeliest token every time.
        top_p: with a temperature, only the likeliest tokens that together reach this share.
        min_new_tokens: the fewest tokens of an answer; it does not end before.
        seed: of the sampling; the same seed and batch give the same answer.
        stop: strings that end the answer and are cut from it; None takes the template's.
        pointing: how drawn regions reach the model: `tokens` of their own, coordinates in `text`, `marks` on
            the picture; None takes what the recipe can do best.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    min_new_tokens: int = 0
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    pointing: str | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise OmnimixError(
                f"max_new_tokens is {self.max_new_tokens}", hint="an answer needs at least 1"
            )
        if self.temperature < 0:
            raise OmnimixError(
                f"the temperature is {self.temperature:g}", hint="give 0 (greedy) or more"
            )
        if not 0 < self.top_p <= 1:
            raise OmnimixError(f"top_p is {self.top_p:g}", hint="give a share above 0, at most 1")

    def config(self, ends: Sequence[int], pad: int) -> GenerationConfig:
        """The same in the words of transformers."""
        words: dict[str, Any] = {"do_sample": self.temperature > 0}
        if self.temperature > 0:
            words |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        if self.min_new_tokens:
            words["min_new_tokens"] = self.min_new_tokens
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            pad_token_id=pad,
            eos_token_id=list(ends) or None,
            **words,
        )


def endings(tokenizer: Tokenizer, stops: Sequence[str]) -> tuple[int, ...]:
    """Tokens that end an answer: the end token, and stop strings that are a single token."""
    ends = set() if tokenizer.eos is None else {tokenizer.eos}
    ends |= {i for i in tokenizer.specials if tokenizer.decode([i], specials=True) in stops}
    for stop in stops:
        ids, _ = tokenizer.encode(stop, follows=True)
        if len(ids) == 1 and tokenizer.decode(ids, specials=True) == stop:
            ends.add(ids[0])
    return tuple(sorted(ends))


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there was one."""
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


def settled(text: str, stops: Sequence[str]) -> str:
    """The part of a growing text that no later token can change.

    Held back are a character that is not complete yet, an ending that may grow into a stop string, and
    white space, which is no part of an answer unless something follows it.
    """
    text, stopped = cut(text, stops)
    if not stopped:
        text = text.rstrip("\ufffd")
        longest = max((len(stop) for stop in stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in stops):
                text = text[:-size]
                break
    return text.strip()


class Endings(StoppingCriteria):  # type: ignore[misc]
    """Ends each row of a batch by itself, and remembers where.

    Args:
        tokenizer: to see the text of the last tokens.
        stops: strings that end a row.
        ends: token ids that end a row.
        prompt: tokens in front of the answers.
        rows: size of the batch.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        ends: Sequence[int],
        prompt: int,
        rows: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.stops = tuple(stops)
        self.ends = frozenset(ends)
        self.prompt = prompt
        # A token is at least one byte of text unless it is special; a few more are looked at for those.
        self.tail = max((len(stop.encode()) for stop in stops), default=0) + 4
        self.lengths: list[int | None] = [None] * rows
        self.cancelled = False
        self.asked: Callable[[bool], bool] | None = None
        """Asks the other processes whether they were cancelled."""

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        count = input_ids.shape[1] - self.prompt
        tails = input_ids[:, max(self.prompt, input_ids.shape[1] - self.tail) :].tolist()
        for row, tail in enumerate(tails):
            if self.lengths[row] is None and self._ended(tail):
                self.lengths[row] = count
        cancelled = self.cancelled if self.asked is None else self.asked(self.cancelled)
        done = [cancelled or length is not None for length in self.lengths]
        return torch.tensor(done, device=input_ids.device)

    def _ended(self, tail: list[int]) -> bool:
        if tail[-1] in self.ends:
            return True
        return bool(self.stops) and cut(self.tokenizer.decode(tail), self.stops)[1]
