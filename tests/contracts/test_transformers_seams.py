"""What `omnimix._transformers` leans on, one test a seam: the one that fails names what moved in transformers."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    DynamicCache,
    GenerationMixin,
)
from transformers.utils import logging

from omnimix import _transformers
from omnimix.compose import recipe as recipes
from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.model_config import OmnimixConfig
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.hf_config import make
from omnimix.types import Box, Media
from tests.compose.conversations import picture, talk
from tests.conftest import TINY

SOURCE = Path(__file__).parents[2] / "src"
OPEN = ("transformers", "transformers.utils.logging")
"""What its documentation promises; all else of transformers is imported in `_transformers` alone."""

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CLIP = {
    "model_type": "clip_vision_model",
    "image_size": 224,
    "patch_size": 16,
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
}
WRITE: dict[str, Any] = {
    "do_sample": False,
    "max_new_tokens": 5,
    "pad_token_id": 0,
    "eos_token_id": None,
}

OFFERED = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
CACHE_NAMES = [name for name in ("past_key_values", "cache") if name in OFFERED]


@pytest.fixture(scope="module")
def asked(tiny_processor: Processor) -> Batch:
    content = (picture(), "In ", Media.region(Box(1, 1, 20, 20)), "?")
    return tiny_processor(talk(content), open_answer=True)


def test_nothing_else_reaches_inside_transformers() -> None:
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        if path.name == "_transformers.py" and path.parent.name == "omnimix":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [
                    one if (one := f"{node.module}.{alias.name}") in OPEN else str(node.module)
                    for alias in node.names
                ]
                names += [
                    one
                    for a in node.names
                    if (one := f"{node.module}.{a.name}") and a.name[0] == "_"
                ]
            wrong += [
                f"{path.relative_to(SOURCE)}, line {node.lineno}: {name}"
                for name in names
                if name.split(".")[0] == "transformers" and name not in OPEN
            ]
    assert not wrong, "move these into omnimix/_transformers.py:\n" + "\n".join(wrong)


def test_items_enter_generation_once(
    tiny_model: MultimodalLM, asked: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`prepare_inputs_for_generation` hands on only the tokens that the cache does not hold."""
    calls: list[tuple[int, bool]] = []
    forward = MultimodalLM.forward

    def seen(self: MultimodalLM, **words: Any) -> Any:
        calls.append((words["input_ids"].shape[1], words.get("items") is not None))
        return forward(self, **words)

    monkeypatch.setattr(tiny_model, "forward", seen.__get__(tiny_model))
    # generate reads the words that a model takes off its signature.
    seen.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    tiny_model.generate(**asked.inputs(), **WRITE)
    prompt = asked.input_ids.shape[1]
    assert calls == [(prompt, True), *[(1, False)] * 4]


def test_without_a_cache_items_enter_every_step(tiny_model: MultimodalLM, asked: Batch) -> None:
    cached = tiny_model.generate(**asked.inputs(), **WRITE)
    plain = tiny_model.generate(**asked.inputs(), **WRITE, use_cache=False)
    assert torch.equal(cached, plain)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CACHE_NAMES)
def test_the_model_takes_a_cache_by_the_names_that_transformers_has(
    tiny_model: MultimodalLM, asked: Batch, name: str
) -> None:
    """A caller's own cache: filled in one call, gone on with in the next, with the same tokens as in one."""
    whole = tiny_model.generate(**asked.inputs(), **{**WRITE, "max_new_tokens": 6})
    words = {**WRITE, "max_new_tokens": 3, name: DynamicCache()}
    first = tiny_model.generate(**asked.inputs(), **words)
    assert words[name].get_seq_length() == first.shape[1] - 1
    places = functional.pad(asked.item_places, (0, first.shape[1] - asked.input_ids.shape[1]))
    words |= {"attention_mask": torch.ones_like(first), "items": asked["items"]}
    words["item_places"] = places
    assert torch.equal(tiny_model.generate(input_ids=first, **words), whole)


def test_the_output_is_the_language_models_own(tiny_model: MultimodalLM, asked: Batch) -> None:
    """Its type takes a loss, and carries the cache (and hidden states) whatever they are called."""
    inputs = asked.inputs()
    plain = tiny_model(**inputs, use_cache=True, output_hidden_states=True)
    learned = tiny_model(**inputs, use_cache=True, labels=asked.input_ids)
    assert type(learned) is type(plain) and plain.loss is None
    assert learned[0] is learned.loss and learned.loss.ndim == 0
    layers = tiny_model.language.config.num_hidden_layers
    assert len(plain.hidden_states) == layers + 1
    caches = [one for one in plain.values() if isinstance(one, DynamicCache)]
    assert len(caches) == 1 and caches[0].get_seq_length() == asked.input_ids.shape[1]


