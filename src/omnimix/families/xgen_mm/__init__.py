"""xGen-MM (BLIP-3): its checkpoints, its training data, and the faces that its users know; see README.md."""

from __future__ import annotations

from typing import Any

__all__ = [
    "AutoImageProcessor",
    "AutoModelForVision2Seq",
    "AutoTokenizer",
    "create_model_and_transforms",
    "process_images",
]


def __getattr__(name: str) -> Any:
    # Late, since readers and records need none of the faces.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from omnimix.families.xgen_mm import face

    return getattr(face, name)
