"""Stages that read a finite dataset in rounds, through the ordinary run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnimix.errors import RecipeError, TrainError
from omnimix.train import optim
from omnimix.train.objectives import Sft
from omnimix.train.run import train
from omnimix.train.settings import OptimizerSpec, ScheduleSpec
from tests.train.runs import Write, metrics, same_weights
from tests.train.test_parts import Net
from tests.train.test_resume import stop_at

ROUNDS = {
    "mixture": [{"data": {"kind": "llava", "path": "talks.json"}}],
    "order": "by_modality",
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 2,
    "max_steps": None,
    "max_length": 60,
    "objective": {"kind": "sft", "average": "micro_batch"},
    "schedule": {"warmup_ratio": 0.5, "zero_first": True},
    "save_steps": 2,
}


@pytest.fixture
def rounds(write: Write, tmp_path: Path) -> Path:
    talks = [("<image>What is it?", f"A cup{'s' * i}.") for i in range(3)]
    talks += [("How are you?", f"Well{'l' * i}.") for i in range(2)]
    records = [
        {
            "id": str(i),
            "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}],
            **({"image": "a.png"} if "<image>" in q else {}),
        }
        for i, (q, a) in enumerate(talks)
    ]
    (tmp_path / "talks.json").write_text(json.dumps(records))
    return write(
        stages=[
            ROUNDS,
            {**ROUNDS, "order": "shuffled", "template": "caption", "num_train_epochs": 1},
        ]
    )


def test_rounds_train_and_resume(rounds: Path, tmp_path: Path) -> None:
    whole = train(rounds, out=tmp_path / "straight")
    lines = metrics(tmp_path / "straight")
    # Three records with a picture fill two batches of two, two without fill one; twice. Five shuffled
    # records make two whole steps.
    assert [line["steps"] for line in lines] == [6] * 6 + [2] * 2
    assert lines[0]["lr"] == 0.0 and lines[1]["lr"] > 0
    assert whole.finished and whole.dropped.count == 0
    assert not train(rounds, out=tmp_path / "cut", listener=stop_at(0, 3)).finished
    assert train(rounds, out=tmp_path / "cut").finished
    same_weights(tmp_path / "straight", tmp_path / "cut")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"order": "mixture", "num_train_epochs": 1, "max_steps": None}, "a mixture has no end"),
        (
            {"order": "shuffled", "num_train_epochs": None, "max_steps": None},
            "give max_steps or num_train_epochs",
        ),
    ],
)
def test_stages_need_a_length(write: Write, words: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        train(write(stages=[words]))


def test_an_endless_dataset_has_no_rounds(write: Write) -> None:
    data = {"mixture": [{"data": {"kind": "scenes"}}], "order": "shuffled"}
    with pytest.raises(TrainError, match="the dataset has no end"):
        train(write(stages=[data]))


def test_rates_from_zero_go_on_behind_the_horizon() -> None:
    schedule = ScheduleSpec(warmup_ratio=0.25, zero_first=True)
    rates = [optim.rate(step, 8, 2.0, schedule) for step in range(10)]
    assert rates[:3] == [0.0, 1.0, 2.0]
    assert rates[8] == pytest.approx(0.0) and rates[9] > rates[8]
    assert optim.rate(0, 8, 2.0, ScheduleSpec(warmup_ratio=0.0, zero_first=True)) == 0.0
    assert optim.rate(0, 8, 2.0, ScheduleSpec(warmup_ratio=0.25)) == 1.0


def test_embeddings_decay_where_only_vectors_are_spared() -> None:
    net = Net()
    names = {id(p): name for name, p in net.named_parameters()}
    found = {
        names[id(p)]: group["weight_decay"]
        for group in optim.groups(net, OptimizerSpec(weight_decay=0.1, no_weight_decay="vectors"))
        for p in group["params"]  # type: ignore[attr-defined]
    }
    assert {name for name, decay in found.items() if decay == 0.1} == {
        "embed.weight",
        "pos_embed",
        "eye.weight",
        "head.weight",
    }


def test_parts_may_be_averaged_by_themselves() -> None:
    assert Sft().counts([2, 6]) == [8, 8]
    assert Sft(average="micro_batch").counts([2, 6]) == [4, 12]
    assert Sft(average="micro_batch").counts([0, 6]) == [2, 12]
