"""Adapters: where they sit, what they change, and what is left of them when they are merged."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import omnimix
from omnimix.compose import adapters, recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.convert.layouts import convert
from omnimix.errors import CheckpointError, OmnimixError, RecipeError
from omnimix.types import Media, Sample, Turn
from tests.conftest import TINY

BOTH = "adapters=[{kind: %s, r: 4, lora_alpha: 8}, {kind: %s, part: '*.encoders.*', r: 2}]"


def adapted(kind: str) -> Recipe:
    return recipes.load("nano", (*TINY, BOTH % (kind, kind)))


def built(recipe: Recipe, moved: bool = False) -> MultimodalLM:
    """A model whose adapters have learned something, where asked."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MultimodalLM.from_recipe(recipe).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if moved and adapters.is_adapter(name):
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def sample(colour: str = "red", question: str = "What is here?") -> Sample:
    asked = Turn("user", (Media.image(Image.new("RGB", (64, 48), colour)), question))
    return Sample((asked, Turn("assistant", ("a red ring",))))


def logits(model: MultimodalLM, processor: Processor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**processor([sample()]).inputs()).logits
    return found


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_they_change_nothing_until_they_have_learned(kind: str, tiny_processor: Processor) -> None:
    recipe = adapted(kind)
    plain = logits(built(recipe.without_adapters()), tiny_processor)
    torch.testing.assert_close(logits(built(recipe), tiny_processor), plain, atol=1e-5, rtol=0)
    assert not torch.allclose(logits(built(recipe, moved=True), tiny_processor), plain, atol=1e-2)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_saved_and_merged_models_answer_the_same(
    kind: str, tiny_processor: Processor, tmp_path: Path
) -> None:
    model = built(adapted(kind), moved=True)
    expected = logits(model, tiny_processor)
    model.save_pretrained(tmp_path / "adapted")
    Processor(model.recipe, tiny_processor.weave.tokenizer).save_pretrained(tmp_path / "adapted")
    convert(tmp_path / "adapted", tmp_path / "merged", merge=True)
    one, other = (omnimix.load(tmp_path / name) for name in ("adapted", "merged"))
    assert len(one.model.recipe.adapters) == 2 and not other.model.recipe.adapters
    assert not adapters.names_adapters(other.model.state_dict())
    assert torch.equal(logits(one.model, tiny_processor), expected)
    torch.testing.assert_close(logits(other.model, tiny_processor), expected, atol=1e-5, rtol=1e-5)
    asked = {"image": Image.new("RGB", (64, 48), "blue"), "max_new_tokens": 6}
    assert one.answer("What is here?", **asked) == other.answer("What is here?", **asked)
    with pytest.raises(CheckpointError, match="no adapters to merge"):
        convert(tmp_path / "merged", tmp_path / "again", merge=True)
    assert not (tmp_path / "again").exists()


