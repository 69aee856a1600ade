"""xGen-MM (BLIP-3): its checkpoints, its training data, and the faces that its users know; see README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omnimix.families.xgen_mm.face import (
        AutoImageProcessor,
        AutoModelForVision2Seq,
        AutoTokenizer,
        XGenWords,
        create_model_and_transforms,
        process_images,
    )

__all__ = [
    "AutoImageProcessor",
    "AutoModelForVision2Seq",
    "AutoTokenizer",
    "XGenWords",
    "create_model_and_transforms",
    "process_images",
]


def __getattr__(name: str) -> Any:
    """The faces, imported when they are asked for: readers and records need none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from omnimix.families.xgen_mm import face

    return getattr(face, name)
