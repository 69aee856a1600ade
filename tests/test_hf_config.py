"""Words of configurations of transformers: what it takes is taken, a slip is named with its place."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from omnimix.cli.main import app
from omnimix.compose import recipe as recipes
from omnimix.config import validate
from omnimix.errors import RecipeError
from omnimix.hf_config import make
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


def test_words_that_every_file_of_transformers_4_has_are_taken() -> None:
    older = dict.fromkeys(("finetuning_task", "prefix", "cross_attention_hidden_size"))
    flags = dict.fromkeys(("is_decoder", "torchscript", "tie_encoder_decoder"), False)
    words = {"model_type": "clip_vision_model", "top_k": 50, "pruned_heads": {}, **older, **flags}
    assert make(words | {"hidden_size": 1536}).hidden_size == 1536


@pytest.mark.parametrize("model_type", TYPES)
def test_a_slip_is_named(model_type: str) -> None:
    config = {"model_type": model_type, "num_hiden_layers": 2}
    with pytest.raises(RecipeError, match=r"no word 'num_hiden_layers'.*'num_hidden_layers'\?$"):
        validate(CausalLM, {"config": config}, "language")


def test_a_slip_in_an_inner_configuration_is_named() -> None:
    config = {"model_type": "gemma3", "text_config": {"hiden_size": 8}}
    with pytest.raises(RecipeError, match=r"language: config\.text_config: .*'hidden_size'"):
        validate(CausalLM, {"config": config}, "language")


ENCODERS = (
    ("sphinx_v", "branches.0.encoders.0.vision_config.hiden_size=8", "hidden_size"),
    ("sphinx_v", "branches.0.encoders.0.qformer_config.hiden_size=8", "hidden_size"),
    ("xgen_mm", "branches.0.encoders.0.config.num_hiden_layers=8", "num_hidden_layers"),
    ("multi_token", "branches.0.encoders.0.config.imagesize=8", "image_size"),
    ("multi_token_speech", "branches.0.encoders.0.config.dmodel=8", "d_model"),
    ("multi_token_sound", "branches.0.encoders.0.config.depth=[2]", "depths"),
    ("multi_token_video", "branches.0.encoders.0.vision_config.hiden_size=8", "hidden_size"),
    ("multi_token_document", "branches.0.encoders.0.config.hiden_size=8", "hidden_size"),
)


@pytest.mark.parametrize(("name", "slip", "meant"), ENCODERS)
def test_a_slip_in_an_encoder_is_named_where_the_recipe_is_read(
    name: str, slip: str, meant: str
) -> None:
    modality = next(iter(recipes.load(name).modalities))
    wrong = slip.partition("=")[0].rpartition(".")[2]
    place = slip.rpartition(f".{wrong}")[0].replace(".", r"\.")
    said = rf"{name}\.yaml: modalities\.{modality}\.{place}: .*'{wrong}'; did you mean '{meant}'\?$"
    with pytest.raises(RecipeError, match=said):
        recipes.load(name, [f"modalities.{modality}.{slip}"])


def test_a_slip_of_the_language_model_is_named_where_the_recipe_is_read() -> None:
    with pytest.raises(
        RecipeError, match=r"nano\.yaml: language\.config: .*did you mean 'vocab_size'"
    ):
        recipes.load("nano", ["language.config.vocab_sise=9"])
    result = CliRunner().invoke(app, ["show", "nano", "--set", "language.config.hidden_size=-32"])
    assert result.exit_code == 2 and "hidden_size is -32" in result.stderr


@pytest.mark.parametrize("word", ["hidden_size", "num_hidden_layers", "num_attention_heads"])
@pytest.mark.parametrize("count", [0, -1])
def test_sizes_and_counts_are_above_zero(word: str, count: int) -> None:
    with pytest.raises(RecipeError, match=rf"{word} is {count}\. Give a whole number above 0\."):
        make({"model_type": "llama", word: count})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, "needs 'model_type'"),
        ({"model_type": "lama"}, "cannot make the configuration"),
        ({"model_type": "llama", "hidden_size": "wide"}, "hidden_size|expected int"),
        ({"model_type": "llama", "hidden_size": 7}, "not a multiple"),
    ],
)
def test_what_transformers_refuses_is_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        make(words)


def test_other_names_of_a_word_are_taken() -> None:
    assert CausalLM(config={"model_type": "gpt2", "hidden_size": 8}).hf_config().n_embd == 8


@pytest.mark.parametrize("model_type", ["mistral", "phi3", "qwen2"])
def test_windows_are_taken(model_type: str) -> None:
    assert CausalLM(config={"model_type": model_type, "sliding_window": 8}).hf_config()


@pytest.mark.parametrize("name", recipes.names())
def test_shipped_recipes_hold_known_words(name: str) -> None:
    assert recipes.load(name).language.hf_config()
