"""Parts that a run holds in bfloat16 while they are frozen."""

from __future__ import annotations

import json

import pytest
import torch

from omnimix.checkpoints import pretrained
from omnimix.compose import recipe as recipes
from omnimix.errors import TrainError
from omnimix.train import held
from omnimix.train.run import train
from tests.conftest import TINY
from tests.train.runs import Write, metrics, same_weights, weights
from tests.train.test_resume import stop_at
from tests.train.test_start import Heard

ENCODER = "modalities.image.branches.0.encoders.0"
ADAPTER = 'adapters=[{"part": "language", "r": 2}]'
BOTH = [*TINY, "language.dtype=bfloat16", f"{ENCODER}.dtype=bfloat16", ADAPTER]
LEARNS = "stages.0.trainable=[connectors, adapters]"


def words(*more: str, sets: list[str] = BOTH) -> list[str]:
    return [f"set={json.dumps(sets)}", LEARNS, *more]


def test_frozen_parts_are_bfloat16_and_what_learns_is_not(write: Write) -> None:
    heard = Heard()
    whole = train(write(), words(), write().parent / "whole", watcher=heard)
    said = [line for line in heard.said if line.startswith("held in bfloat16")]
    assert len(said) == 2 and all("saved in float32" in line for line in said)
    found = weights(whole.folder)
    floating = [tensor for tensor in found.values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floating} == {torch.float32}
    frozen = [name for name in found if name.endswith("base_layer.weight")]
    exact = [bool((found[name].bfloat16().float() == found[name]).all()) for name in frozen]
    assert frozen and all(exact)
    learned = next(n for n in found if "lora_B" in n)
    assert not (found[learned].bfloat16().float() == found[learned]).all()
    assert "dtype" not in recipes.load(whole.folder / "model").language.dump()
    plain = train(write(), words(sets=[*TINY, ADAPTER]), write().parent / "plain")
    near = zip(metrics(whole.folder), metrics(plain.folder), strict=True)
    assert all(abs(a["loss"] - b["loss"]) < 0.05 for a, b in near)


def test_a_stopped_run_goes_on_to_the_same_weights(write: Write) -> None:
    file, saved = write(), words("stages.0.save_steps=3")
    one = train(file, saved, file.parent / "one")
    cut = train(file, saved, file.parent / "two", listener=stop_at(0, 3))
    assert not cut.finished
    same_weights(one.folder, train(file, saved, file.parent / "two").folder)


@pytest.mark.parametrize(
    ("learns", "said"),
    [("[connectors, language]", "language.*learns"), ("['*']", "learns")],
)
def test_what_learns_is_held_in_float32(write: Write, learns: str, said: str) -> None:
    with pytest.raises(TrainError, match=said):
        train(write(), words(f"stages.0.trainable={learns}"))


def test_held_parts_keep_their_adapters_and_exact_tables() -> None:
    model, _ = pretrained.begin(recipes.load("nano", BOTH))
    adapters = {n for n, _ in model.named_parameters() if ".lora_" in n}
    before = {n: p.clone() for n, p in model.named_parameters() if n in adapters}
    held.hold(model, adapters, None)
    assert next(model.language.parameters()).dtype == torch.bfloat16
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters() if n in adapters)
    with pytest.raises(TrainError, match="the part is held as nf4"):
        held.hold(model, adapters, "nf4")
