"""One row: whether it opens, fits, teaches something, and points where it seems to point."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omnimix.compose.pointing import which
from omnimix.compose.processor import Processor
from omnimix.compose.rounds import weave_apart
from omnimix.compose.sequence import Sequence, cut_text
from omnimix.data.base import Source
from omnimix.errors import (
    ContextError,
    MediaError,
    OmnimixError,
    RegionError,
    reason,
)
from omnimix.types import Media, Sample

CODES = {
    MediaError: "item",
    RegionError: "region",
    ContextError: "too-long",
}
"""What a fault is called, by the error that says it; everything else is a fault of the `row`."""

_MARK = re.compile(r"<(image|video|audio)>")


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row, by a short name and in a sentence.

    Attributes:
        code: `row`, `text`, `empty-answer`, `item`, `region`, `too-long`, `nothing-learned` or `duplicate-id`.
    """

    code: str
    said: str


@dataclass(frozen=True)
class Checked:
    """What was found in a row.

    Attributes:
        notes: what is odd and may be meant.
        own_id: whether the row brings its id itself.
        tokens: of the whole sample with its items, before anything is cut; 0 where it could not be woven.
        items: how many of each modality.
        tiles: of all items.
        digest: of its content, equal for equal rows.
        far: largest coordinate of its regions and the longest side of its pictures, for guessing units.
    """

    index: int
    where: str
    id: str = ""
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    own_id: bool = False
    tokens: int = 0
    learned: int = 0
    items: dict[str, int] = field(default_factory=dict)
    tiles: int = 0
    digest: bytes = b""
    far: tuple[float, int] = (0.0, 0)


class Checker:
    """Checks the rows of one dataset for one model. Picklable.

    Args:
        source: the dataset.
        processor: of the model, with the style of the stage.
        max_length: most text tokens of a row, as the stage cuts it; None cuts nothing.
        apart: whether the questions of a row see one another.
    """

    def __init__(
        self,
        source: Source,
        processor: Processor,
        max_length: int | None = None,
        apart: bool = False,
    ) -> None:
        self.source = source
        self.processor = processor
        self.max_length = source.max_length if max_length is None else max_length
        self.apart = apart
        self.context = processor.weave.context
        # Its own length limit would end at the first; here the length is told, however long.
        self.weave = copy.copy(processor.weave)
        self.weave.context = None

    def __call__(self, index: int) -> Checked:
        """What is wrong with a row; nothing is raised, whatever it holds."""
        where = f"row {index + 1}"
        sample: Sample | None = None
        try:
            where = self.source.where(index)
            sample = self.source[index]
            found = list(text_faults(sample))
            sequence = self.woven(sample)
        except Exception as error:
            return self._failed(index, where, sample, error)
        found += region_faults(sample, sequence)
        found += self._lengths(sequence)
        return Checked(
            index,
            where,
            sample.id,
            tuple(found),
            tuple(notes(sample)),
            sample.id != where,
            len(sequence),
            sequence.targets,
            {name: len(items) for name, items in sequence.items.items()},
            sum(item.tiles for items in sequence.items.values() for item in items),
            digest(sample),
            far(sample, sequence),
        )

    def woven(self, sample: Sample) -> Sequence:
        """The whole sample as the model sees it, however long."""
        if self.apart:
            return weave_apart(self.weave, sample)
        return self.weave(sample, target=False)

    def _failed(self, index: int, where: str, sample: Sample | None, error: Exception) -> Checked:
        id = "" if sample is None else sample.id
        if isinstance(error, OmnimixError):
            code, said = CODES.get(type(error), "row"), error.sentence()
            if isinstance(error, RegionError) and sample is not None and "outside" in said:
                said += unit_guess([bounds(m) for m in sample.media("region")])
        else:
            code, said = "row", f"{where}: {reason(error)}"
        texts = () if sample is None else tuple(text_faults(sample))
        return Checked(index, where, id, (*texts, Fault(code, said)), own_id=id not in ("", where))

    def _lengths(self, sequence: Sequence) -> Iterator[Fault]:
        kept = sequence
        if self.max_length is not None and not self.apart and not self.source.cuts_items:
            try:
                kept = cut_text(sequence, self.max_length)
            except ContextError as error:
                yield Fault("too-long", error.sentence())
                return
        over = 0 if self.context is None else len(kept) - self.context
        if over > 0 and not (self.source.cuts_items and self.max_length is not None):
            items = ", ".join(
                f"{sum(item.tokens for item in several)} of {name}"
                for name, several in sequence.items.items()
            )
            yield Fault(
                "too-long",
                f"{len(kept)} tokens ({items or 'text only'}) are {over} more than the context of "
                f"{self.context}",
            )
        if sequence.targets == 0:
            yield Fault("nothing-learned", "there is no token to learn")
        elif kept.targets == 0:
            what = f"no learned token is left within max_length {self.max_length}"
            yield Fault("nothing-learned", what)


