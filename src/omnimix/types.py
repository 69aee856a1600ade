"""What everything else is made of: media, regions (see `omnimix.regions`), turns and samples.

Readers, benchmarks, the server and the chat produce `Sample`s and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from omnimix.errors import SampleError
from omnimix.regions import Box, Mask, Point, Polygon, Region, Stroke, check_given, check_region

__all__ = [
    "ROLES",
    "Box",
    "Mask",
    "Media",
    "Part",
    "Point",
    "Polygon",
    "Region",
    "Role",
    "Sample",
    "Stroke",
    "Turn",
    "check_given",
    "check_region",
    "text_of",
]

_SURROGATE = re.compile("[\ud800-\udfff]")

Role: TypeAlias = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = ("system", "user", "assistant")


@dataclass(frozen=True, eq=False)
class Media:
    """One raw thing and its kind. Two of them are never equal, so that each is a key by itself.

    Attributes:
        kind: the sense it belongs to: `image`, `audio`, `video`, `document` or `region`; or the name of a
            modality of the recipe, where several take the same sense.
        data: what the kind's opener takes (a path, bytes, a picture, a sound, a text, a `Region`).
        on: for a region, the index of the picture in the sample that it lies on (0 = first);
            None means the last picture before it in reading order.
        label: what it is called in messages, a file name for instance.
        draw: a number for what is left to chance while it is opened and prepared (which frames of a video, which
            parts of a sound); None always chooses alike. Training gives another one in every round.
    """

    kind: str
    data: Any
    on: int | None = None
    label: str = ""
    draw: int | None = None

    @classmethod
    def image(cls, data: Any, label: str = "") -> Media:
        return cls("image", data, label=label or (data if isinstance(data, str) else ""))

    @classmethod
    def audio(cls, data: Any, label: str = "") -> Media:
        """A path, bytes, `(samples, rate)` or `{"array": ..., "sampling_rate": ...}`."""
        return cls("audio", data, label=label or (data if isinstance(data, str) else ""))

    @classmethod
    def video(cls, data: Any, label: str = "") -> Media:
        """A path, bytes, a folder of pictures, or a list of pictures."""
        return cls("video", data, label=label or (data if isinstance(data, str) else ""))

    @classmethod
    def document(cls, data: Any, label: str = "") -> Media:
        """A text (`str`), or a file (`Path` or bytes): plain text, Markdown, HTML or PDF."""
        return cls("document", data, label=label)

    @classmethod
    def region(cls, region: Region, on: int | None = None) -> Media:
        return cls("region", region, on=on)


Part: TypeAlias = str | Media

_PLAIN = {type(None): "null", bool: "a truth value", int: "a number", float: "a number"}
_PLAIN |= {list: "a list", tuple: "a list", dict: "a table", bytes: "bytes"}


def text_of(value: Any, what: str = "a text", where: str | None = None) -> str:
    """The value where it is text; the one check at every door, so that nothing else becomes words.

    Args:
        what: what the text is, for the message.

    Raises:
        SampleError: another type, or half of a surrogate pair, which no encoding can write.
    """
    if not isinstance(value, str):
        found = _PLAIN.get(type(value), type(value).__name__)
        hint = "write it as text in quotes, or leave the record out"
        raise SampleError(f"{what} is {found}, not text", where=where, hint=hint)
    if not value.isascii() and (half := _SURROGATE.search(value)):
        raise SampleError(
            f"{what} holds half of a surrogate pair (U+{ord(half[0]):04X} at character "
            f"{half.start() + 1}), which is no text",
            where=where,
            hint="the text was cut inside a character, or decoded wrongly; write it again as UTF-8",
        )
    return value


@dataclass(frozen=True, eq=False)
class Turn:
    """Role and content: text and media in reading order.

    Regions in an assistant turn are *answers*: they are written as text in the recipe's coordinate
    style. Regions in a user turn are *prompts*: they become tokens where the recipe has a region
    modality, text otherwise.

    Attributes:
        loss_scale: what the learned tokens of an assistant turn count for in the loss; 0 learns none of them.
    """

    role: str
    content: tuple[Part, ...]
    loss_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise SampleError(
                f"unknown role {self.role!r}", hint=f"the roles are {', '.join(ROLES)}"
            )
        given: Any = self.content
        content = (given,) if isinstance(given, str) else tuple(given)
        for part in content:
            if not isinstance(part, Media):
                text_of(part, f"what the {self.role} says")
        object.__setattr__(self, "content", content)
        scale: Any = self.loss_scale
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale < 1e6:
            raise SampleError(
                f"a loss_scale of {scale!r}", hint="it is a number from 0 on; 1 changes nothing"
            )

    def text(self) -> str:
        """The text parts alone, joined."""
        return "".join(part for part in self.content if isinstance(part, str))


@dataclass(frozen=True, eq=False)
class Sample:
    """A conversation with an id (used in every message about it) and free notes.

    Attributes:
        rejected: the same conversation with an answer that is worse than this one's, where there is one.
        pair_scale: what both answers together count for in the loss of preferences.
    """

    turns: tuple[Turn, ...]
    id: str = "sample"
    meta: Mapping[str, Any] = field(default_factory=dict)
    rejected: tuple[Turn, ...] | None = None
    pair_scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "turns", tuple(self.turns))

    def scaled(self, scale: float) -> Sample:
        """The same, whose answers count for so many times as much in the loss; of preferences the pair does."""
        if scale == 1:
            return self
        if self.rejected is not None:
            return replace(self, pair_scale=self.pair_scale * scale)
        turns = tuple(replace(turn, loss_scale=turn.loss_scale * scale) for turn in self.turns)
        return replace(self, turns=turns)

    def media(self, kind: str | None = None) -> list[Media]:
        """All media in reading order, optionally of one kind."""
        return [
            part
            for turn in self.turns
            for part in turn.content
            if isinstance(part, Media) and (kind is None or part.kind == kind)
        ]
