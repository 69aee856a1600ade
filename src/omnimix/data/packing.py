"""Best-fit packing: records into rows of a token budget, and records of like length into batches.

Both arrange the records of one window of the stream, as pure functions of their sizes and a seed, so that a run is
repeated and resumed by the number of the window and the place in it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field

from omnimix.config import Spec

WINDOW = 1024
"""Records among which those are looked for that fill a row together: at most a row in it stays half empty."""


class PackingSpec(Spec):
    """Rows of a token budget.

    Attributes:
        tokens: most tokens of a row; a record that is longer by itself is left out and counted.
        items: most items (pictures, sounds, ...) of a row, which bounds what its encoders hold; None for any number.
    """

    tokens: int = Field(ge=1)
    items: int | None = Field(default=None, ge=1)


class Size(NamedTuple):
    """What a record takes: places of tokens, those of its items among them, and items."""

    tokens: int
    items: int


def best_fit(sizes: Sequence[Size], tokens: int, items: int | None = None) -> list[list[int]]:
    """Best fit decreasing: the longest record first, each into the fullest row that takes it.

    Args:
        sizes: of the records, each of which fits into an empty row.

    Returns:
        Rows of places in `sizes`, every place once.
    """
    rows: list[list[int]] = []
    carried: list[int] = []  # items of each row
    room: list[tuple[int, int]] = []  # tokens left and number of every row, the fullest first
    for place in sorted(range(len(sizes)), key=lambda i: (-sizes[i].tokens, i)):
        need, own = sizes[place]
        assert need <= tokens and (items is None or own <= items)
        at = bisect_left(room, (need, -1))
        while at < len(room) and items is not None and carried[room[at][1]] + own > items:
            at += 1
        left, row = room.pop(at) if at < len(room) else (tokens, len(rows))
        if row == len(rows):
            rows.append([])
            carried.append(0)
        rows[row].append(place)
        carried[row] += own
        if left > need:
            insort(room, (left - need, row))
    return rows


def packed(
    sizes: Sequence[Size], tokens: int, items: int | None, seed: int, window: int
) -> list[list[int]]:
    """The rows of a window in random order; records stand in a row as they came."""
    rows = [sorted(row) for row in best_fit(sizes, tokens, items)]
    return [rows[i] for i in _mixed(len(rows), seed, window)]


def alike(sizes: Sequence[Size], batch: int, seed: int, window: int) -> list[list[int]]:
    """The records of a window one a row, in batches of like length, which stand in random order.

    A batch that is not full stays last, so that the others keep their borders.
    """
    near = sorted(range(len(sizes)), key=lambda i: (-sizes[i].tokens, i))
    parts = [near[start : start + batch] for start in range(0, len(near), batch)]
    last = [parts.pop()] if len(near) % batch else []
    mixed = [*(parts[i] for i in _mixed(len(parts), seed, window)), *last]
    return [[place] for part in mixed for place in part]


def _mixed(count: int, seed: int, window: int) -> list[int]:
    chance = torch.Generator().manual_seed((seed * 1_000_003 + window) % 2**63)
    return torch.randperm(count, generator=chance).tolist()
