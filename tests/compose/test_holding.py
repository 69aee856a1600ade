"""Quantized weights: which layers, what is refused, and the real thing where bitsandbytes is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

import omnimix
from omnimix.checkpoints import base
from omnimix.checkpoints.tables import Ignore
from omnimix.compose import holding, recipe as recipes
from omnimix.errors import OmnimixError
from omnimix.families.sphinx import names as sphinx
from tests.cases import golden
from tests.conftest import TINY


@pytest.mark.parametrize("case", ["sphinx/ens_1shard", "sphinx/ens5_2shard"])
def test_the_block_list_of_sphinx(case: str) -> None:
    folder, facts, _ = golden(case)
    release = base.open_release(folder / "checkpoint")
    names = {f"{name}.weight" for name in holding.quantized(release.recipe)}
    plan = sphinx.table(release.recipe).writing(names)
    theirs = {name for move in plan.moves for name in move.foreign}
    assert not any(isinstance(move.rule, Ignore) for move in plan.moves)
    assert theirs == {f"{n}.weight" for n in facts["results"]["quant"]["quantised_linear_modules"]}


def test_a_shared_head_stays_as_it_is() -> None:
    names = holding.quantized(recipes.load("nano", TINY))
    assert names and holding.HEAD not in names
    own = recipes.load("nano", (*TINY, "language.config.tie_word_embeddings=false"))
    assert holding.HEAD in holding.quantized(own)
    assert holding.keeps_head(recipes.load("xgen_mm")), "it gives the first of its rows alone"


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OmnimixError, match="unknown quantization"):
        omnimix.load("nano", quantization="int4")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OmnimixError, match="bitsandbytes, which is not installed") as caught:
        omnimix.load("nano", quantization="nf4")
    assert "pip install 'omnimix[quantize]'" in caught.value.sentence()


def test_a_device_that_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(holding, "_served", lambda: {"cuda"})
    with pytest.raises(OmnimixError, match="does not serve cpu") as caught:
        holding.Quantized("nf4", "cpu", torch.float32)
    assert "cuda" in caught.value.sentence()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scheme", sorted(holding.SCHEMES))
def test_a_quantised_model_answers(wide_folder: Path, scheme: str) -> None:
    assistant = omnimix.load(wide_folder, device="cpu", quantization=scheme)
    model = assistant.model
    wanted = set(holding.quantized(model.recipe))
    plain = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    few = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.dtype in (torch.uint8, torch.int8)
    }
    assert few == wanted and not plain & wanted
    whole = omnimix.load(wide_folder)
    assert model.get_memory_footprint() < whole.model.get_memory_footprint()
    assert isinstance(assistant.answer("What is here?", max_new_tokens=4), str)
