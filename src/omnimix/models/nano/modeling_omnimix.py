"""Hands over to the package omnimix, which this model needs; nothing else is in this file."""

try:
    from omnimix.compose.model import MultimodalLM
    from omnimix.compose.model_config import OmnimixConfig
    from omnimix.compose.processor import Processor
except ImportError as error:
    raise ImportError(
        "this model needs the package omnimix: pip install omnimix, or pip install . in a clone of it"
    ) from error

__all__ = ["MultimodalLM", "OmnimixConfig", "Processor"]
