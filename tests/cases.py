"""The golden cases of the repository: `golden/cases`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
