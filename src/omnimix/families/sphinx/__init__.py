"""SPHINX and SPHINX-V. The names that their users import; nothing is loaded before one is asked for."""

from __future__ import annotations

import importlib
from typing import Any

_FACES = {
    "SPHINXModel": "omnimix.families.sphinx.face",
    "SPHINX_V_Model": "omnimix.families.sphinx.marked_face",
}

__all__ = ["SPHINXModel", "SPHINX_V_Model"]


def __getattr__(name: str) -> Any:
    if name not in _FACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_FACES[name]), name)
