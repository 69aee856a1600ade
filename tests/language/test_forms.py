"""Every causal language model of transformers: alone, padded, packed and apart it gives the same logits, or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch

from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import RecipeError
from omnimix.language import forms, packed
from omnimix.language.causal_lm import CausalLM
from tests.compose.conversations import talk
from tests.conftest import TINY
from tests.language.survey import EXPECTED, configured, found, names

FORMS = get_args(forms.Form)
FALCON = {"mamba_d_ssm": 96, "mamba_n_heads": 12, "mamba_d_head": 8}
SIZES = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}


def language(kind: str, **words: Any) -> CausalLM:
    return CausalLM(config={"model_type": kind, **SIZES, **words})


@pytest.mark.parametrize("name", names())
def test_the_same_logits_in_every_form_or_a_refusal(name: str) -> None:
    """`forms.yaml` holds what is refused; what is not there has to be right in every form."""
    refused, unmade = EXPECTED["refused"], EXPECTED["unmade"]
    told = found(name)
    assert isinstance(told, str) == (name in unmade), told
    if isinstance(told, list):
        assert told == refused.get(name, "").split()
        assert forms.headed(configured(name), "sdpa") == (name not in EXPECTED["whole"])


def test_nobody_leaves_the_list_unseen() -> None:
    assert not set(EXPECTED["refused"]) & set(EXPECTED["unmade"])
    assert len(EXPECTED["refused"]) + len(EXPECTED["unmade"]) < 0.6 * len(names())


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Our attention without one of its words."""

    def forget(word: str) -> None:
        whole = packed.attention

        def attention(*tensors: Any, **words: Any) -> Any:
            return whole(*tensors, **{k: v for k, v in words.items() if k != word})

        monkeypatch.setattr(packed, "attention", attention)
        forms._tried.cache_clear()

    yield forget
    monkeypatch.undo()
    packed.register()
    forms._tried.cache_clear()


@pytest.mark.parametrize(
    ("word", "kind", "where"),
    [
        ("sliding_window", "mistral", ["packed", "apart", "rows"]),
        ("sliding_window", "gemma3_text", ["packed", "apart", "rows"]),
        ("softcap", "gemma2", [*FORMS]),
        ("s_aux", "gpt_oss", [*FORMS]),
        ("cu_seq_lens_q", "llama", ["packed", "apart"]),
        ("seen", "llama", ["apart"]),
        ("rows", "llama", ["rows"]),
    ],
)
def test_what_our_attention_forgets_is_found(
    forgetful: Any, word: str, kind: str, where: list[str]
) -> None:
    forgetful(word)
    assert found(kind) == where


def test_a_windowed_recipe_answers_packed_as_alone(tiny_processor: Processor) -> None:
    """The real model, with samples longer than its window: what the tiny copy promises."""
    words = ("language.config.model_type=mistral", "language.config.sliding_window=6")
    torch.manual_seed(3)
    model = MultimodalLM.from_recipe(recipes.load("nano", (*TINY, *words))).eval()
    for parameter in model.language.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    samples = [
        talk("Look", text) for text in ("What is there to see, and why?", "Hello", "So it is")
    ]
    woven = [tiny_processor.weave(sample) for sample in samples]
    with torch.no_grad():
        together = model(**tiny_processor.batch(woven, pack=True).inputs()).logits[0]
        alone = [model(**tiny_processor.batch([each]).inputs()).logits[0] for each in woven]
        left = tiny_processor.batch(woven, side="left")
        padded = model(**left.inputs()).logits[left.attention_mask.bool()]  # type: ignore[union-attr]
    assert max(len(each) for each in woven) > 12
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(padded, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_gradients_pass_through_windows_caps_and_sinks() -> None:
    """Written out or by SDPA, per segment: the gradients of each segment alone."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 9, 8, dtype=torch.double) for heads in (4, 2, 2))
    sinks = torch.randn(4, dtype=torch.double)
    tensors = [each.requires_grad_() for each in (query, key, value, sinks)]
    module = torch.nn.Module()

    def run(cut: slice, borders: list[int]) -> torch.Tensor:
        parts = [each[:, :, cut] for each in tensors[:3]]
        words = {"sliding_window": 3, "softcap": 2.0, "s_aux": sinks}
        row = torch.tensor(borders, dtype=torch.int32)
        return packed.attention(module, *parts, None, cu_seq_lens_q=row, **words)[0]

    run(slice(0, 9), [0, 5, 9]).square().sum().backward()
    whole = [each.grad for each in tensors]
    for each in tensors:
        each.grad = None
    for cut in (slice(0, 5), slice(5, 9)):
        run(cut, [0, cut.stop - cut.start]).square().sum().backward()
    for together, each in zip(whole, tensors, strict=True):
        torch.testing.assert_close(together, each.grad)
    assert sinks.grad is not None and sinks.grad.abs().min() > 0


def test_a_recurrent_model_is_refused_in_packs_and_named() -> None:
    with pytest.raises(RecipeError, match="falcon_h1 cannot take packed samples") as caught:
        forms.check(language("falcon_h1", **FALCON), "packed")
    assert "set packing: false" in str(caught.value).lower()
    forms.check(language("falcon_h1", **FALCON), "right")


def test_a_model_that_needs_its_ids_is_refused_when_built() -> None:
    with pytest.raises(RecipeError, match="gemma3n_text cannot take the embeddings"):
        language("gemma3n_text", num_hidden_layers=5, num_kv_shared_layers=0).build()


def test_trying_leaves_no_trace() -> None:
    """Neither chance nor default type nor device of what is being built around it."""
    forms._tried.cache_clear()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.device("meta"):
        language("mistral", sliding_window=4).build()
        assert torch.empty(1).is_meta
    assert torch.equal(torch.rand(3), expected)
