"""How a model's weights are held once they are loaded: as they are, or with fewer bits a weight.

Over several processes is another way (`omnimix.parallel.tensor`).
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import torch
from torch import nn

from omnimix.compose.adapters import is_adapter
from omnimix.compose.model import MultimodalLM
from omnimix.compose.recipe import Recipe
from omnimix.errors import OmnimixError
from omnimix.registry import did_you_mean

HEAD = "language.lm_head"

SCHEMES = {"nf4": "4 bits", "int8": "8 bits"}
"""Words of `quantization` and what a weight then takes."""


class Holding:
    """A whole model on one device, in one floating type.

    Args:
        device: where it goes.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def words(self, recipe: Recipe) -> dict[str, Any]:
        """Further arguments of `from_pretrained`."""
        return {}

    def settle(self, model: MultimodalLM) -> MultimodalLM:
        """The loaded model where it belongs."""
        found: MultimodalLM = model.to(self.device)
        return found


class Quantized(Holding):
    """The language model's linear layers quantized, through transformers and bitsandbytes.

    Encoders and connectors stay as they are (SPHINX's block list, golden/specs/sphinx.md section 8), and so does
    a head that shares its table with the embeddings or gives the first of its rows alone.

    Raises:
        OmnimixError: an unknown scheme, a package that is missing, or a device it does not serve.
    """

    def __init__(self, scheme: str, device: torch.device | str, dtype: torch.dtype) -> None:
        super().__init__(device)
        self.scheme = scheme
        self.dtype = dtype
        if scheme not in SCHEMES:
            raise OmnimixError(
                f"unknown quantization {scheme!r}", hint=did_you_mean(scheme, SCHEMES)
            )
        for package in ("bitsandbytes", "accelerate"):
            if importlib.util.find_spec(package) is None:
                raise OmnimixError(
                    f"{scheme} needs the package {package}, which is not installed",
                    hint="install it with pip install 'omnimix[quantize]'",
                )
        served = _served()
        if self.device.type not in served:
            raise OmnimixError(
                f"the installed bitsandbytes does not serve {self.device.type} devices",
                hint=f"it serves {', '.join(sorted(served)) or 'none here'}; give one with --device",
            )

    def words(self, recipe: Recipe) -> dict[str, Any]:
        from transformers import BitsAndBytesConfig

        # Adapters learn, and what learns is held in floating numbers.
        adapters = [r".*\.lora_[AB]"] if recipe.adapters else []
        kept = sorted({*recipe.modalities, *([HEAD] if keeps_head(recipe) else []), *adapters})
        if self.scheme == "nf4":
            config = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_compute_dtype=self.dtype,
                llm_int8_skip_modules=kept,
            )
        else:
            config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
        return {"quantization_config": config, "device_map": {"": self.device}}

    def settle(self, model: MultimodalLM) -> MultimodalLM:
        # It says at every layer of every step that it works in float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return model


def _served() -> set[str]:
    import bitsandbytes

    return set(getattr(bitsandbytes, "supported_torch_devices", ()))


def keeps_head(recipe: Recipe) -> bool:
    """Whether the output head stays in full precision."""
    tied = getattr(recipe.language.hf_config(), "tie_word_embeddings", False)
    return bool(tied) or recipe.language.head is not None


def quantized(recipe: Recipe) -> list[str]:
    """Names of the linear layers that a quantized model holds quantized."""
    model = MultimodalLM.on_meta(recipe)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith("language.")
        and not (name == HEAD and keeps_head(recipe))
        and not is_adapter(name)
    ]
