"""Where an answer ends: tokens and strings that end it, and which of a growing text is settled already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from omnimix.language.tokenizer import Tokenizer, end_tokens

__all__ = ["Endings", "cut", "end_tokens", "settled"]


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
