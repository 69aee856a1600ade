"""The golden cases of the repository: `golden/cases`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1] / "golden" / "cases"


def case_path(path: str = "") -> Path:
    """A file or folder of the golden cases; one that is absent is a failure, never a skip."""
    found = ROOT / path
    assert found.exists(), f"{found} is absent: the checkout is not whole"
    return found


def golden(case: str) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
    """Folder, `case.json` and expected tensors of a case, `prismatic/preprocess` for instance."""
    folder = case_path(case)
    facts = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    return folder, facts, load_file(folder / "expected.safetensors")


def same_batches(one: Any, other: Any) -> None:
    """Two batches hold the same rows and the same items."""
    for word in ("input_ids", "attention_mask", "item_places"):
        assert one[word].tolist() == other[word].tolist(), word
    assert list(one["items"]) == list(other["items"])
    for name in one["items"]:
        ours, theirs = one["items"][name].tensors(), other["items"][name].tensors()
        assert len(ours) == len(theirs)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)), name
