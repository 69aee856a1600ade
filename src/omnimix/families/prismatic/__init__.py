"""Prismatic VLMs; `from omnimix.families.prismatic import load` takes the place of `from prismatic import load`."""

from __future__ import annotations

from typing import Any

__all__ = ["available_model_names", "available_models", "get_model_description", "load"]


def __getattr__(name: str) -> Any:
    # Late, so that the list of releases and the registry's rows are read without torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from omnimix.families.prismatic import face

    return getattr(face, name)
