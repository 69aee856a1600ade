"""An answer that is asked for, and what has been written of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from omnimix.generate.engine.prompts import NamedPrompt
from omnimix.generate.engine.sampling import Likely, Sampler

Reason = Literal["stop", "length", "cancelled"]
Chosen = tuple[int, Likely | None, Reason | None]
"""A token, how likely it was where that was asked for, and why the answer is over with it."""


@dataclass(eq=False)
class Generation:
    """An answer that is asked for, and what has been written of it.

    Attributes:
        prompt: what it begins with: woven, or embeddings `[n, width]`.
        sampler: chooses its tokens.
        most: tokens that it may come to.
        ended: whether its ids so far are a whole answer.
        listen: called in the engine's thread after every token, and once it is over.
        deadline: when it has to be over, by `time.monotonic`.
        ids: written so far.
        likely: of each, where that was asked for.
        reason: why it is over; None while it is not, and where it failed.
        error: what made it fail.
        began: when its first token was there, by `time.monotonic`.
    """

    prompt: NamedPrompt | Tensor
    sampler: Sampler
    most: int
    ended: Callable[[list[int]], bool]
    listen: Callable[[Generation], None] = lambda _: None
    deadline: float | None = None
    ids: list[int] = field(default_factory=list)
    likely: list[Likely] = field(default_factory=list)
    reason: Reason | None = None
    error: BaseException | None = None
    began: float | None = None
    _left: bool = False

    def cancel(self) -> None:
        """Nobody waits for it any more; the next step gives back what it holds."""
        self._left = True

    @property
    def over(self) -> bool:
        """Whether nothing more will be written."""
        return self.reason is not None or self.error is not None

    @property
    def room(self) -> int:
        """Tokens that it may come to, its prompt included; the last is written and not read."""
        return len(self.prompt) + self.most - 1

    def choice(self, row: Float[Tensor, "v"], token: int) -> Chosen:
        """What it goes on with.

        Args:
            row: logits of its next token.
            token: the likeliest.
        """
        likely: Likely | None = None
        if not self.sampler.plain:
            token, likely = self.sampler.choose(row)
        return token, likely, self.end(token)

    def end(self, token: int) -> Reason | None:
        """Why it is over with its next token; None where it is not."""
        ids = [*self.ids, token]
        if self.ended(ids):
            return "stop"
        return "length" if len(ids) >= self.most else None
