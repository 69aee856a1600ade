"""Mixture, batches, schedule and parameter groups."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from omnimix.compose.batch import Batch
from omnimix.compose.processor import Processor
from omnimix.data.mixture import Batches, Mixture, MixturePart, loader
from omnimix.data.sources import JsonlSource
from omnimix.errors import RecipeError, TrainError
from omnimix.train import optim
from omnimix.train.settings import OptimizerSpec, ScheduleSpec
from omnimix_scenes.source import ScenesSource


def finite(folder: Path, name: str, count: int) -> JsonlSource:
    turns = [{"role": "user", "content": ["a"]}, {"role": "assistant", "content": ["b"]}]
    rows = [json.dumps({"id": f"{name}{i}", "turns": turns}) for i in range(count)]
    (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return JsonlSource(path=f"{name}.jsonl")


def mixed(folder: Path, seed: int = 0, **weights: float) -> Mixture:
    parts = [MixturePart(data=finite(folder, n, 7), weight=w) for n, w in weights.items()]
    return Mixture(tuple(parts), folder, seed)


def test_shares_are_exact_in_every_thousand(tmp_path: Path) -> None:
    mixture = mixed(tmp_path, a=1, b=2, c=5)
    for block in (0, 3):
        names = [mixture[n].id[0] for n in range(block * 1000, (block + 1) * 1000)]
        assert Counter(names) == {"a": 125, "b": 250, "c": 625}


def test_a_rare_dataset_widens_the_block_until_it_has_a_place(tmp_path: Path) -> None:
    mixture = mixed(tmp_path, a=1, b=6999)
    for block in (0, 2):
        names = [mixture[n].id[0] for n in range(block * 7000, (block + 1) * 7000)]
        assert Counter(names) == {"a": 1, "b": 6999}
    assert sum(mixed(tmp_path, a=1, b=1700).counts) == 1000  # rounded up to one place


def test_a_dataset_that_would_never_be_seen_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="dataset 2 of the mixture has a share of 1e-07"):
        mixed(tmp_path, a=1, b=1e-7)


@pytest.mark.parametrize("weights", [{"a": 1.0}, {"a": 1.0, "b": 3.0}])
def test_each_record_comes_once_a_round(weights: dict[str, float], tmp_path: Path) -> None:
    mixture = mixed(tmp_path, **weights)
    ids = [found for found in (mixture[n].id for n in range(2000)) if found[0] == "a"]
    rounds = [tuple(ids[i : i + 7]) for i in range(0, len(ids) - 6, 7)]
    assert all(len(set(one)) == 7 for one in rounds)
    assert len(set(rounds)) > 1


def test_a_place_depends_on_seed_and_number_alone(tmp_path: Path) -> None:
    one = mixed(tmp_path, a=1, b=1)
    straight = [one[n].id for n in range(40)]
    assert [mixed(tmp_path, a=1, b=1)[n].id for n in reversed(range(40))] == straight[::-1]
    assert [mixed(tmp_path, seed=1, a=1, b=1)[n].id for n in range(40)] != straight


def equal(one: Batch, other: Batch) -> bool:
    return (
        one.ids == other.ids
        and torch.equal(one.input_ids, other.input_ids)
        and torch.equal(one.labels, other.labels)
        and one["items"].keys() == other["items"].keys()
        and all(
            torch.equal(a, b)
            for name in one["items"]
            for a, b in zip(one["items"][name].inputs, other["items"][name].inputs, strict=True)
        )
    )


def test_any_number_of_workers_gives_equal_batches(
    tmp_path: Path, tiny_processor: Processor
) -> None:
    parts = (
        MixturePart(data=ScenesSource(seed=3, questions=2), weight=2),
        MixturePart(data=finite(tmp_path, "a", 3)),
    )

    def batches(first: int, count: int) -> Batches:
        return Batches(Mixture(parts, tmp_path, 0), tiny_processor, 3, first, count, pack=False)

    runs = [list(loader(batches(0, 4), workers)) for workers in (0, 1, 2)]
    assert [len(run) for run in runs] == [4, 4, 4]
    for run in runs[1:]:
        assert all(equal(a, b) and d == e for (a, d), (b, e) in zip(runs[0], run, strict=True))
    later = list(loader(batches(2, 2), 0))
    assert all(equal(a, b) for (a, _), (b, _) in zip(runs[0][2:], later, strict=True))


def test_the_rate_rises_holds_and_falls() -> None:
    schedule = ScheduleSpec(warmup_steps=4, hold=0.5, min_lr_ratio=0.1)
    rates = [optim.rate(step, 20, 2.0, schedule) for step in range(20)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4:11] == [2.0] * 7
    assert rates[15] == pytest.approx(0.2 + 1.8 * 0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert optim.rate(20, 20, 2.0, schedule) == pytest.approx(0.2)
    assert optim.rate(0, 10, 1.0, ScheduleSpec(warmup_steps=0)) == 1.0


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(3, 4)
        self.pos_embed = nn.Parameter(torch.zeros(1, 2, 4))
        self.eye = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(4)


def test_matrices_decay_and_nothing_else() -> None:
    net = Net()
    spec = OptimizerSpec(lr=0.5, weight_decay=0.1, lr_scale={"eye.*": 0.2})
    optim.set_trainable(net, ["-norm.weight", "*"])
    names = {id(p): name for name, p in net.named_parameters()}
    found = {
        names[id(p)]: (group["weight_decay"], group["lr"])
        for group in optim.groups(net, spec)
        for p in group["params"]  # type: ignore[attr-defined]
    }
    assert found == {
        "embed.weight": (0.0, 0.5),
        "pos_embed": (0.0, 0.5),
        "eye.weight": (0.1, 0.1),
        "eye.bias": (0.0, 0.1),
        "head.weight": (0.1, 0.5),
        "head.bias": (0.0, 0.5),
        "norm.bias": (0.0, 0.5),
    }


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ({"lr_scale": {"eye": 0.1, "eyes": 0.1}}, "lr_scale"),
        ({"no_weight_decay": ["*.bias", "*.biass"]}, "no_weight_decay"),
        ({"lr_scale": {"adapters": 0.1}}, "lr_scale"),
    ],
)
def test_a_pattern_of_the_optimizer_that_matches_nothing_is_refused(
    words: dict[str, Any], where: str
) -> None:
    wrong = "eyes|\\*\\.biass|adapters"
    with pytest.raises(TrainError, match=f"optimizer.{where}: the pattern '({wrong})' matches no"):
        optim.groups(Net(), OptimizerSpec(**words))


def test_a_pattern_of_the_optimizer_may_mean_what_is_frozen() -> None:
    net = Net()
    optim.set_trainable(net, ["head"])
    spec = OptimizerSpec(lr_scale={"eye": 0.5}, no_weight_decay=("*.bias", "norm.*"))
    assert {group["factor"] for group in optim.groups(net, spec)} == {1.0}


def test_the_first_pattern_that_matches_wins() -> None:
    net = Net()
    assert optim.set_trainable(net, ["-eye.bias", "eye.*", "head.weight"]) == 16 + 12
    learned = {name for name, p in net.named_parameters() if p.requires_grad}
    assert learned == {"eye.weight", "head.weight"}
