"""Where the golden fixtures lie: `OMNIMIX_SHARED`, or the folder `shared` beside the repository."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor


def shared(path: str) -> Path:
    """A file or folder of the shared material; the test is skipped where it is absent."""
    root = os.environ.get("OMNIMIX_SHARED")
    base = Path(root) if root else Path(__file__).resolve().parents[2] / "shared"
    found = base / path
    if not found.exists():
        pytest.skip(
            f"{found} is absent: set OMNIMIX_SHARED to the folder with fixtures/ and specs/"
        )
    return found


def golden(case: str) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
    """Folder, `case.json` and expected tensors of `fixtures/<case>`."""
    folder = shared(f"fixtures/{case}")
    facts = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    return folder, facts, load_file(folder / "expected.safetensors")
