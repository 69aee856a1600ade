"""Every optimizer behind the word: it learns, keeps state for what learns alone, and resumes to the bit."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from omnimix.compose.model import MultimodalLM
from omnimix.errors import TrainError
from omnimix.train import optim, optimizers
from omnimix.train.run import train
from omnimix.train.settings import OptimizerSpec
from tests.train.runs import Write, metrics, same_weights

NAMES = [name for name in get_args(optimizers.Name) if not name.startswith("paged")]


class Toy(nn.Module):
    """A table, a matrix, a vector and a head, of which the first layer is frozen; wide enough for 8 bits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(8, 64)
        self.table = nn.Embedding(96, 64)
        self.matrix = nn.Linear(64, 80)
        self.head = nn.Linear(80, 96)
        self.frozen.requires_grad_(False)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, seed: int) -> torch.Tensor:
        draw = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, 96, (12,), generator=draw)
        given = self.frozen(torch.randn(12, 8, generator=draw)) + self.table(ids)
        return nn.functional.cross_entropy(self.head(self.matrix(given)), ids)


def stepped(model: Toy, optimizer: Any, seeds: Iterable[int]) -> list[float]:
    losses = []
    for seed in seeds:
        optimizer.zero_grad()
        loss = model(seed)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_with_state_for_what_learns_and_goes_on_from_its_own(name: Any) -> None:
    model, spec = Toy(), OptimizerSpec(name=name, lr=0.02)
    optimizer = optim.optimizer(model, spec)
    losses = stepped(model, optimizer, [0] * 8)
    assert losses[-1] < losses[0] - 0.2
    learned = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for p, state in optimizer.state.items() if state} == learned
    kept = copy.deepcopy(optimizer.state_dict())
    before = {n: t.clone() for n, t in model.state_dict().items()}
    straight = stepped(model, optimizer, range(8, 11))
    other = Toy()
    other.load_state_dict(before)
    resumed = optim.optimizer(other, spec)
    resumed.load_state_dict(kept)
    assert stepped(other, resumed, range(8, 11)) == straight
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_state_is_smaller_where_it_is_said_to_be() -> None:
    bytes_: dict[str, int] = {}
    for name in NAMES:
        model = Toy()
        optimizer = optim.optimizer(model, OptimizerSpec(name=name))
        stepped(model, optimizer, range(1))
        bytes_[name] = optimizers.held(optimizer)
    whole = bytes_["adamw"]
    assert bytes_["muon"] < 0.9 * whole  # one moment a matrix
    assert bytes_["adamw_8bit"] < 0.5 * whole  # small tensors stay as they are
    assert bytes_["adafactor"] < 0.05 * whole


def test_muon_takes_matrices_and_leaves_tables_to_adamw() -> None:
    model = Toy()
    optimizer = optim.optimizer(model, OptimizerSpec(name="muon", lr=0.01))
    stepped(model, optimizer, range(1))
    muon = {id(p) for g in optimizer.param_groups if g["muon"] for p in g["params"]}
    assert muon == {id(model.matrix.weight)}
    assert set(optimizer.state[model.matrix.weight]) == {"momentum_buffer"}
    assert "exp_avg_sq" in optimizer.state[model.table.weight]
    # The rate of a group is the one that is used, as schedules set it.
    before = model.matrix.weight.detach().clone()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    stepped(model, optimizer, range(1, 2))
    assert torch.equal(model.matrix.weight, before)


@pytest.mark.parametrize("name", ["adamw_8bit", "adafactor", "muon"])
def test_a_run_resumes_exactly(name: str, write: Write, tmp_path: Path) -> None:
    path = write(stages=[{"max_steps": 4, "optimizer": {"name": name}, "save_steps": 2}])

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 2:
            raise KeyboardInterrupt

    train(path, out=tmp_path / "straight")
    assert not train(path, out=tmp_path / "cut", listener=stop).finished
    assert train(path, out=tmp_path / "cut").steps == 2
    same_weights(tmp_path / "straight", tmp_path / "cut")
    assert metrics(tmp_path / "straight") == metrics(tmp_path / "cut")


def test_words_that_it_lacks_and_a_missing_package_are_refused(
    tiny_model: MultimodalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValidationError, match="adafactor has no betas"):
        OptimizerSpec(name="adafactor", betas=(0.9, 0.99))
    with pytest.raises(ValidationError, match="name"):
        OptimizerSpec.model_validate({"name": "sgd"})
    with pytest.raises(TrainError, match="pages a GPU's memory, and this device is cpu"):
        optim.optimizer(tiny_model, OptimizerSpec(name="paged_adamw_8bit"))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(TrainError, match="adamw_8bit needs bitsandbytes"):
        optim.optimizer(tiny_model, OptimizerSpec(name="adamw_8bit"))
