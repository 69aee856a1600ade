"""Datasets: anything indexable that gives samples."""

from __future__ import annotations

import abc
from pathlib import Path

from omnimix.config import Spec
from omnimix.types import Sample


class Source(abc.ABC):
    """Samples by index; endless ones have no length.

    Attributes:
        max_length: most tokens of a record where the stage names no limit; None cuts nothing.
        loss_scale: what every record of it counts for in the loss.
        cuts_items: where a record is cut, whether each item counts as one token and goes with the text
            behind the limit; else items do not count, and a record that would lose one is left out.
    """

    length: int | None = None
    max_length: int | None = None
    cuts_items: bool = False
    loss_scale: float = 1.0

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    def where(self, index: int) -> str:
        """Where a record stands, for messages."""
        return f"record {index + 1}"

    def placed(self, index: int, said: str) -> str:
        """What is wrong with a record, with its place in the file where the sentence does not name it."""
        where = self.where(index)
        return said if said.startswith(where) else f"{where}: {said}"

    def source(self, index: int) -> Source:
        """The dataset that a record is of: this one, unless it joins several."""
        return self

    def extent(self, index: int) -> tuple[bool, int]:
        """Whether a record has media, and how many words; what orders by length go by."""
        sample = self[index]
        return bool(sample.media()), sum(len(turn.text().split()) for turn in sample.turns)

    def files(self) -> list[Path] | None:
        """The files that its records are read from; None where they are not known."""
        return None

    def batch_kind(self, index: int) -> str:
        """Records of a batch are of one kind where the order is `by_kind`; here all are of one."""
        return ""


class SourceSpec(Spec):
    """Words of a dataset in a training file."""

    kind: str

    @abc.abstractmethod
    def open(self, folder: Path) -> Source:
        """The dataset; relative paths are looked up in `folder`."""
