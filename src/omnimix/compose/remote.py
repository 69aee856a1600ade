"""The small file beside saved weights by which transformers finds the classes of the installed package."""

from __future__ import annotations

from pathlib import Path

FILE = "modeling_omnimix.py"

TEXT = '''"""Hands over to the package omnimix, which this model needs; nothing else is in this file."""

try:
    from omnimix.compose.model import MultimodalLM
    from omnimix.compose.model_config import OmnimixConfig
    from omnimix.compose.processor import Processor
except ImportError as error:
    raise ImportError(
        "this model needs the package omnimix: pip install omnimix, or pip install . in a clone of it"
    ) from error

__all__ = ["MultimodalLM", "OmnimixConfig", "Processor"]
'''

_MODELS = (
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForImageTextToText",
    "AutoModelForMultimodalLM",
)


def auto_map() -> dict[str, str]:
    """What transformers' auto classes find in the file."""
    module = Path(FILE).stem
    models = {name: f"{module}.MultimodalLM" for name in _MODELS}
    return {
        "AutoConfig": f"{module}.OmnimixConfig",
        **models,
        "AutoProcessor": f"{module}.Processor",
    }


def write(folder: Path) -> None:
    """Put the file into a folder."""
    (folder / FILE).write_text(TEXT, encoding="utf-8")
