"""Hashes of the last few steps' batches, which a checkpoint keeps, so that a replay can be held to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omnimix.compose.batch import Batch
from omnimix.data.mixture import Batches
from omnimix.parallel.layout import ModelLayout

KEPT = 4
"""Steps whose hashes a checkpoint keeps."""


class Proof:
    """What this rank read in the last steps, and where the data stood before the oldest of them."""

    def __init__(self, batches: Batches, parts: int, first: int) -> None:
        self.batches = batches
        self.parts = parts
        self.first = first
        self.kept: list[tuple[int, dict[str, Any], list[int]]] = []

    def at(self, step: int) -> dict[str, Any]:
        """What stands before a step."""
        return self.batches.state((step - self.first) * self.parts)

    def take(self, step: int, before: dict[str, Any], batches: Sequence[Batch | None]) -> None:
        """Note what a step read; one that is read again replaces what was noted."""
        digests = [0 if batch is None else batch.digest for batch in batches]
        self.kept = [one for one in self.kept if one[0] != step][-KEPT + 1 :]
        self.kept.append((step, before, digests))

    def state(self, step: int, layout: ModelLayout) -> dict[str, Any]:
        """For a checkpoint behind `step` steps: where the data stands, and the hashes of all ranks together."""
        kept = [one for one in self.kept if one[0] < step]
        own = [digests for _, _, digests in kept] if layout.speaks else None
        said = [one for one in layout.process_group.gather("batches", own) if one is not None]
        sums = {
            str(number): combined([rank[i] for rank in said])
            for i, (number, _, _) in enumerate(kept)
        }
        first = {"step": kept[0][0], "state": kept[0][1]} if kept else None
        return {"state": self.at(step), "first": first, "sums": sums}


def combined(ranks: Sequence[Sequence[int]]) -> list[str]:
    """The hashes of a step's micro-batches, whatever the number of ranks that shared them."""
    return [f"{sum(column) % 2**128:032x}" for column in zip(*ranks, strict=True)]
