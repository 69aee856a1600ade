"""Tensors under our own names, read when they are asked for: one at a time, and only the rows wanted.

Files stay mapped, so that a slice of a tensor that no rule changes reads the bytes of the slice alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from omnimix.checkpoints.tables import Move, Plan


class Later:
    """One tensor that a rule makes from stored ones.

    It has the face of a safetensors slice (`get_shape`, `[...]`), so that transformers loads from it and
    reads of a tensor-parallel weight only this rank's part.

    Attributes:
        sketch: on the meta device, for shape and dtype.
    """

    def __init__(
        self, move: Move, place: int, stored: Mapping[str, Tensor], sketch: Tensor
    ) -> None:
        self._move = move
        self._place = place
        self._stored = stored
        self.sketch = sketch

    def read(self) -> Tensor:
        """The tensor; a view of the mapped file where no rule changes it."""
        made = self._move.rule.read([self._stored[name] for name in self._move.foreign])
        return made[self._place]

    @property
    def shape(self) -> torch.Size:
        return self.sketch.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.sketch.dtype

    def get_shape(self) -> list[int]:
        return list(self.sketch.shape)

    def __getitem__(self, index: Any) -> Tensor:
        return self.read()[index]


def later(plan: Plan, stored: Mapping[str, Tensor]) -> dict[str, Later]:
    """Our tensors from foreign ones, none of them read yet."""
    found: dict[str, Later] = {}
    for move in plan.moves:
        sketches = move.rule.read([sketch_of(stored, name) for name in move.foreign])
        for place, (name, sketch) in enumerate(zip(move.native, sketches, strict=True)):
            found[name] = Later(move, place, stored, sketch.to("meta"))
    return found


def sketch_of(stored: Mapping[str, Tensor], name: str) -> Tensor:
    """Shape and dtype of a stored tensor; mappings that join shards say it without joining."""
    sketch = getattr(stored, "sketch", None)
    if sketch is not None:
        found: Tensor = sketch(name)
        return found
    return torch.empty_like(stored[name], device="meta")
