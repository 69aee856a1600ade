"""Datasets by name in a training file: what they are made of, and omnimix's own conversations a line."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from omnimix.data.base import Source, SourceSpec
from omnimix.data.containers import JsonRows
from omnimix.data.roots import Roots
from omnimix.data.rows import RowSource
from omnimix.data.talks import TurnsFormat

__all__ = ["JsonlSource", "Source", "SourceSpec"]


class JsonlSource(SourceSpec):
    """Conversations in omnimix's own form, one a line (see `TurnsFormat`).

    Each line is `{"id": "7", "turns": [{"role": "user", "content": [{"image": "a.png"}, "What is in ",
    {"box": [1, 2, 30, 40]}, "?"]}, {"role": "assistant", "content": ["A cup."]}]}`. Files of other kinds are
    `{"audio": path}`, `{"video": path}`, `{"document": path}`, and `{"item": {"signal": path}}` for a modality of
    that name.

    Attributes:
        path: the file.
        images: folder that paths are relative to; default the file's own. Paths that lead out of
            it are refused.
    """

    kind: Literal["jsonl"] = "jsonl"
    path: str
    images: str | None = None

    def open(self, folder: Path) -> Source:
        path = folder / self.path
        images = folder / self.images if self.images else path.parent
        return RowSource(JsonRows(path), TurnsFormat(), Roots(images))