def test_large_logits_are_merged(
    tiny_processor: Processor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding grows with the logits (40 and more in released models), an error of a thousandth does not pass."""
    model = built(adapted("lora"), moved=True)
    head = model.get_output_embeddings()
    assert head is not None
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if adapters.is_adapter(name):
                parameter.mul_(
                    20
                )  # what is merged is large against what it is merged into, as after training
        size = float(logits(model, tiny_processor).abs().max())
        for table in {
            id(t): t for t in (head.weight, model.get_input_embeddings().weight)
        }.values():
            table.mul_(45 / size)
    size = float(logits(model, tiny_processor).abs().max())
    assert size > 40
    model.save_pretrained(tmp_path / "adapted")
    Processor(model.recipe, tiny_processor.weave.tokenizer).save_pretrained(tmp_path / "adapted")
    checks = convert(tmp_path / "adapted", tmp_path / "merged", merge=True)
    found = next(check for check in checks if check.stage == "logits")
    assert found.tolerance == pytest.approx(1e-4 * size, rel=0.5)
    right = MultimodalLM.merge

    def wrong(self: MultimodalLM) -> MultimodalLM:
        merged = right(self)
        merged.get_output_embeddings().weight.data.mul_(1.001)  # type: ignore[union-attr]
        return merged

    monkeypatch.setattr(MultimodalLM, "merge", wrong)
    with pytest.raises(CheckpointError, match="logits"):
        convert(tmp_path / "adapted", tmp_path / "again", merge=True)


def test_the_layers_they_sit_on() -> None:
    found = adapters.layers(built(adapted("lora")))
    ends = {name.rsplit(".", 1)[-1] for name in found if name.startswith("language.")}
    attention, mlp = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}
    assert ends == attention | mlp, "all linear layers but the head"
    inside = {name for name in found if not name.startswith("language.")}
    assert inside and all(".encoders.0." in name for name in inside)
    few = recipes.load("nano", (*TINY, "adapters=[{target_modules: [q_proj, 'layers.0.mlp.*']}]"))
    ends = {name.rsplit(".", 1)[-1] for name in adapters.layers(built(few))}
    assert ends == {"q_proj"} | mlp


def test_every_weight_still_learns_where_nobody_says_otherwise() -> None:
    model = built(adapted("dora"))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not hasattr(model, "peft_config")


def test_fresh_adapters_rest_until_they_learn_or_have_learned() -> None:
    model = built(adapted("lora"))
    found = list(adapters.layers(model).values())
    assert found and not any(layer.disable_adapters for layer in found)
    model.requires_grad_(False)
    adapters.rest(model)
    assert all(layer.disable_adapters for layer in found)
    found[0].lora_A.requires_grad_(True)
    with torch.no_grad():
        found[1].lora_B["default"].weight[0, 0] = 1.0
    adapters.rest(model)
    assert [layer.disable_adapters for layer in found[:3]] == [False, False, True]
    learns = {name for name, p in found[0].named_parameters() if p.requires_grad}
    assert learns == {"lora_A.default.weight"}
    assert not any(p.requires_grad for p in found[1].parameters())


@pytest.mark.parametrize("autocast", [False, True])
def test_a_layer_gives_what_pefts_own_gives_and_so_do_its_gradients(autocast: bool) -> None:
    from peft.tuners.lora import Linear

    model = built(recipes.load("nano", (*TINY, "adapters=[{r: 3, lora_alpha: 7}]")), moved=True)
    layer = next(iter(adapters.layers(model).values()))
    assert type(layer) is not Linear and isinstance(layer, Linear)
    thin = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    given = torch.randn(1, 5, layer.in_features)
    found = []
    for forward in (type(layer).forward, Linear.forward):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = forward(layer, given)
        found.append((output, *torch.autograd.grad(output.float().square().sum(), thin)))
        assert output.dtype == (torch.bfloat16 if autocast else torch.float32)
    for own, peft in zip(*found, strict=True):
        assert own.abs().max() > 0
        near = 2e-2 * float(peft.detach().abs().max()) if autocast else 1e-5
        torch.testing.assert_close(own, peft, atol=near, rtol=near)
    layer.enable_adapters(False)
    torch.testing.assert_close(layer(given), layer.base_layer(given), atol=0, rtol=0)


def test_packed_samples_are_seen_alone_under_adapters(tiny_processor: Processor) -> None:
    model = built(adapted("lora"), moved=True)
    woven = [tiny_processor.weave(sample(c)) for c in ("red", "blue")]
    with torch.no_grad():
        packed = model(**tiny_processor.batch(woven, pack=True).inputs()).logits[0]
        alone = [model(**tiny_processor.batch([one]).inputs()).logits[0] for one in woven]
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("{part: speech}", "adapters.0.part: 'speech' is the name of no part.*image, region"),
        (
            "{target_modules: [lm_head]}",
            "no linear layer of 'language' is called 'lm_head'.*q_proj",
        ),
        ("{target_modules: [q_prj]}", "adapters.0.target_modules"),
        ("{r: 0}", "adapters.0.r"),
        ("{kind: lara}", "adapters.0.kind"),
        ("{lora_alphas: 3}", "unknown word 'lora_alphas'; did you mean 'lora_alpha'"),
        (
            "{part: language}, {target_modules: [q_proj]}",
            "adapters.1: .*q_proj has an adapter already",
        ),
    ],
)
def test_refused(words: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        MultimodalLM.on_meta(recipes.load("nano", (*TINY, f"adapters=[{words}]")))


def test_without_peft(monkeypatch: pytest.MonkeyPatch, tiny_recipe: Recipe) -> None:
    recipe = adapted("lora")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OmnimixError, match=r"peft, which is not installed.*omnimix\[train\]"):
        built(recipe)
    built(tiny_recipe)
