"""The model class as transformers and PEFT know it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor
from transformers.utils import logging

from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.model_config import OmnimixConfig
from omnimix.compose.processor import Processor
from omnimix.errors import CheckpointError, RecipeError
from omnimix.types import Box, Media
from tests.compose.conversations import picture, talk

logging.disable_progress_bar()
SAMPLES = [
    talk((picture(), "In ", Media.region(Box(1, 1, 20, 20)), "?"), "A cup."),
    talk("Hello", "Hi."),
]


@pytest.fixture(scope="module")
def batch(tiny_processor: Processor) -> Batch:
    return tiny_processor(SAMPLES)


def same(one: nn.Module, other: nn.Module, batch: Batch) -> None:
    """Equal parameters, buffers (those without a place in the file too) and logits."""
    for kind in ("named_parameters", "named_buffers"):
        left, right = dict(getattr(one, kind)()), dict(getattr(other, kind)())
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    with torch.no_grad():
        assert torch.equal(one(**batch.inputs()).logits, other(**batch.inputs()).logits)


@pytest.mark.parametrize("shard", ["5GB", "50KB"])
def test_saving_and_loading_changes_nothing(
    shard: str, tmp_path: Path, tiny_model: MultimodalLM, batch: Batch
) -> None:
    tiny_model.save_pretrained(tmp_path, max_shard_size=shard)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors*"))
    assert (len(files) > 2) == (shard == "50KB")
    loaded, info = MultimodalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert loaded.recipe == tiny_model.recipe
    same(loaded, tiny_model, batch)


def test_the_auto_classes_know_it(
    tiny_folder: Path, tiny_model: MultimodalLM, batch: Batch
) -> None:
    assert isinstance(AutoConfig.from_pretrained(tiny_folder), OmnimixConfig)
    for auto in (AutoModel, AutoModelForCausalLM):
        model = auto.from_pretrained(tiny_folder)
        assert isinstance(model, MultimodalLM)
        same(model, tiny_model, batch)
    processor = AutoProcessor.from_pretrained(tiny_folder)
    assert isinstance(processor, Processor)
    again = processor(SAMPLES)
    assert torch.equal(again.input_ids, batch.input_ids)
    assert torch.equal(again["items"]["image"].inputs[0], batch["items"]["image"].inputs[0])


def test_parameters_are_named_after_the_recipe(tiny_model: MultimodalLM) -> None:
    names = [name for name, _ in tiny_model.named_parameters()]
    assert {name.split(".")[0] for name in names} == {"image", "region", "language"}
    assert "image.branches.0.connector.0.weight" in names
    assert "language.model.embed_tokens.weight" in names
    assert tiny_model.tokens_per_tile == {"image": 49, "region": 1}
    assert tiny_model.context == 1024


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, tiny_processor: Processor) -> None:
    with pytest.raises(CheckpointError, match=r"recipe\.yaml is missing"):
        Processor.from_pretrained(tmp_path)
    bare = tiny_processor.recipe.model_copy(update={"tokenizer": None})
    with pytest.raises(RecipeError, match="names no tokenizer"):
        Processor.from_recipe(bare)


def test_counting_needs_no_memory(tiny_model: MultimodalLM) -> None:
    meta = MultimodalLM.on_meta(tiny_model.recipe)
    assert all(parameter.is_meta for parameter in meta.parameters())
    assert meta.tokens_per_tile == tiny_model.tokens_per_tile


def test_gradient_checkpointing_gives_equal_gradients(
    tiny_model: MultimodalLM, batch: Batch
) -> None:
    plain, saving = copy.deepcopy(tiny_model).train(), copy.deepcopy(tiny_model).train()
    saving.gradient_checkpointing_enable()
    assert saving.is_gradient_checkpointing
    for model in (plain, saving):
        model(**batch.inputs(), labels=batch.labels).loss.backward()
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None, name
        torch.testing.assert_close(one.grad, other.grad)
    for one, other in zip(plain.buffers(), saving.buffers(), strict=True):
        assert torch.equal(one, other)


def test_lora_wraps_and_trains(tiny_model: MultimodalLM, batch: Batch) -> None:
    words = LoraConfig(r=4, target_modules=r"language\..*\.(q_proj|v_proj)")
    model = get_peft_model(copy.deepcopy(tiny_model), words)
    learned = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert learned and all("lora_" in name and ".language." in name for name in learned)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    same_logits = model(**batch.inputs()).logits
    assert torch.allclose(same_logits, tiny_model(**batch.inputs()).logits, atol=1e-6)
    optimizer = torch.optim.SGD(learned.values(), lr=0.1)
    model(**batch.inputs(), labels=batch.labels).loss.backward()
    optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and moved <= learned.keys()


def test_greedy_generation_is_forward_again_and_again(
    tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    asked = [talk(SAMPLES[0].turns[0].content), talk("Hello")]
    for sample in asked:
        batch = tiny_processor(sample, open_answer=True)
        words = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": None}
        found = tiny_model.generate(**batch.inputs(), **words)[0, batch.input_ids.shape[1] :]
        ids, wanted = batch.input_ids, []
        for _ in range(6):
            places = functional.pad(batch.item_places, (0, len(wanted)))
            with torch.no_grad():
                output = tiny_model(input_ids=ids, items=batch["items"], item_places=places)
            scores = output.logits[0, -1]
            wanted.append(int(scores.argmax()))
            ids = torch.cat([ids, torch.tensor([[wanted[-1]]])], dim=1)
        assert found.tolist() == wanted


def test_a_batch_generates_what_each_would_alone(
    tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    asked = [talk(SAMPLES[0].turns[0].content), talk("Hello")]
    words = {"do_sample": False, "max_new_tokens": 5, "pad_token_id": 0, "eos_token_id": None}
    both = tiny_processor(asked, open_answer=True)
    together = tiny_model.generate(**both.inputs(), **words)[:, both.input_ids.shape[1] :]
    for sample, row in zip(asked, together, strict=True):
        one = tiny_processor(sample, open_answer=True)
        single = tiny_model.generate(**one.inputs(), **words)[0, one.input_ids.shape[1] :]
        assert row.tolist() == single.tolist()
