"""The language model: any causal model of transformers, from a configuration, a folder or a hub id."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import nn

from omnimix.config import Spec
from omnimix.errors import RecipeError
from omnimix.hf_config import known, make
from omnimix.language import packed
from omnimix.language.head import HeadSpec


class CausalLM(Spec):
    """Words of the language model in a recipe.

    Attributes:
        config: words of a transformers configuration, `model_type` among them.
        weights: a hub id or folder whose weights are the starting point of training.
        attn_implementation: `sdpa` knows packed batches; any other name is handed to transformers.
        head: what sets the output head apart: a bias, fewer logits than rows.
    """

    kind: Literal["causal_lm"] = "causal_lm"
    config: Annotated[dict[str, Any], known()]
    weights: str | None = None
    attn_implementation: str = "sdpa"
    head: HeadSpec | None = None

    def hf_config(self) -> Any:
        """The transformers configuration."""
        return make(self.config)

    def build(self) -> nn.Module:
        """The model with fresh weights, on the current default device."""
        from transformers import AutoModelForCausalLM

        attention = packed.NAME if self.attn_implementation == "sdpa" else self.attn_implementation
        packed.register()
        model: nn.Module = AutoModelForCausalLM.from_config(
            self.hf_config(), attn_implementation=attention
        )
        if self.head is not None:
            self.head.install(model)
        return model

    def start(self, model: nn.Module) -> None:
        """Load the starting weights that the recipe names into a freshly built model."""
        if self.weights is None:
            return
        from transformers import AutoModelForCausalLM

        try:
            loaded = AutoModelForCausalLM.from_pretrained(self.weights, dtype=torch.float32)
        except (OSError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise RecipeError(
                f"cannot load the language model {self.weights!r} ({line})",
                where="language.weights",
                hint="give a hub id that can be reached, or a local folder",
            ) from None
        missing = [] if self.head is None else _keep_own_rows(model, loaded)
        model.load_state_dict({**loaded.state_dict(), **dict(missing)})


def _keep_own_rows(model: nn.Module, loaded: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Where this model's tables are longer than the loaded ones (or have a bias): its own fresh rows."""
    theirs = loaded.state_dict()
    kept: list[tuple[str, torch.Tensor]] = []
    for name, ours in model.state_dict().items():
        if name not in theirs:
            kept.append((name, ours))
        elif len(ours) > len(theirs[name]):
            kept.append((name, torch.cat([theirs[name], ours[len(theirs[name]) :]])))
    return kept
