"""omnimix: multimodal language models as recipes over parts.

>>> import omnimix
>>> model = omnimix.load("nano")  # doctest: +SKIP
>>> model.answer("What is in the box?", image="scene.png", regions=[omnimix.Box(40, 60, 120, 150)])
... # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from omnimix import _registration, _torchvision
from omnimix.errors import OmnimixError
from omnimix.types import Box, Mask, Media, Point, Polygon, Sample, Stroke, Turn

_torchvision.install()
_registration.install()
# Said wherever bitsandbytes is imported, of a package that nothing here needs.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: "from kernels-community" not in str(record.msg)
)

__version__ = "0.1.0"

# Names that need torch and transformers (or a list that is read), imported when first asked for.
_LATER = {
    "Assistant": "omnimix.generate.assistant",
    "MultimodalLM": "omnimix.compose.model",
    "Processor": "omnimix.compose.processor",
    "Recipe": "omnimix.compose.recipe",
    "available": "omnimix.checkpoints.releases",
    "available_names": "omnimix.checkpoints.releases",
    "build": "omnimix.generate.building",
    "describe": "omnimix.checkpoints.releases",
    "draw": "omnimix.media.drawing",
    "load": "omnimix.generate.assistant",
    "load_segmenter": "omnimix.segment.base",
}

if TYPE_CHECKING:
    from omnimix.checkpoints.releases import available, available_names, describe
    from omnimix.compose.model import MultimodalLM
    from omnimix.compose.processor import Processor
    from omnimix.compose.recipe import Recipe
    from omnimix.generate.assistant import Assistant, load
    from omnimix.generate.building import build
    from omnimix.media.drawing import draw
    from omnimix.segment.base import load_segmenter

__all__ = [
    "Assistant",
    "Box",
    "Mask",
    "Media",
    "MultimodalLM",
    "OmnimixError",
    "Point",
    "Polygon",
    "Processor",
    "Recipe",
    "Sample",
    "Stroke",
    "Turn",
    "__version__",
    "available",
    "available_names",
    "build",
    "describe",
    "draw",
    "load",
    "load_segmenter",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'omnimix' has no attribute {name!r}")