def test_unknown_words_reach_the_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered attention gets the keyword arguments that no model knows, and SDPA's own masks."""
    told: list[dict[str, Any]] = []

    def attention(*tensors: Any, **words: Any) -> Any:
        told.append({"mask": tensors[4], "here": words.pop("seam_word", None)})
        return _transformers.sdpa(*tensors, **words)

    _transformers.register_attention("omnimix_seam", attention)
    ours, theirs = (
        AutoModelForCausalLM.from_config(make(LLAMA), attn_implementation=name).eval()
        for name in ("omnimix_seam", "sdpa")
    )
    theirs.load_state_dict(ours.state_dict())
    ids = torch.arange(4, 12)[None].expand(2, -1)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    with torch.no_grad():
        one = ours(ids, attention_mask=mask, seam_word="x").logits
        other = theirs(ids, attention_mask=mask).logits
    assert [row["here"] for row in told] == ["x"]
    assert isinstance(told[0]["mask"], Tensor) and told[0]["mask"].ndim == 4
    assert torch.equal(one, other)


def test_a_head_runs_behind_a_body_that_is_passed_over() -> None:
    words = {**LLAMA, "model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 0.1}
    model = AutoModelForCausalLM.from_config(make(words)).eval()
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        hidden = model.base_model(ids).last_hidden_state
        found = _transformers.headed(model, hidden[:, 3:5])
        torch.testing.assert_close(found, model(ids).logits[:, 3:5])
    assert found.abs().max() <= 0.1
    assert "forward" not in vars(model.base_model)
    output = _transformers.loss_output(found.sum())
    assert output.loss is not None and output.logits is None and list(output) == ["loss"]


def test_no_mask_is_made_where_none_is_wanted() -> None:
    told: list[Any] = []

    def attention(*tensors: Any, **words: Any) -> Any:
        told.append(tensors[4])
        return _transformers.sdpa(*tensors, **words)

    _transformers.register_attention("omnimix_seam", attention, lambda: True)
    model = _transformers.causal_lm(make(LLAMA), "omnimix_seam").eval()
    mask = torch.tensor([[0, 1, 1]])
    model(torch.tensor([[0, 4, 5]]), attention_mask=mask)
    assert told == [None]
    assert _transformers.takes(model, "position_ids") and not _transformers.takes(
        model, "positions"
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("llama", (True, True)), ("gpt_oss", (True, False)), ("bloom", (False, False))],
)
def test_models_say_which_attention_they_take(kind: str, expected: tuple[bool, bool]) -> None:
    assert kind in _transformers.causal_lm_types()
    assert _transformers.attentions(CONFIG_MAPPING[kind]()) == expected


def test_models_say_what_they_are_called_with() -> None:
    assert {"clip_vision_model", "qwen2_5_vl_vision"} <= set(_transformers.model_types())
    with torch.device("meta"):
        tower = AutoModel.from_config(make({"model_type": "qwen2_5_vl_vision"}))
    assert _transformers.needs(tower) == ["hidden_states", "grid_thw"]


def test_sdpa_turns_heads_behind_tokens() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 4, 5, 8)
    module = torch.nn.Module()
    module.is_causal = True  # type: ignore[assignment]
    found, weights = _transformers.sdpa(module, query, key, value, None, scaling=0.5, dropout=0.0)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=0.5
    )
    assert weights is None
    torch.testing.assert_close(found, wanted.transpose(1, 2))


def test_tied_weights_are_named(tiny_recipe: Recipe, tiny_model: MultimodalLM) -> None:
    """`all_tied_weights_keys`: the names that a saved file leaves out."""
    assert tiny_recipe.language.config["tie_word_embeddings"]
    assert _transformers.tied_names(tiny_model) == {"language.lm_head.weight"}
    assert _transformers.tied_names(torch.nn.Linear(1, 1)) == set()