def text_faults(sample: Sample) -> Iterator[Fault]:
    """What is wrong with the texts of a sample."""
    for number, turn in enumerate(sample.turns, 1):
        text = turn.text()
        if "\0" in text:
            yield Fault("text", f"turn {number} holds a NUL byte")
        points = any(isinstance(part, Media) for part in turn.content)
        if turn.role == "assistant" and not text.strip() and not points:
            yield Fault("empty-answer", f"turn {number} is an empty answer")


def notes(sample: Sample) -> Iterator[str]:
    """What is odd about the texts of a sample, and may be meant."""
    for turn in sample.turns:
        text = turn.text()
        if "\ufffd" in text:
            yield "a text holds U+FFFD: something was decoded wrongly before"
        if mark := _MARK.search(text):
            yield f"{mark[0]} stands in the text as text"


def bounds(region: Media) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a region in pixels."""
    found: tuple[float, float, float, float] = region.data.bounds()
    return found


def _lying(sample: Sample, sequence: Sequence) -> Iterator[tuple[Media, tuple[int, int]]]:
    """Every region with the size of the picture it lies on."""
    pictures = 0
    for media in sample.media():
        if media.kind == "image":
            pictures += 1
        elif media.kind == "region" and sequence.pictures:
            yield media, sequence.pictures[which(media, pictures)].size


def region_faults(sample: Sample, sequence: Sequence) -> Iterator[Fault]:
    """Regions that reach out of their picture, or are smaller than a pixel."""
    for number, (media, (width, height)) in enumerate(_lying(sample, sequence), 1):
        box = x1, y1, x2, y2 = bounds(media)
        shown = ", ".join(f"{v:g}" for v in box)
        out = max(-x1, -y1, x2 - width, y2 - height)
        if out > 1:
            yield Fault(
                "region",
                f"region {number} ({shown}) reaches {out:g} pixels out of the picture of "
                f"{width} x {height}{unit_guess([box])}",
            )
        elif type(media.data).__name__ == "Box" and min(x2 - x1, y2 - y1) < 1:
            guess = unit_guess([box]) if max(box) <= 1 else ""
            yield Fault("region", f"region {number} ({shown}) is smaller than a pixel{guess}")


def unit_guess(boxes: list[tuple[float, float, float, float]]) -> str:
    """What unit numbers seem to be in that do not fit as pixels."""
    least, most = min(map(min, boxes), default=-1.0), max(map(max, boxes), default=0.0)
    if least < 0 or most > 1000:
        return ""
    if most <= 1:
        return " (they seem to be shares of the picture, 0 to 1)"
    return " (they may be thousandths of the picture, 0 to 1000)"


def far(sample: Sample, sequence: Sequence) -> tuple[float, int]:
    """Largest coordinate of regions, and the longest side of the pictures under them."""
    lying = list(_lying(sample, sequence))
    most = max((max(bounds(media)) for media, _ in lying), default=0.0)
    return most, max((max(size) for _, size in lying), default=0)


def digest(sample: Sample) -> bytes:
    """A short number of a sample's content, equal for equal ones."""
    seen = hashlib.blake2b(digest_size=8)
    for turn in sample.turns:
        seen.update(turn.role.encode())
        for part in turn.content:
            data: Any = part if isinstance(part, str) else part.data
            seen.update(data if isinstance(data, bytes) else repr(data).encode("utf-8", "replace"))
            seen.update(b"\0")
    return seen.digest()
