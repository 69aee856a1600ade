"""Where an answer ends: tokens and strings that end it, and which of a growing text is settled already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omnimix.language.tokenizer import Tokenizer, end_tokens

__all__ = ["Endings", "Stops", "cut", "end_tokens", "free", "settled"]


@dataclass(frozen=True)
class Stops:
    """Strings that end an answer.

    Attributes:
        least: how many tokens an answer has before they are looked for.
    """

    strings: tuple[str, ...] = ()
    least: int = 0


def free(tokenizer: Tokenizer, ids: Sequence[int], stops: Stops, specials: bool = False) -> int:
    """At which character of an answer stop strings begin to be looked for: behind its least length."""
    if not stops.least:
        return 0
    return len(tokenizer.decode(ids[: stops.least], specials=specials).rstrip("\ufffd"))


def cut(text: str, stops: Sequence[str], start: int = 0) -> tuple[str, bool]:
    """The text before the first stop string from some character on, and whether there was one."""
    found = [place for stop in stops if (place := text.find(stop, start)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


def settled(text: str, stops: Sequence[str], start: int = 0) -> str:
    """The part of a growing text that no later token can change.

    Held back are a character that is not complete yet, an ending that may grow into a stop string, and
    white space, which is no part of an answer unless something follows it.
    """
    text, stopped = cut(text, stops, start)
    if not stopped:
        text = text.rstrip("\ufffd")
        longest = max((len(stop) for stop in stops), default=1) - 1
        for size in range(min(longest, len(text) - start), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in stops):
                text = text[:-size]
                break
    return text.strip()


class Endings:
    """Tells whether an answer's ids have come to its end.

    Args:
        tokenizer: to see the text of the last tokens.
        stops: what strings end it.
        ends: token ids that end it.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Stops, ends: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.stops = stops
        self.ends = frozenset(ends)
        # A token is at least one byte of text unless it is special; a few more are looked at for those.
        self.tail = max((len(stop.encode()) for stop in stops.strings), default=0) + 4

    def __call__(self, ids: Sequence[int]) -> bool:
        """Whether the last of the ids ends them; of earlier ones that is known."""
        if ids[-1] in self.ends:
            return True
        strings = self.stops.strings
        tail = ids[max(len(ids) - self.tail, self.stops.least) :]
        return bool(strings) and cut(self.tokenizer.decode(tail), strings)[1]
