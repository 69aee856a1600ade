"""Parts whose frozen weights a run holds in another type (`dtype: bfloat16`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from omnimix.checkpoints import pretrained
from omnimix.compose.adapters import is_adapter
from omnimix.compose.model import MultimodalLM
from omnimix.errors import TrainError
from omnimix.generate import devices


def _said(model: MultimodalLM) -> Iterator[tuple[str, Any, torch.dtype]]:
    """The parts that say a type: name in the tree, module, type."""
    for name, spec, module in pretrained.parts(model):
        if spec.dtype not in (None, "float32"):
            yield name, module, getattr(torch, spec.dtype)


def hold(model: MultimodalLM, learned: Collection[str], quantization: str | None) -> list[str]:
    """Hold each part in the type that the recipe says; adapters beside its weights stay in float32.

    Args:
        learned: names of all parameters that learn in any stage.

    Returns:
        A sentence for each part.

    Raises:
        TrainError: a part that learns, whose small steps the type would round away; one that is quantized.
    """
    told = []
    for name, module, dtype in _said(model):
        own = [n for n, _ in module.named_parameters() if f"{name}.{n}" in learned]
        learns = next((n for n in own if not is_adapter(f"{name}.{n}")), None)
        if learns is not None or (quantization and name == "language"):
            what = f"{name}.{learns} learns" if learns else f"the part is held as {quantization}"
            raise TrainError(
                f"dtype {str(dtype).removeprefix('torch.')} is for weights that are frozen, and {what}",
                where=f"{name}: dtype",
                hint="take dtype out; `bf16: true` of a stage computes in bfloat16 over float32 weights",
            )
        _move(module, dtype)
        told.append(f"held in {str(dtype).removeprefix('torch.')}: {name}; saved in float32")
    return told


def _move(module: nn.Module, dtype: torch.dtype) -> None:
    kept = [(p, p.data) for name, p in module.named_parameters() if is_adapter(f".{name}")]
    devices.move(module, dtype=dtype)
    for parameter, exact in kept:
        parameter.data = exact


def dtypes(model: MultimodalLM) -> dict[str, torch.dtype]:
    """Types of the weights that a run holds in another than float32, by name."""
    return {
        f"{name}.{own}": dtype
        for name, module, dtype in _said(model)
        for own, _ in module.named_parameters()
        if not is_adapter(f"{name}.{own}")
    }


def release(model: MultimodalLM) -> None:
    """All in float32 again, which changes no value, so that every door opens what is saved alike."""
    for _, module, _ in _said(model):
        _move(module, torch.float32)
