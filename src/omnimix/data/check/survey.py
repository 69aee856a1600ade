"""All rows of a dataset: in parallel, streaming, with what the report says about them."""

from __future__ import annotations

import array
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from omnimix.data.check.rows import Checked, Checker, Fault
from omnimix.data.mixture import _begin, same

CHUNK = 32
"""Rows that a worker checks at a time."""

ENDLESS = 256
"""Rows that are looked at of a dataset without an end."""


class _Chunks(Dataset[list[Checked]]):
    def __init__(self, check: Checker, count: int) -> None:
        self.check = check
        self.count = count

    def __len__(self) -> int:
        return -(-self.count // CHUNK)

    def __getitem__(self, n: int) -> list[Checked]:
        last = min(self.count, (n + 1) * CHUNK)
        return [self.check(index) for index in range(n * CHUNK, last)]


@dataclass
class Survey:
    """What was found in a dataset.

    Attributes:
        name: of the dataset in the report.
        failed: the rows with a fault.
        codes: rows by the fault.
        notes: what is odd and may be meant, and in how many rows.
        tokens: of every row that could be woven, items included; `learned` of the same.
        context: most tokens of a row.
        style: faults of the prompt style, which concern every row.
    """

    name: str
    rows: int = 0
    failed: list[Checked] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    items: Counter[str] = field(default_factory=Counter)
    tokens: array.array[int] = field(default_factory=lambda: array.array("l"))
    learned: array.array[int] = field(default_factory=lambda: array.array("l"))
    places: array.array[int] = field(default_factory=lambda: array.array("l"))
    tiles: int = 0
    context: int | None = None
    style: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def fine(self) -> bool:
        """Whether nothing fails."""
        return not self.failed and not self.style

    def data(self) -> dict[str, Any]:
        """Plain data for `report.json`."""
        return {
            "dataset": self.name,
            "rows": self.rows,
            "failed": len(self.failed),
            "faults_by_code": dict(self.codes),
            "style": self.style,
            "notes": dict(self.notes),
            "items": dict(self.items),
            "tiles": self.tiles,
            "context": self.context,
            "tokens": _shape(self.tokens),
            "learned": _shape(self.learned),
            "seconds": round(self.seconds, 2),
            "rows_per_second": round(self.rows / max(self.seconds, 1e-9), 1),
            "faults": [
                {
                    "row": row.index + 1,
                    "where": row.where,
                    "id": row.id,
                    "code": f.code,
                    "said": f.said,
                }
                for row in self.failed
                for f in row.faults
            ],
        }


def _shape(numbers: array.array[int]) -> dict[str, float]:
    if not numbers:
        return {}
    found = np.asarray(numbers)
    middle, high = np.percentile(found, [50, 95])
    return {
        "least": int(found.min()),
        "median": float(middle),
        "95%": float(high),
        "most": int(found.max()),
        "sum": int(found.sum()),
    }


def survey(
    check: Checker,
    name: str,
    count: int | None = None,
    workers: int = 0,
    allowed: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """Check the rows of a dataset.

    Args:
        count: the first so many; default all, of an endless dataset `ENDLESS`.
        workers: processes beside this one.
        allowed: codes of faults that are counted and fail nothing.
        progress: called with how many rows are done, and of how many.
    """
    length = check.source.length
    total = min(count or length or ENDLESS, length or count or ENDLESS)
    found = Survey(name, context=check.context)
    begin = time.monotonic()
    seen = _Seen()
    for rows in _chunks(check, total, workers):
        for row in rows:
            _add(found, seen.with_duplicates(row), allowed)
        found.seconds = time.monotonic() - begin
        if progress is not None:
            progress(found.rows, total)
    seen.note_units(found)
    return found


def _chunks(check: Checker, total: int, workers: int) -> Iterator[list[Checked]]:
    return iter(
        DataLoader(
            _Chunks(check, total),
            batch_size=None,
            num_workers=workers,
            collate_fn=same,
            worker_init_fn=_begin if workers else None,
        )
    )


def _add(found: Survey, row: Checked, allowed: Collection[str]) -> None:
    found.rows += 1
    found.notes.update(set(row.notes))
    found.notes.update({f"allowed: {f.code}" for f in row.faults if f.code in allowed})
    found.items.update(row.items)
    found.tiles += row.tiles
    if row.tokens:
        found.places.append(row.index)
        found.tokens.append(row.tokens)
        found.learned.append(row.learned)
    faults = tuple(f for f in row.faults if f.code not in allowed)
    if faults:
        found.failed.append(replace(row, faults=faults))
        found.codes.update({f.code for f in faults})


class _Seen:
    """What came before: ids and contents by short numbers, so that a large dataset fits."""

    def __init__(self) -> None:
        self.ids: dict[int, int] = {}
        self.contents: set[bytes] = set()
        self.boxed = self.beyond = 0
        self.most = 0.0

    def with_duplicates(self, row: Checked) -> Checked:
        faults, notes = list(row.faults), list(row.notes)
        if row.own_id:
            first = self.ids.setdefault(hash(row.id), row.index)
            if first != row.index:
                said = f"the id {row.id!r} is that of row {first + 1} already"
                faults.append(Fault("duplicate-id", said))
        if row.digest:
            if row.digest in self.contents:
                notes.append("the same content stands in an earlier row")
            self.contents.add(row.digest)
        if row.far[1]:
            self.boxed += 1
            self.beyond += row.far[1] > 1200
            self.most = max(self.most, row.far[0])
        return replace(row, faults=tuple(faults), notes=tuple(notes))

    def note_units(self, found: Survey) -> None:
        """Coordinates that never pass 1000 on pictures that do."""
        if self.beyond >= 20 and self.beyond * 2 > self.boxed and 900 < self.most <= 1000:
            what = "no coordinate passes 1000 on pictures that are larger: are they thousandths?"
            found.notes[what] += self.boxed
