"""What comes back: an answer with what it points at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from omnimix.prompts.coordinates import Skipped
from omnimix.types import Box, Point, Region, Sample, Turn

Conversation: TypeAlias = Sample | Sequence[Turn]


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
