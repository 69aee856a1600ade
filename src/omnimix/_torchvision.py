"""A cure for a CUDA build of torchvision beside a CPU build of torch.

The package index serves torchvision as a CUDA build. Beside a CPU torch its compiled library cannot be
loaded, so its operators are never declared, and importing it fails with "operator torchvision::nms does
not exist"; timm and most of transformers fall with it. Nothing here calls these operators, so declaring
their schemas is enough. Compiled operators and `torchvision.io` stay unusable.

`install` imports nothing heavy: the schemas are declared right before torchvision is first imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = ("nms", "qnms")

_fragments: list[Any] = []  # a library's declarations live as long as the object


class _Finder(MetaPathFinder):
    """Finds nothing; sees the first import of torchvision coming and declares the schemas."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            _uninstall()
            if _is_needed():
                _declare()
        return None


def install() -> None:
    """Watch for the first import of torchvision; calling it again changes nothing."""
    if "torchvision" in sys.modules or any(isinstance(f, _Finder) for f in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())


def _uninstall() -> None:
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]


def _is_needed() -> bool:
    """Whether torch has no accelerator library and torchvision's own library cannot be loaded."""
    if sys.platform != "linux":  # only there the index serves CUDA builds
        return False
    try:
        import torch
    except ImportError:
        return False
    if torch.version.cuda or torch.version.hip:
        return False
    return not _loads()


def _loads() -> bool:
    """Whether the compiled library loads, and so declares the operators itself.

    Declaring them a second time would end the process, so the library is asked first; torchvision
    loads the same file again, which changes nothing.
    """
    import torch

    package = PathFinder.find_spec("torchvision")
    if package is None or package.submodule_search_locations is None:
        return False
    library = PathFinder.find_spec("_C", list(package.submodule_search_locations))
    if library is None or library.origin is None:
        return False
    try:
        torch.ops.load_library(library.origin)
    except OSError:
        return False
    return True


def _declare() -> None:
    import torch

    fragment = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            fragment.define(f"{name}{_SCHEMA}")
    _fragments.append(fragment)
