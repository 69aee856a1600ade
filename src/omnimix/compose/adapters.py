"""Adapters: a few learned numbers beside weights that stay as they are (LoRA, DoRA), through peft.

They are words of a recipe and parameters on the one tree of names, so that everything that is done with a
model (saving, resuming, freezing by name, packing, generation) is done with its adapters without further
code. The names are peft's: `...q_proj.base_layer.weight`, `...q_proj.lora_A.default.weight`.

LoRA: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models". DoRA: Liu et al. 2024, "DoRA:
Weight-Decomposed Low-Rank Adaptation".
"""

from __future__ import annotations

import fnmatch
import functools
import importlib.util
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from omnimix.config import Spec
from omnimix.errors import OmnimixError, RecipeError

NAME = "default"
"""Under which peft keeps our adapters; a part of the names of their parameters."""


class Adapter(Spec):
    """Words of an adapter in a recipe.

    Attributes:
        kind: `lora` adds a product of two thin matrices to a weight; `dora` learns the length of each of
            the weight's rows besides.
        part: what is adapted, a pattern on names of the tree: `language`,
            `image.branches.0.encoders.0`, `*.encoders.*`.
        r: width of the thin matrices.
        lora_alpha: the product is multiplied by lora_alpha / r.
        lora_dropout: share of an adapter's inputs that is dropped in training.
        target_modules: which of the part's linear layers, by the ends of their names (`q_proj`); None
            takes all but the output head.
    """

    kind: Literal["lora", "dora"] = "lora"
    part: str = "language"
    r: int = Field(default=16, gt=0)
    lora_alpha: float = Field(default=16, gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] | None = Field(default=None, min_length=1)


def inject(model: nn.Module, adapters: Sequence[Adapter], head: nn.Module | None = None) -> None:
    """Put adapters into a model; they change nothing before they have learned (B = 0).

    What learned before still learns: freezing is a stage's affair.

    Args:
        head: the output head, which takes no adapter.

    Raises:
        RecipeError: an adapter that finds nothing to sit on, or two for one layer.
        OmnimixError: peft is not installed.
    """
    if not adapters:
        return
    if importlib.util.find_spec("peft") is None:
        raise OmnimixError(
            "adapters need the package peft, which is not installed",
            hint="install it with pip install 'omnimix[train]'",
        )
    from peft import LoraConfig, inject_adapter_in_model

    learns = {id(parameter): parameter.requires_grad for parameter in model.parameters()}
    chosen = [_chosen(model, words, head, i) for i, words in enumerate(adapters)]
    _check_apart(chosen)
    for words, names in zip(adapters, chosen, strict=True):
        settings = LoraConfig(
            r=words.r,
            lora_alpha=words.lora_alpha,
            lora_dropout=words.lora_dropout,
            target_modules="|".join(re.escape(name) for name in names),
            use_dora=words.kind == "dora",
            bias="none",
        )
        inject_adapter_in_model(settings, model, NAME)
        for name in names:
            _lighten(model.get_submodule(name))
        # peft leaves its settings there, and some of transformers takes the model for a wrapped one then.
        del model.peft_config
    for parameter in model.parameters():
        parameter.requires_grad_(learns.get(id(parameter), True))


@functools.cache
def _light() -> Any:
    """peft's linear layer without what it does over all of a layer's outputs, and twice to its inputs.

    peft scales the wide product, this the thin one; peft casts inputs to the adapter's type, from which autocast casts
    them again.
    """
    from peft.tuners.lora import Linear

    class Light(Linear):  # type: ignore[misc]
        """A layer with one LoRA."""

        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if self.disable_adapters or self.merged or kwargs or self.active_adapters != [NAME]:
                found: Tensor = super().forward(x, *args, **kwargs)
                return found
            result: Tensor = self.base_layer(x, *args)
            if x.device.type == "meta" or not torch.is_autocast_enabled(x.device.type):
                x = x.to(self.lora_A[NAME].weight.dtype)
            thin = self.lora_A[NAME](self.lora_dropout[NAME](x)) * self.scaling[NAME]
            found = (result + self.lora_B[NAME](thin)).to(result.dtype)
            return found

    Light.__qualname__ = "Light"  # where pickle looks for it
    return Light


