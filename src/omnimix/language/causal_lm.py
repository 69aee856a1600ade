"""The language model: any causal model of transformers, from a configuration, a folder or a hub id."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from omnimix.config import Spec
from omnimix.errors import RecipeError
from omnimix.language import packed


class CausalLM(Spec):
    """Words of the language model in a recipe.

    Attributes:
        config: words of a transformers configuration, `model_type` among them.
        weights: a hub id or folder whose weights are the starting point of training.
        attention: `sdpa` knows packed batches; any other name is handed to transformers.
    """

    kind: Literal["causal_lm"] = "causal_lm"
    config: dict[str, Any]
    weights: str | None = None
    attention: str = "sdpa"

    def hf_config(self) -> Any:
        """The transformers configuration."""
        from transformers import AutoConfig

        if "model_type" not in self.config:
            raise RecipeError(
                "the configuration of a language model needs 'model_type'",
                where="language.config",
                hint="llama, mistral or phi3 for instance",
            )
        try:
            return AutoConfig.for_model(**self.config)
        except (ValueError, TypeError) as error:
            line = str(error).splitlines()[0]
            raise RecipeError(
                f"transformers cannot make the configuration ({line})", where="language.config"
            ) from None

    def build(self) -> nn.Module:
        """The model with fresh weights, on the current default device."""
        from transformers import AutoModelForCausalLM

        attention = packed.NAME if self.attention == "sdpa" else self.attention
        packed.register()
        model: nn.Module = AutoModelForCausalLM.from_config(
            self.hf_config(), attn_implementation=attention
        )
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
        model.load_state_dict(loaded.state_dict())
