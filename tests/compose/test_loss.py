"""The loss at the learned places alone: that of all logits, whatever the model does behind its body."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from omnimix.compose import loss, recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.language import forms
from tests.compose.conversations import talk
from tests.conftest import TINY

KINDS = {
    "llama": (),
    "gemma2": ("final_logit_softcapping=2.0",),
    "cohere": ("logit_scale=0.3",),
    "granite": ("logits_scaling=3.0",),
    "phi": (),  # a head with a bias
    "mixtral": ("num_local_experts=4",),
    "llama4_text": (),  # no body apart from its head
}
HEAD = "language.head={bias: true, width: 150}"


def recipe(kind: str, *more: str) -> Any:
    words = [f"language.config.{word}" for word in KINDS[kind]]
    return recipes.load("nano", (*TINY, f"language.config.model_type={kind}", *words, *more))


def parted(model: MultimodalLM) -> bool:
    spec = model.recipe.language
    return forms.headed(spec.hf_config(), spec.attn_implementation)


def taught(model: MultimodalLM, words: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    found = model(**words)
    found.loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return found.loss.detach(), grads


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    ("kind", "more"), [*((kind, ()) for kind in KINDS if kind != "llama4_text"), ("llama", (HEAD,))]
)
def test_the_learned_places_alone_teach_the_same(
    kind: str, more: tuple[str, ...], pack: bool, tiny_processor: Processor, monkeypatch: Any
) -> None:
    torch.manual_seed(0)
    model = MultimodalLM.from_recipe(recipe(kind, *more))
    assert parted(model)
    for parameter in model.language.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    texts = ("What is there to see, and why?", "Hello", "So it is")
    batch = tiny_processor([talk("Look", text) for text in texts], pack=pack)
    batch["labels"] = torch.where(batch.labels == -100, -100, batch.labels % 150)
    scale = torch.rand(batch.labels.shape)
    for more_words in ({}, {"num_items_in_batch": 7}, {"loss_scale": scale}):
        words = {**batch.inputs(mask=False), "labels": batch.labels, **more_words}
        whole, expected = taught(model, words)
        for chunk in (loss.CHUNK, 5 * model.vocab_size):
            monkeypatch.setattr(loss, "CHUNK", chunk)
            alone, grads = taught(model, {**words, "skip_logits": True})
            torch.testing.assert_close(alone, whole, atol=1e-6, rtol=1e-6)
            assert grads.keys() == expected.keys()
            for name, grad in grads.items():
                torch.testing.assert_close(grad, expected[name], atol=1e-5, rtol=1e-5, msg=name)


def test_under_a_frozen_head_the_rest_learns_the_same_and_no_logits_are_made_twice(
    tiny_model: MultimodalLM, tiny_processor: Processor, monkeypatch: Any
) -> None:
    batch = tiny_processor([talk("Look", "at this"), talk("Look", "there and there")])
    scale = torch.rand(batch.labels.shape)
    words = {**batch.inputs(), "labels": batch.labels, "loss_scale": scale, "skip_logits": True}
    model = copy.deepcopy(tiny_model)
    whole, expected = taught(model, words)
    head: Any = model.get_output_embeddings()
    rows: list[int] = []
    monkeypatch.setattr(loss, "CHUNK", 3 * tiny_model.vocab_size)
    head.weight.requires_grad_(False)
    with head.register_forward_hook(lambda _, given, __: rows.append(given[0].shape[1])):
        alone, grads = taught(model, words)
    assert sum(rows) == batch.targets and max(rows) == 3
    torch.testing.assert_close(alone, whole, atol=1e-6, rtol=1e-6)
    assert set(expected) - set(grads) == {"language.model.embed_tokens.weight"}  # one with the head
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], atol=1e-6, rtol=1e-5, msg=name)


def test_what_learns_between_body_and_frozen_head_learns(
    tiny_processor: Processor, monkeypatch: Any
) -> None:
    base = recipes.load("nano", TINY).language.hf_config()
    words = {word: getattr(base, word) for word in ("vocab_size", "hidden_size", "pad_token_id")}
    words |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    words |= dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1)
    config = json.dumps({"model_type": "modernbert-decoder", **words})
    model = MultimodalLM.from_recipe(recipes.load("nano", (*TINY, f"language.config={config}")))
    assert parted(model)
    for parameter in model.language.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    given = tiny_processor([talk("Look", "at this"), talk("Look", "there and there")])
    batch = {**given.inputs(), "labels": given.labels, "skip_logits": True}
    head: Any = model.get_output_embeddings()
    head.requires_grad_(False)
    _, grads = taught(model, batch)
    monkeypatch.setattr(forms, "headed", lambda *_: False)
    model._headed = None
    _, expected = taught(model, batch)
    assert "language.lm_head.dense.weight" in expected
    assert set(grads) == set(expected)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], atol=1e-6, rtol=1e-4, msg=name)


def test_logits_are_made_nowhere_else(
    tiny_model: MultimodalLM, tiny_processor: Processor, monkeypatch: Any
) -> None:
    batch = tiny_processor([talk("Look", "at this"), talk("Look", "there and there")])
    rows: list[int] = []
    hook = tiny_model.get_output_embeddings().register_forward_hook(  # type: ignore[union-attr]
        lambda _, given, __: rows.append(given[0].shape[:-1].numel())
    )
    with hook:
        words = {**batch.inputs(), "labels": batch.labels, "skip_logits": True}
        output = tiny_model(**words)
        assert output.logits is None and rows == [batch.targets]
        monkeypatch.setattr(loss, "CHUNK", 3 * tiny_model.vocab_size)
        tiny_model(**words)
    assert max(rows[1:]) == 3 and sum(rows[1:]) == batch.targets
    assert tiny_model.language.base_model.forward.__name__ == "forward"
    assert "forward" not in vars(tiny_model.language.base_model)


def test_nothing_learned_gives_nothing_and_reaches_every_part(
    tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    batch = tiny_processor([talk("Look", "at this")])
    labels = torch.full_like(batch.labels, -100)
    model = copy.deepcopy(tiny_model)
    found, grads = taught(model, {**batch.inputs(), "labels": labels, "skip_logits": True})
    assert found == 0 and grads and not any(grad.any() for grad in grads.values())


def test_a_body_that_is_no_body_takes_the_long_way(tiny_processor: Processor) -> None:
    torch.manual_seed(0)
    model = MultimodalLM.from_recipe(recipe("llama4_text"))
    assert not parted(model)
    batch = tiny_processor([talk("Look", "at this")])
    words = {**batch.inputs(), "labels": batch.labels}
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(**words, skip_logits=True).loss, model(**words).loss)
