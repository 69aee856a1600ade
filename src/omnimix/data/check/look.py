"""The cheap part of the check, which training runs before its first step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omnimix.compose.processor import Processor
from omnimix.data.base import Source
from omnimix.data.check.rows import Checker, unlearned
from omnimix.data.mixture import MixturePart
from omnimix.errors import SampleError

LOOKED = 8
"""Rows of a dataset, spread over all of it."""


def look(
    parts: Sequence[MixturePart],
    folder: Path,
    processor: Processor,
    max_length: int | None = None,
    sources: Sequence[Source] | None = None,
) -> None:
    """Look at a few rows of every dataset of a stage.

    Args:
        parts: the datasets of the stage.
        folder: that their paths start from.
        processor: of the model, with the stage's style.
        max_length: of the stage.
        sources: the datasets, where they are open already.

    Raises:
        SampleError: a dataset in which no row that was looked at has a token to learn.
    """
    opened = sources or [part.data.open(folder) for part in parts]
    for number, (part, source) in enumerate(zip(parts, opened, strict=True), 1):
        count = LOOKED if source.length is None else source.length
        step = max(1, count // LOOKED)
        check = Checker(source, processor, max_length, part.apart)
        rows = []
        for index in range(0, count, step)[:LOOKED]:
            rows.append(check(index))
            if unlearned(rows) is None:  # one row that teaches something is enough
                break
        if (error := unlearned(rows)) is not None:
            name = getattr(part.data, "path", part.data.kind)
            raise SampleError(error.what, where=f"dataset {number} ({name})", hint=error.hint)
