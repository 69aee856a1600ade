"""A woven sample in words: stretches of text, of learned text, and the holes of its items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, TypeAlias

from omnimix.compose.processor import Processor
from omnimix.compose.sequence import IGNORE, Sequence

Kind: TypeAlias = Literal["text", "learned", "item"]


@dataclass(frozen=True)
class Span:
    """A stretch of a woven sample.

    Attributes:
        kind: text, text that is learned, or the hole of an item.
        text: what stands there; an item is written as `\u2039image: 64\u203a`, its modality and its tokens.
        tokens: how many places it takes.
        modality: of an item.
    """

    kind: Kind
    text: str
    tokens: int
    modality: str | None = None


def spans(processor: Processor, sequence: Sequence) -> Iterator[Span]:
    """Every stretch of a sample, in its order."""
    names = list(processor.recipe.modalities)
    holes = {name: [item.tokens for item in items] for name, items in sequence.items.items()}
    learned = sequence.labels != IGNORE
    keys = [(int(owner), bool(mark)) for owner, mark in zip(sequence.owner, learned, strict=True)]
    at = 0
    for (owner, mark), group in groupby(keys):
        count = len(list(group))
        if owner == 0:
            ids = sequence.ids[at : at + count].tolist()
            text = processor.weave.tokenizer.decode(ids, specials=True)
            yield Span("learned" if mark else "text", text, count)
        else:
            name = names[owner - 1]
            left = count
            while left > 0:  # items of one modality may stand side by side
                size = holes[name].pop(0)
                yield Span("item", f"\u2039{name}: {size}\u203a", size, name)
                left -= size
        at += count
