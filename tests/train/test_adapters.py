"""Training adapters: what learns, where it begins, and how it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import omnimix
from omnimix.compose.adapters import is_adapter
from omnimix.errors import OmnimixError, RecipeError, TrainError
from omnimix.train.run import train
from tests.conftest import TINY, WIDE
from tests.train.runs import Write, metrics, same_weights, weights
from tests.train.test_resume import stop_at


def with_adapters(kind: str = "lora", model: Sequence[str] = TINY) -> str:
    """An override of the training file that adds to its overrides of the recipe."""
    words = [*model, f"adapters=[{{kind: {kind}, r: 4, lora_dropout: 0.1}}]"]
    return f"set={words!r}"


def is_weight(name: str) -> bool:
    """No running statistics, which move without learning."""
    return "running_" not in name and "num_batches" not in name


LEARNS = "stages.0.trainable=[adapters, connectors]"


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_and_connectors_learn_from_a_plain_model(
    write: Write, tiny_folder: Path, tmp_path: Path, kind: str
) -> None:
    words = [with_adapters(kind), LEARNS, f"initial_checkpoint={tiny_folder}"]
    still = train(write(), [*words, "stages.0.optimizer.lr=1.0e-30"], out=tmp_path / "still").folder
    plain = train(
        write(),
        [
            f"set={list(TINY)!r}",
            f"initial_checkpoint={tiny_folder}",
            "stages.0.max_steps=1",
            "stages.0.trainable=[connectors]",
        ],
        out=tmp_path / "plain",
    ).folder
    # Dropout in the adapters' way changes nothing while B is 0, so the first loss is the start's.
    assert metrics(still)[0]["loss"] == pytest.approx(metrics(plain)[0]["loss"], abs=2e-5)
    moved = train(write(), words, out=tmp_path / "moved").folder
    before, after, start = (
        weights(still),
        weights(moved),
        load_file(tiny_folder / "model.safetensors"),
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(is_adapter(name) or ".connector." in name for name in changed)
    assert any(is_adapter(name) for name in changed) and not all(map(is_adapter, changed))
    for name, tensor in ((name, start[name]) for name in start if is_weight(name)):
        kept = before.get(name, before.get(name.replace(".weight", ".base_layer.weight")))
        assert kept is not None and torch.equal(kept, tensor), name


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_resume_equals_no_interruption(write: Write, tmp_path: Path, kind: str) -> None:
    words = [with_adapters(kind), LEARNS, "stages.0.packing=true"]
    train(write(), words, out=tmp_path / "straight")
    assert not train(write(), words, out=tmp_path / "cut", listener=stop_at(0, 3)).finished
    assert train(write(), words, out=tmp_path / "cut").finished
    same_weights(tmp_path / "straight", tmp_path / "cut")
    assert metrics(tmp_path / "straight") == metrics(tmp_path / "cut")


def test_a_start_with_adapters(write: Write, tmp_path: Path) -> None:
    first = train(write(), [with_adapters(), LEARNS], out=tmp_path / "first").folder
    start = f"initial_checkpoint={first / 'model'}"
    with pytest.raises(TrainError, match=r"has adapters, and the recipe has none.*omnimix merge"):
        train(write(), [start], out=tmp_path / "none")
    still = [with_adapters(), LEARNS, start, "stages.0.optimizer.lr=1.0e-30"]
    again = train(write(), still, out=tmp_path / "again").folder
    before, after = weights(first), weights(again)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before if is_weight(name))


def test_learning_adapters_needs_some(write: Write) -> None:
    with pytest.raises(TrainError, match=r"'adapters' matches no parameter.*adapters: \[\{part"):
        train(write(), [LEARNS])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_learn_beside_quantized_weights(
    write: Write, wide_folder: Path, tmp_path: Path, kind: str
) -> None:
    words = [
        with_adapters(kind, WIDE),
        LEARNS,
        f"initial_checkpoint={wide_folder}",
        "quantization=nf4",
    ]
    words += ["stages.0.optimizer.lr=0.01", "stages.0.max_steps=8"]
    straight = train(write(), words, out=tmp_path / "straight").folder
    losses = [line["loss"] for line in metrics(straight)]
    assert losses[-1] < losses[0]
    assert not train(write(), words, out=tmp_path / "cut", listener=stop_at(0, 3)).finished
    assert train(write(), words, out=tmp_path / "cut").finished
    same_weights(straight, tmp_path / "cut")
    found, start = weights(straight), load_file(wide_folder / "model.safetensors")
    name = "language.model.layers.0.self_attn.q_proj"
    assert torch.equal(found[f"{name}.base_layer.weight"], start[f"{name}.weight"]), "whole again"
    assert found[f"{name}.lora_B.default.weight"].abs().max() > 0
    assistant = omnimix.load(straight / "model", device="cpu", quantization="nf4")
    layer = assistant.model.get_submodule(name)
    assert layer.base_layer.weight.dtype == torch.uint8
    assert layer.lora_B["default"].weight.dtype == torch.float32
    with pytest.raises(OmnimixError, match="quantized weights cannot take up their adapters"):
        assistant.model.merge()
    assert isinstance(assistant.answer("What is here?", max_new_tokens=4), str)
    with pytest.raises(TrainError, match="is quantized and cannot learn"):
        train(write(), [*words, "stages.0.trainable=['*']"], out=tmp_path / "all")


def test_what_quantization_needs(write: Write, tiny_folder: Path) -> None:
    with pytest.raises(RecipeError, match="quantization needs initial_checkpoint"):
        train(write(), ["quantization=nf4"])
    with pytest.raises(TrainError, match="learns through adapters, and the recipe has none"):
        train(write(), ["quantization=nf4", f"initial_checkpoint={tiny_folder}"])
