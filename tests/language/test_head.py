"""Output heads with a bias, or with more rows than logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from omnimix.errors import RecipeError
from omnimix.language.causal_lm import CausalLM
from omnimix.language.head import Head, HeadSpec

CONFIG = {
    "model_type": "llama",
    "vocab_size": 8,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def test_rows_behind_the_width_give_no_logits() -> None:
    model = CausalLM(config=CONFIG, head=HeadSpec(bias=True, width=6)).build()
    head = model.get_output_embeddings()  # type: ignore[operator]
    assert isinstance(head, Head)
    assert head.weight.shape == (8, 16) and head.bias.shape == (8,)
    hidden = torch.randn(2, 3, 16)
    wanted = hidden @ head.weight[:6].T + head.bias[:6]
    torch.testing.assert_close(head(hidden), wanted)
    logits = model(input_ids=torch.tensor([[7, 1]])).logits  # all rows of the embedding are usable
    assert logits.shape == (1, 2, 6)
    logits.sum().backward()
    assert head.bias.grad is not None
    assert head.bias.grad[:6].ne(0).all() and head.bias.grad[6:].eq(0).all()


def test_without_words_nothing_changes() -> None:
    model = CausalLM(config=CONFIG, head=HeadSpec()).build()
    head = model.get_output_embeddings()  # type: ignore[operator]
    assert head.bias is None and head(torch.zeros(1, 16)).shape == (1, 8)


def test_more_logits_than_rows_are_refused() -> None:
    with pytest.raises(RecipeError, match="9 logits from a head of 8 rows"):
        CausalLM(config=CONFIG, head=HeadSpec(width=9)).build()


def test_starting_weights_fill_the_rows_they_have(tmp_path: Path) -> None:
    small = CausalLM(config={**CONFIG, "vocab_size": 5}).build()
    small.save_pretrained(tmp_path)  # type: ignore[operator]
    spec = CausalLM(config=CONFIG, weights=str(tmp_path), head=HeadSpec(bias=True, width=7))
    model = spec.build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    spec.start(model)
    after, theirs = model.state_dict(), small.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(after[name][:5], theirs[name])
        assert torch.equal(after[name][5:], before[name][5:])
    assert torch.equal(after["lm_head.bias"], before["lm_head.bias"])
    assert torch.equal(after["model.norm.weight"], theirs["model.norm.weight"])
