"""The model and its batches in the hands of other tools: configuration, tables, embeddings, batches that travel."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from peft import PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

from omnimix.compose import recipe as recipes
from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import CheckpointError, OmnimixError, SpliceError
from omnimix.types import Box, Media
from tests.compose.conversations import picture, talk
from tests.conftest import TINY, saved

SAMPLES = [
    talk((picture(), "In ", Media.region(Box(1, 1, 20, 20)), "?"), "A cup."),
    talk("Hello", "Hi."),
    talk((picture(9, 9, 1), picture(30, 70, 2), "?"), "Two."),
]


@pytest.fixture(scope="module")
def batch(tiny_processor: Processor) -> Batch:
    return tiny_processor(SAMPLES)


@pytest.fixture
def model(tiny_model: MultimodalLM) -> MultimodalLM:
    return copy.deepcopy(tiny_model)


def logits(model: MultimodalLM, **words: object) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**words).logits
    return found


def test_one_configuration(tiny_model: MultimodalLM) -> None:
    config = tiny_model.config
    assert config.get_text_config(decoder=True) is config.text_config is tiny_model.language.config
    sizes = ("hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads")
    assert all(getattr(config, name) == getattr(config.text_config, name) for name in sizes)
    assert not hasattr(config, "no_such_word")


@pytest.mark.parametrize(
    ("asked", "text"), [("eager", "eager"), ("sdpa", "omnimix"), (None, "omnimix")]
)
def test_attention_is_chosen_at_load(
    tiny_folder: Path, tiny_model: MultimodalLM, batch: Batch, asked: str | None, text: str
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation=asked)
    assert model.language.config._attn_implementation == text
    assert model.config._attn_implementation == (asked or "sdpa")
    torch.testing.assert_close(logits(model, **batch), logits(tiny_model, **batch))
    model.set_attn_implementation("sdpa")
    assert model.language.config._attn_implementation == "omnimix"


def test_a_tower_takes_the_attention_too() -> None:
    tower = "{kind: transformers, config: {model_type: clip_vision_model, image_size: 224, patch_size: 16, "
    tower += (
        "hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2}}"
    )
    recipe = recipes.load("nano", (*TINY[:-1], f"modalities.image.branches.0.encoders.0={tower}"))
    config = MultimodalLM.on_meta(recipe).config
    config._attn_implementation = "eager"
    found = MultimodalLM(config).image.branches[0].encoders[0].tower.config
    assert found._attn_implementation == "eager"


def test_a_copy_of_the_configuration_that_disagrees_is_refused(
    tmp_path: Path, tiny_model: MultimodalLM
) -> None:
    tiny_model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    words = json.loads(file.read_text())
    assert words["text_config"]["hidden_size"] == 32
    words["text_config"]["hidden_size"] = 64
    file.write_text(json.dumps(words))
    with pytest.raises(CheckpointError, match=r"hidden_size is 64, and 32 in recipe\.language"):
        MultimodalLM.from_pretrained(tmp_path)


def test_packed_batches_are_right_whatever_the_attention(
    model: MultimodalLM, tiny_processor: Processor
) -> None:
    packed = tiny_processor.batch([tiny_processor.weave(one) for one in SAMPLES], pack=True)
    wanted = logits(model, **packed)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(logits(model, **packed), wanted, atol=1e-5, rtol=1e-5)
    rounds = {**packed, "branches": torch.zeros_like(packed.input_ids)}
    with pytest.raises(OmnimixError, match="'eager' knows no rounds"):
        model(**rounds)


def test_what_else_a_call_asks_for(model: MultimodalLM, batch: Batch) -> None:
    plain = model(**batch)
    tuples = model(**batch, return_dict=False)
    assert isinstance(tuples, tuple)
    assert torch.equal(tuples[0], plain.loss) and torch.equal(tuples[1], plain.logits)
    assert plain.hidden_states is None
    model.config.output_hidden_states = True
    assert len(model(**batch).hidden_states) == model.config.num_hidden_layers + 1


def test_attentions_are_given_by_whatever_computes_them(
    model: MultimodalLM, tiny_processor: Processor, batch: Batch
) -> None:
    model.eval()
    found = model(**batch, output_attentions=True)
    torch.testing.assert_close(found.logits, logits(model, **batch), atol=1e-5, rtol=1e-5)
    packed = tiny_processor.batch([tiny_processor.weave(one) for one in SAMPLES], pack=True)
    with pytest.raises(OmnimixError, match="'omnimix' gives no attentions"):
        model(**packed, output_attentions=True)
    model.set_attn_implementation("eager")
    real = batch.attention_mask.bool()
    wanted = model(**batch, output_attentions=True).attentions
    assert len(found.attentions) == len(wanted) == model.config.num_hidden_layers
    for one, other in zip(found.attentions, wanted, strict=True):
        of = real[:, None, :, None].expand_as(one)
        torch.testing.assert_close(one[of], other[of], atol=1e-5, rtol=1e-5)
    assert not one[:, :, 0, 1:].any() and one[0, 0, -1, 0] > 0


def test_one_part_may_have_an_attention_of_its_own(model: MultimodalLM) -> None:
    config = copy.deepcopy(model.config)
    config._attn_implementation = {"": "sdpa", "text_config": "eager"}
    assert MultimodalLM(config).language.config._attn_implementation == "eager"


def test_tables_of_another_size_are_saved_and_loaded(
    tmp_path: Path, model: MultimodalLM, tiny_processor: Processor, batch: Batch
) -> None:
    before = logits(model, **batch)
    model.resize_token_embeddings(720)
    assert model.config.vocab_size == model.language.config.vocab_size == 720
    assert model.recipe.language.config["vocab_size"] == 720
    loaded = MultimodalLM.from_pretrained(saved(model, tiny_processor, tmp_path))
    assert loaded.get_output_embeddings().weight.shape[0] == 720
    assert torch.equal(logits(loaded, **batch)[..., :712], before)


def test_a_head_of_its_own_rows_is_not_resized(tiny_recipe: recipes.Recipe) -> None:
    recipe = recipes.load("nano", (*TINY, "language.head={bias: true, width: 700}"))
    model = MultimodalLM.on_meta(recipe)
    with pytest.raises(OmnimixError, match=r"language\.head"):
        model.resize_token_embeddings(720)
    assert model.config.vocab_size == 712


def test_the_output_head_can_be_put_in(model: MultimodalLM) -> None:
    head = torch.nn.Linear(32, 712, bias=False)
    model.set_output_embeddings(head)
    assert model.language.lm_head is head is model.get_output_embeddings()


def test_embeddings_in_place_of_ids(model: MultimodalLM, batch: Batch) -> None:
    wanted = logits(model, **batch)
    words = batch.inputs()
    text = model.get_input_embeddings()(words.pop("input_ids"))
    assert torch.equal(logits(model, inputs_embeds=text, **words), wanted)
    # Put in behind, they would move the places onto text.
    longer = torch.cat([text, text[:, :1]], dim=1)
    words["attention_mask"] = torch.ones(longer.shape[:2], dtype=torch.long)
    with pytest.raises(SpliceError, match="1 longer than item_places, and not by vectors in front"):
        model(inputs_embeds=longer, **words)


def test_prompt_tuning_sees_the_items(
    model: MultimodalLM, tiny_processor: Processor, batch: Batch
) -> None:
    """Its vectors stand in front of the row, and the items stay in their places behind them."""
    inner = copy.deepcopy(model)
    words = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    tuned = get_peft_model(model, words).eval()
    vectors = tuned.get_prompt(batch_size=3)
    whole = torch.cat([vectors, inner.embed(batch.input_ids, batch["items"], batch.item_places)], 1)
    mask = torch.nn.functional.pad(batch.attention_mask, (3, 0), value=1)
    wanted = logits(inner, inputs_embeds=whole, attention_mask=mask)
    torch.testing.assert_close(logits(tuned, **batch), wanted, atol=1e-5, rtol=1e-5)
    asked = tiny_processor(talk(SAMPLES[0].turns[0].content), open_answer=True)
    # Peft counts the positions of later tokens without its vectors, for a plain language model too.
    write = {"max_new_tokens": 1, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found = tuned.generate(**asked, **write)[:, asked.input_ids.shape[1] :]
    text = inner.embed(asked.input_ids, asked["items"], asked.item_places)
    whole = torch.cat([tuned.get_prompt(batch_size=1), text], 1)
    assert torch.equal(inner.generate(inputs_embeds=whole, **write), found)


def test_a_batch_travels(batch: Batch) -> None:
    """Between processes, through a data loader, to a device, into another dtype."""
    for again in (
        pickle.loads(pickle.dumps(batch)),
        next(iter(DataLoader([batch], batch_size=None))),
        send_to_device(copy.copy(batch), "cpu"),
    ):
        assert isinstance(again, Batch) and again.keys() == batch.keys()
        assert again.ids == batch.ids and again.targets == batch.targets
        assert torch.equal(again["items"]["image"].inputs[0], batch["items"]["image"].inputs[0])
    half = copy.copy(batch).to(torch.bfloat16)
    assert half.input_ids.dtype == torch.int64 and half["items"]["image"].on.dtype == torch.int64
    assert half["items"]["region"].inputs[0].dtype == torch.bfloat16


def test_items_are_no_array(batch: Batch) -> None:
    """TRL's GRPO makes one of whatever it is given for a prompt."""
    with pytest.raises(
        SpliceError, match=r"items \(image, region\) are no array.*one number of tiles"
    ):
        np.array(batch["items"])


