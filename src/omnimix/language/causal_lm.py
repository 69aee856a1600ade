"""The language model: any causal model of transformers, from a configuration, a folder or a hub id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from omnimix import _transformers
from omnimix.config import Held, Spec
from omnimix.errors import RecipeError, first_of
from omnimix.hf_config import OF_FILES, known, make, unknown
from omnimix.hub import read_json
from omnimix.language import forms
from omnimix.language.head import HeadSpec


class CausalLM(Spec):
    """Words of the language model in a recipe.

    Attributes:
        config: words of a transformers configuration, `model_type` among them.
        weights: a hub id, a folder in the hub's layout or a file, where training begins; alone it brings
            `config`, the tokenizer and, by `template: tokenizer`, the style of its chat template.
        attn_implementation: `sdpa` knows packed batches, windows, soft caps and sinks; any other name is
            handed to transformers.
        dtype: the type that its weights are held in while they are frozen in training, `bfloat16` for half the
            memory; what learns is held in float32.
        head: what sets the output head apart: a bias, fewer logits than rows.
    """

    kind: Literal["causal_lm"] = "causal_lm"
    config: Annotated[dict[str, Any], known()]
    weights: str | None = None
    # A name with a place in it makes transformers fetch a kernel and run it.
    attn_implementation: Annotated[str, Field(pattern=r"^[\w-]+$")] = "sdpa"
    dtype: Held | None = None
    head: HeadSpec | None = None

    def hf_config(self) -> Any:
        """The transformers configuration."""
        return make(self.config)

    def build(self, config: Any = None, attn_implementation: str | None = None) -> nn.Module:
        """The model with fresh weights, on the current default device.

        Args:
            config: what `hf_config` made, where it is at hand.
            attn_implementation: in place of the recipe's.

        Raises:
            RecipeError: a model that needs more than embeddings.
        """
        forms.check(self, "alone")
        attention = attn_implementation or self.attn_implementation
        model: nn.Module = forms.built(config or self.hf_config(), attention)
        if self.head is not None:
            self.head.install(model)
        return model

    def resized(self, vocab_size: int) -> CausalLM:
        """The same with tables of another size."""
        words = dict(self.config)
        inner = words.get("text_config")
        if "vocab_size" not in words and inner:
            words["text_config"] = {**inner, "vocab_size": vocab_size}
        else:
            words["vocab_size"] = vocab_size
        return self.model_copy(update={"config": words})

    @classmethod
    def complete(cls, words: Mapping[str, Any], place: Path) -> dict[str, Any]:
        """The words with the configuration beside pretrained weights below their own.

        Raises:
            RecipeError: one that transformers cannot make, or none.
        """
        from transformers import AutoConfig

        said = read_json(place / "config.json") or {} if place.is_dir() else {}
        given = words.get("config", {})
        if "model_type" not in said:
            raise RecipeError(
                "no config.json with a model_type beside the weights",
                where=str(place),
                hint="name a folder in the hub's layout, or write the words of `config`",
            )
        stated = {w: v for w, v in said.items() if w not in OF_FILES}
        try:
            made = AutoConfig.for_model(**stated)
        except (ValueError, TypeError, KeyError) as error:
            line = str(error).splitlines()[0]
            raise RecipeError(
                f"transformers cannot make the configuration ({line})",
                where=str(place / "config.json"),
            ) from None
        left = set(unknown(made, [w for w in stated if w != "model_type"]))
        return {**words, "config": {**{w: stated[w] for w in stated if w not in left}, **given}}

    def start(
        self, model: nn.Module, place: str | Path | None = None
    ) -> tuple[dict[str, str], list[str]]:
        """Load the starting weights that the recipe names into a freshly built model.

        Where this model's tables are longer than the loaded ones it keeps its own fresh rows, and where its
        head has a bias that they lack, that.

        Args:
            place: where the weights lie, when not under their name: a folder in the hub's layout or a file.

        Returns:
            What stays fresh, by name, in words; and the names of files' tensors without a place here.

        Raises:
            RecipeError: weights that are missing, misshapen or cannot be had.
        """
        if self.weights is None:
            return {}, []
        theirs, left = self._stored(place or self.weights)
        tables = {id(t) for t in (model.get_input_embeddings(), model.get_output_embeddings()) if t}  # type: ignore[operator]
        longer = {
            f"{name}.weight" for name, module in model.named_modules() if id(module) in tables
        }
        filled: dict[str, torch.Tensor] = {}
        fresh: dict[str, str] = {}
        wrong: list[str] = []
        for name, ours in model.state_dict().items():
            stored = theirs.get(name)
            if stored is None:
                if self.head is not None and self.head.bias and name.endswith("head.bias"):
                    fresh[name] = "all of it"
                else:
                    wrong.append(f"{name} is missing")
            elif stored.shape == ours.shape:
                filled[name] = stored
            elif _grown(ours, stored) and (name in longer or name.endswith("head.bias")):
                filled[name] = torch.cat([stored, ours[len(stored) :]])
                fresh[name] = f"rows {len(stored)} to {len(ours) - 1}"
            else:
                wrong.append(f"{name} is {list(stored.shape)} instead of {list(ours.shape)}")
        if wrong:
            raise RecipeError(
                f"{len(wrong)} weights of {self.weights!r} do not fit: {first_of(wrong)}",
                where="language.weights",
                hint="leave `config` out to take that of the weights",
            )
        model.load_state_dict(filled, strict=False)
        left += [name for name in theirs if name not in filled]
        return fresh, left

    def _stored(self, place: str | Path) -> tuple[dict[str, torch.Tensor], list[str]]:
        """The weights in transformers' names, and names that transformers has no use for."""
        from transformers import AutoModelForCausalLM

        file = Path(place)
        named = {"gguf_file": file.name} if file.suffix == ".gguf" else {}
        try:
            with _transformers.quiet():
                model, report = AutoModelForCausalLM.from_pretrained(
                    file.parent if named else place,
                    dtype=torch.float32,
                    output_loading_info=True,
                    **named,
                )
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            line = str(error).splitlines()[0]
            raise RecipeError(
                f"cannot load the language model {self.weights!r} ({line})",
                where="language.weights",
                hint="give a hub id that can be reached, or a local folder",
            ) from None
        absent = set(report["missing_keys"])
        state = {n: t for n, t in model.state_dict().items() if n not in absent}
        return state, sorted(map(str, report["unexpected_keys"]))


def _grown(ours: torch.Tensor, stored: torch.Tensor) -> bool:
    return ours.shape[1:] == stored.shape[1:] and len(ours) > len(stored)
