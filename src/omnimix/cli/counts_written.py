"""What was counted of the shipped recipes, so that listing and showing them need no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COUNTS = Path(__file__).parent.parent / "recipes" / "counts.json"
"""Parameters and tokens of the shipped recipes, and what `omnimix show` says of them. Counting anew takes many
seconds and needs torch, so they are written down; a test counts and compares."""


def written() -> dict[str, Any]:
    """What `COUNTS` holds, by the recipe's name."""
    found: dict[str, Any] = json.loads(COUNTS.read_text(encoding="utf-8"))
    return found