def test_the_model_without_its_head_speaks_in_both_forms(model: MultimodalLM, batch: Batch) -> None:
    """TRL calls it, and peft hands it `return_dict` by name."""
    words = batch.inputs()
    wanted = model.eval().base_model(**words)[0]
    assert torch.equal(model.base_model(**words, return_dict=True).last_hidden_state, wanted)
    assert torch.equal(model.base_model(**words, return_dict=False)[0], wanted)


def test_a_folder_of_the_language_model_alone(
    tmp_path: Path, model: MultimodalLM, batch: Batch
) -> None:
    """As in transformers the model without its head is saved by itself, and what stands before it is fresh."""
    model.base_model.save_pretrained(tmp_path)
    again, told = MultimodalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert {name.partition(".")[0] for name in told["missing_keys"]} == {"image", "region"}
    text = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    assert torch.equal(logits(again.eval(), **text), logits(model.eval(), **text))


def test_export_with_pictures(model: MultimodalLM, batch: Batch) -> None:
    words = batch.inputs() | {"use_cache": False}
    exported = torch.export.export(model, (), words, strict=False)
    found = exported.module()(**words).logits
    torch.testing.assert_close(found, logits(model, **words), atol=1e-5, rtol=1e-5)


def test_what_a_folder_lacks_is_made_as_in_a_fresh_model(
    tmp_path: Path, tiny_model: MultimodalLM
) -> None:
    tiny_model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    gone = {name for name in tensors if ".connector." in name}
    save_file({name: t for name, t in tensors.items() if name not in gone}, file, {"format": "pt"})
    torch.manual_seed(3)
    fresh = MultimodalLM.from_recipe(tiny_model.recipe).state_dict()
    found = MultimodalLM.from_pretrained(tmp_path).state_dict()
    assert gone
    for name, tensor in found.items():
        if name not in gone:
            assert torch.equal(tensor, tensors.get(name, tensor))
        else:
            assert tensor.std() == pytest.approx(fresh[name].std(), rel=0.5)
            assert tensor.abs().max() < 2 * fresh[name].abs().max()
