"""Words of `language.config`: what transformers takes is taken, a slip is named."""

from __future__ import annotations

from typing import Any

import pytest

from omnimix.compose import recipe as recipes
from omnimix.errors import RecipeError
from omnimix.language.causal_lm import CausalLM

TAKEN: dict[str, Any] = {
    "rope_theta": 5e5,
    "torch_dtype": "bfloat16",
    "pad_token_id": 0,
    "attn_implementation": "eager",
    "architectures": ["Some"],
    "auto_map": {},
    "use_cache": True,
    "transformers_version": "4.40.0",
    "_name_or_path": "a/b",
    "tie_word_embeddings": False,
}
TYPES = ("llama", "mistral", "phi3", "phi", "qwen2", "gemma2", "gpt2")


@pytest.mark.parametrize("model_type", TYPES)
def test_words_of_real_files_are_taken(model_type: str) -> None:
    words = dict(TAKEN)
    if model_type == "gpt2":  # knows no rotary positions
        del words["rope_theta"]
    made = CausalLM(config={"model_type": model_type, **words}).hf_config()
    written = {k: v for k, v in made.to_dict().items() if v is not None}
    CausalLM(config=written | {"model_type": model_type}).hf_config()


@pytest.mark.parametrize("model_type", TYPES)
def test_a_slip_is_named(model_type: str) -> None:
    config = {"model_type": model_type, "num_hiden_layers": 2}
    with pytest.raises(RecipeError, match=r"no word 'num_hiden_layers'.*'num_hidden_layers'"):
        CausalLM(config=config).hf_config()


def test_a_slip_in_an_inner_configuration_is_named() -> None:
    config = {"model_type": "gemma3", "text_config": {"hiden_size": 8}}
    with pytest.raises(RecipeError, match=r"language\.config\.text_config: .*'hidden_size'"):
        CausalLM(config=config).hf_config()


def test_other_names_of_a_word_are_taken() -> None:
    assert CausalLM(config={"model_type": "gpt2", "hidden_size": 8}).hf_config().n_embd == 8


@pytest.mark.parametrize("model_type", ["mistral", "phi3", "qwen2"])
def test_windows_are_taken(model_type: str) -> None:
    assert CausalLM(config={"model_type": model_type, "sliding_window": 8}).hf_config()


@pytest.mark.parametrize("name", recipes.names())
def test_shipped_recipes_hold_known_words(name: str) -> None:
    assert recipes.load(name).language.hf_config()
