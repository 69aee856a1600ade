"""Several finite datasets one after another, for the orders that read in rounds."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from omnimix.data.sources import Source
from omnimix.types import Sample


class JoinedSources(Source):
    """The records of several datasets, the first one's first; without an end where one has none."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = list(sources)
        lengths = [source.length for source in self.sources]
        self.ends = list(accumulate(length or 0 for length in lengths))
        self.length = None if None in lengths else self.ends[-1]

    def find(self, index: int) -> tuple[Source, int]:
        """The dataset that a record is of, and its place there."""
        which = bisect_right(self.ends, index)
        return self.sources[which], index - (self.ends[which - 1] if which else 0)

    def __getitem__(self, index: int) -> Sample:
        source, inside = self.find(index)
        return source[inside]

    def where(self, index: int) -> str:
        source, place = self.find(index)
        return source.where(place)

    def source(self, index: int) -> Source:
        return self.find(index)[0]

    def extent(self, index: int) -> tuple[bool, int]:
        source, inside = self.find(index)
        return source.extent(inside)

    def batch_kind(self, index: int) -> str:
        source, inside = self.find(index)
        return source.batch_kind(inside)