def __getattr__(name: str) -> Any:
    if name == "Light":
        return _light()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _lighten(layer: Any) -> None:
    """Make a plain LoRA such a layer; other kinds (DoRA, few bits) stay as they are."""
    from peft.tuners.lora import Linear

    if type(layer) is Linear and not layer.lora_variant:
        layer.__class__ = _light()


def _chosen(model: nn.Module, words: Adapter, head: nn.Module | None, number: int) -> list[str]:
    """Names of the layers that one adapter sits on."""
    where = f"adapters.{number}"
    inside = [
        (name, module)
        for name, module in model.named_modules()
        if fnmatch.fnmatchcase(name, words.part) or fnmatch.fnmatchcase(name, f"{words.part}.*")
    ]
    if not inside:
        tops = ", ".join(name for name, _ in model.named_children())
        raise RecipeError(
            f"{words.part!r} is the name of no part",
            where=f"{where}.part",
            hint=f"names begin with {tops}; `omnimix show` prints the tree",
        )
    linear = [name for name, module in inside if is_adaptable(module) and module is not head]
    if words.target_modules is None:
        if not linear:
            raise RecipeError(f"{words.part!r} has no linear layer", where=f"{where}.part")
        return linear
    found: list[str] = []
    for target in words.target_modules:
        fits = [name for name in linear if fnmatch.fnmatchcase(f".{name}", f"*.{target}")]
        if not fits:
            ends = sorted({name.rsplit(".", 1)[-1] for name in linear})
            raise RecipeError(
                f"no linear layer of {words.part!r} is called {target!r}",
                where=f"{where}.target_modules",
                hint=f"there are {', '.join(ends) or 'none'}; the output head takes no adapter",
            )
        found += fits
    return list(dict.fromkeys(found))


def is_adaptable(module: nn.Module) -> bool:
    """A linear layer that is called; nn.MultiheadAttention reads the weight of its own past the layer."""
    return isinstance(module, nn.Linear) and type(module).__name__ != (
        "NonDynamicallyQuantizableLinear"
    )


def _check_apart(chosen: Sequence[Sequence[str]]) -> None:
    seen: set[str] = set()
    for number, names in enumerate(chosen):
        twice = seen.intersection(names)
        if twice:
            raise RecipeError(
                f"{min(twice)} has an adapter already",
                where=f"adapters.{number}",
                hint="let the adapters of a recipe sit on different layers",
            )
        seen.update(names)


def layers(model: nn.Module) -> dict[str, Any]:
    """The adapted layers by name."""
    if importlib.util.find_spec("peft") is None:
        return {}
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def rest(model: nn.Module) -> None:
    """Switch off the adapters that neither learn nor change anything yet, and all others on.

    A fresh LoRA adds zero, and takes a quarter of a step (135M parameters, rows of 25 tokens, one CPU thread).
    """
    for layer in layers(model).values():
        own = [p for each in layer.adapter_layer_names for p in getattr(layer, each).parameters()]
        # DoRA divides by a length and multiplies by it again, which is not the same to the last bit.
        idle = not any(p.requires_grad for p in own) and not any(layer.use_dora.values())
        idle = idle and not any(whole(b.weight).any() for b in layer.lora_B.values())
        if idle != layer.disable_adapters:
            learns = [p.requires_grad for p in own]
            layer.enable_adapters(not idle)  # it sets who learns as well
            for parameter, learned in zip(own, learns, strict=True):
                parameter.requires_grad_(learned)


def whole(weight: Tensor) -> Tensor:
    """All of a weight of which every process may hold a part."""
    gather = getattr(weight, "full_tensor", None)
    return weight if gather is None else gather()


def merge(model: nn.Module) -> None:
    """Work what the adapters have learned into the weights and take the adapters out.

    Raises:
        OmnimixError: quantized weights, which cannot take it up.
    """
    found = layers(model)
    for name, layer in found.items():
        if not layer.get_base_layer().weight.is_floating_point():
            raise OmnimixError(
                "quantized weights cannot take up their adapters",
                where=name,
                hint="load the model whole (without quantization) and merge that",
            )
    for name, layer in found.items():
        layer.merge(safe_merge=True)
        above, _, own = name.rpartition(".")
        setattr(model.get_submodule(above), own, layer.get_base_layer())


def is_adapter(name: str) -> bool:
    """Whether a parameter's name is that of an adapter."""
    return ".lora_" in name


def names_adapters(names: Iterable[str]) -> bool:
    """Whether there is an adapter among the names of a state dict."""
    return any(is_adapter(name) for name in names)
