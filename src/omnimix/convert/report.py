"""What a check found: the largest difference of every stage against its tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        stage: what is compared: `prompt`, `ids`, `logits` ...
        what: of which request, record or tensor.
        difference: the largest absolute one; for texts and ids the number of places that differ.
        tolerance: the largest that is allowed.
        note: what differs, in words.
        stopped: whether nothing could be compared; the note says why.
        values: how many numbers, ids or texts were held against each other.
    """

    stage: str
    what: str
    difference: float
    tolerance: float = 0.0
    note: str = ""
    stopped: bool = False
    values: int = 1

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance  # a difference that is no number fails


def stopped(stage: str, note: str, what: str = "all of it") -> Check:
    """A stage that came to no comparison, which counts as one that failed."""
    return Check(stage, what, math.inf, 0.0, note, stopped=True, values=0)


def close(stage: str, what: str, found: Tensor | None, expected: Tensor, tolerance: float) -> Check:
    """Compare numbers; another shape or a number that is none fails."""
    if found is None:
        return Check(stage, what, math.inf, tolerance, "there is no such number here")
    if found.shape != expected.shape:
        note = f"shape {list(found.shape)} instead of {list(expected.shape)}"
        return Check(stage, what, math.inf, tolerance, note)
    if not expected.numel():
        return Check(stage, what, 0.0, tolerance, values=0)
    apart = (found.detach().double().cpu() - expected.double()).abs()
    if not torch.isfinite(apart).all():
        return Check(stage, what, math.inf, tolerance, "some numbers are not finite")
    worst = float(apart.max())
    note = ""
    if worst > tolerance:
        place = [int(i) for i in torch.unravel_index(apart.argmax(), apart.shape)]
        note = f"{int((apart > tolerance).sum())} of {apart.numel()} numbers, the worst at {place}"
    return Check(stage, what, worst, tolerance, note, values=apart.numel())


def number(stage: str, what: str, found: float, expected: float, tolerance: float) -> Check:
    """Compare single numbers."""
    apart = abs(found - expected)
    apart = apart if math.isfinite(apart) else math.inf
    note = "" if apart <= tolerance else f"{found!r} instead of {expected!r}"
    return Check(stage, what, apart, tolerance, note)


def same(stage: str, what: str, found: Any, expected: Any) -> Check:
    """Compare texts, lists of ids or anything else for equality; counts the places that differ."""
    if isinstance(expected, Tensor):
        expected = expected.tolist()
    if isinstance(found, Tensor):
        found = found.tolist()
    values = _values(expected)
    if found == expected:
        return Check(stage, what, 0.0, values=values)
    places = 1
    if _is_row(found) and _is_row(expected):
        pairs = list(zip(found, expected, strict=False))
        places = sum(a != b for a, b in pairs) + abs(len(found) - len(expected))
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
        note = f"from place {first}: {_short(found[first:])} instead of {_short(expected[first:])}"
    else:
        note = f"{_short(found)} instead of {_short(expected)}"
    return Check(stage, what, float(places), 0.0, note, values=values)


def _values(expected: Any) -> int:
    """How many single values there are; a text is one."""
    inner = expected.values() if isinstance(expected, dict) else expected
    return sum(map(_values, inner)) if isinstance(expected, dict | list | tuple) else 1


def _is_row(value: Any) -> bool:
    return isinstance(value, str | list | tuple)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass
class Line:
    """A stage summed up."""

    stage: str
    compared: int
    worst: Check

    @property
    def passed(self) -> bool:
        return self.worst.passed


@dataclass
class Verdict:
    """All comparisons of one case.

    Attributes:
        name: of the case.
        checks: in the order they were made; they end with the first stage that differs.
        unread: golden tensors that no stage looked at, those that are left out on purpose among them.
        notes: sentences for the reader.
    """

    name: str
    checks: list[Check] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> Check | None:
        """The worst comparison of the first stage that differs."""
        return next((line.worst for line in self.lines() if not line.passed), None)

    @property
    def passed(self) -> bool:
        """Whether everything agrees; a case in which nothing could be compared does not pass."""
        return bool(self.checks) and self.failed is None

    def take(self, checks: Iterable[Check], stop: bool) -> None:
        """Make these comparisons.

        Args:
            stop: end behind the first stage that differs.
        """
        failed = self.failed.stage if self.failed else ""
        for check in checks:
            if stop and failed and check.stage != failed:
                return
            self.checks.append(check)
            failed = failed or ("" if check.passed else check.stage)

    def lines(self) -> list[Line]:
        """One line a stage, in order."""
        groups: dict[str, list[Check]] = {}
        for check in self.checks:
            groups.setdefault(check.stage, []).append(check)
        return [Line(stage, len(rows), _worst(rows)) for stage, rows in groups.items()]


def _worst(checks: Sequence[Check]) -> Check:
    return max(checks, key=lambda c: (not c.passed, c.difference / (c.tolerance or 1e-30)))