class Read:
    """A tensor that is read on demand, as a slice of a safetensors file is."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.reads = 0

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape

    def get_shape(self) -> list[int]:
        return list(self.tensor.shape)

    def __getitem__(self, index: Any) -> Tensor:
        self.reads += 1
        return self.tensor[index]


def test_a_model_is_filled_from_what_reads_like_a_slice(tiny_model: MultimodalLM) -> None:
    """`from_pretrained(None, config=, state_dict=)` reads each with `[...]`, once."""
    state = {
        name: Read(tensor.clone())
        for name, tensor in tiny_model.state_dict().items()
        if name not in _transformers.tied_names(tiny_model)
    }
    config = OmnimixConfig(recipe=tiny_model.recipe.dump())
    model = _transformers.model_from(MultimodalLM, config, state, dtype=torch.float32)
    assert {name: one.reads for name, one in state.items()} == dict.fromkeys(state, 1)
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_tables_outside_of_the_state_dict_are_made_again() -> None:
    """Built on the meta device, `position_ids` and `token_type_ids` hold anything until they are restored."""
    clip = AutoModel.from_config(make(CLIP))
    wanted = {name: buffer.clone() for name, buffer in clip.named_buffers() if "ids" in name}
    assert wanted, "CLIP's vision tower has no position_ids any more"
    assert not wanted.keys() & clip.state_dict().keys()
    for name in wanted:
        clip.get_buffer(name).fill_(-7)
    _transformers.restore_ids(clip)
    assert all(torch.equal(clip.get_buffer(name), one) for name, one in wanted.items())


def test_loading_restores_what_no_tensor_fills() -> None:
    """Behind a load from the meta device the model's `_init_weights` is called for such modules."""
    tower = (
        "{kind: transformers, config: {" + ", ".join(f"{k}: {v}" for k, v in CLIP.items()) + "}}"
    )
    recipe = recipes.load("nano", (*TINY[:-1], f"modalities.image.branches.0.encoders.0={tower}"))
    model = MultimodalLM.from_recipe(recipe)
    tables = {name: one for name, one in model.named_buffers() if name.endswith("position_ids")}
    assert tables and not tables.keys() & model.state_dict().keys()
    config = OmnimixConfig(recipe=recipe.dump())
    state = model.state_dict()
    again = _transformers.model_from(MultimodalLM, config, state, dtype=torch.float32)
    assert all(torch.equal(again.get_buffer(name), one) for name, one in tables.items())


def test_the_plan_of_cuts_covers_the_language_model(tiny_recipe: Recipe) -> None:
    """`tp_plan`: names under `language.`, `*` for the layer's number; colwise and rowwise styles."""
    found = _transformers.cuts(MultimodalLM.on_meta(tiny_recipe))
    layer = {name: style for name, style in found.items() if ".layers.*." in name}
    assert all(name.startswith("language.model.layers.*.") for name in layer)
    assert layer["language.model.layers.*.self_attn.q_proj"] == "colwise"
    assert layer["language.model.layers.*.self_attn.o_proj"] == "rowwise"


def test_a_plan_is_handed_to_from_pretrained() -> None:
    words = _transformers.cut_words(2, {"language.lm_head": "replicate"})
    config = words["distributed_config"]
    assert (config.tp_size, dict(config.tp_plan)) == (2, {"language.lm_head": "replicate"})


@pytest.mark.parametrize("kind", ["slaney", None])
def test_mel_filters(kind: str | None) -> None:
    found = _transformers.mel_filters(201, 80, 0.0, 8000.0, 16000, kind)
    assert found.shape == (201, 80) and found.dtype == "float32" and (found >= 0).all()
    # Slaney's bands have equal areas; HTK's have equal heights.
    areas, heights = found.sum(0)[10:], found.max(0)[40:]
    even = areas / areas.mean() if kind else heights
    assert abs(even - 1).max() < 0.3


def test_quiet_puts_things_back() -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with _transformers.quiet():
        assert logging.get_verbosity() == logging.ERROR
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_generation_asks_our_configuration_for_the_language_models(
    tiny_model: MultimodalLM,
) -> None:
    """Sizes of a cache come from `get_text_config`."""
    text = tiny_model.config.get_text_config(decoder=True)
    assert text.model_type == tiny_model.language.config.model_type
    assert text.num_hidden_layers == tiny_model.language.config.num_hidden_layers


def test_activations_are_computed_again_where_asked() -> None:
    model = AutoModelForCausalLM.from_config(make(LLAMA))
    ids = torch.arange(8)[None]
    model.train()

    def gradient(on: bool) -> Tensor:
        _transformers.recompute(model, on)
        assert any(getattr(m, "gradient_checkpointing", False) for m in model.modules()) == on
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        found: Tensor = model.get_input_embeddings().weight.grad.clone()
        return found

    torch.testing.assert_close(gradient(True), gradient(False))
