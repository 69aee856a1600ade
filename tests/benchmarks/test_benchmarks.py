"""Benchmarks run, and time things that are equal. No time is asserted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import (
    harness,
    llava,
    packing,
    preprocess,
    splicing,
    train,
    trainers,
    training,
)
from tests.conftest import TINY


@pytest.mark.parametrize("style", ["siglip", "clip"])
def test_prepared_pictures_are_the_same(style: str) -> None:
    ways = getattr(preprocess, style)(64)
    image = preprocess.picture(160, 120)
    own = ways.pop("ours")(image)
    assert own.shape == (3, 64, 64) and own.std() > 0.1
    assert len(ways) == 2
    for way in ways.values():
        assert torch.allclose(way(image), own, atol=1e-5)


def test_packed_and_padded_learn_the_same() -> None:
    (pair,) = packing.pairs(TINY)
    assert torch.allclose(pair.ours(), pair.peer(), atol=1e-5)


def test_both_sides_of_training_come_to_the_same() -> None:
    for pair in training.pairs(TINY):
        assert torch.allclose(pair.ours(), pair.peer(), atol=1e-4), pair.name


def test_splicing_changes_the_holes_alone() -> None:
    (pair,) = splicing.pairs(count=2, width=8)
    with torch.no_grad():
        ours, plain = pair.ours(), pair.peer()
    assert ours.shape == plain.shape
    same = (ours == plain).all(-1).float().mean()
    assert 0 < same < 1


def test_ratios_are_the_peers_time_over_ours(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[str] = []
    pair = harness.Pair("x", lambda: calls.append("a"), lambda: calls.append("b"), "y")
    (result,) = harness.report([pair], ["--rounds", "3"])
    assert len(result.ours) == len(result.peer) == 3
    assert calls == [
        "b",
        "a",
        "a",
        "b",
        "b",
        "a",
        "a",
        "b",
    ]  # one round to warm up, then turn about
    fixed = harness.Result(pair, (1.0, 2.0, 4.0), (2.0, 2.0, 2.0))
    assert fixed.ratios() == [2.0, 1.0, 0.5]
    assert harness.spread([0.5, 1.0, 2.0]) == (0.75, 1.0, 1.5)
    assert "ratio  1.00 [0.75, 1.50]" in fixed.line()
    assert "ratio" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("learns", "names"),
    [
        ("full", ("packed", "trl")),
        ("lora", ("padded", "trainer")),
        ("connector", ("warm", "trainer")),
    ],
)
def test_all_sides_take_the_same_steps(learns: str, names: tuple[str, str], tmp_path: Path) -> None:
    """Equal losses before the first step and behind it: the same weights, rows and gradients."""
    size = llava.SIZES["tiny"]
    torch.manual_seed(0)
    theirs = llava.peer(size)
    rows = llava.rows(size, 2 * size.batch, alike=False)
    work = trainers.Work(size, rows, learns, False, torch.device("cpu"))
    found = {}
    for name in names:
        side = train.sides(size, learns, tmp_path, theirs)[name]
        before = train.state(theirs)
        found[name] = side(work, 2).losses
        theirs.load_state_dict(before)
    assert found[names[0]] == pytest.approx(found[names[1]], abs=2e-4)
    assert 0 < train.operations(work, [0]) < 1e12


def test_ratios_of_training_are_of_all_rounds_and_spread_over_them() -> None:
    size = llava.SIZES["tiny"]
    rows = llava.rows(size, 6 * size.batch, alike=False)
    each = 3 * size.batch
    works = [
        trainers.Work(size, rows[n * each : (n + 1) * each], "full", False, torch.device("cpu"))
        for n in range(2)
    ]
    taken = {
        "packed": [trainers.Taken([9, 1, 1], 0, [2.0]), trainers.Taken([9, 1, 2], 0, [2.0])],
        "trainer": [trainers.Taken([9, 2, 2], 0, [2.0]), trainers.Taken([9, 6, 6], 0, [2.0])],
        "trl": [trainers.Taken([9, 4, 2], 0, [2.0])],
    }
    result = train.compared(train.MIXED, taken, works, range(1, 3))
    assert (result["rounds"], result["steps"]) == (2, 4)
    sides = result["sides"]
    assert sides["packed"]["over_trainer"] == {"whole": 16 / 5, "least": 2.0, "most": 4.0}
    # Of the one round it took part in, beside Trainer's same round; the spread is over its steps.
    assert sides["trl"]["over_trainer"] == {"whole": 4 / 6, "least": 0.5, "most": 1.0}
    tokens = [trainers.useful_tokens(work, range(1, 3)) for work in works]
    assert sides["packed"]["tokens_per_second"]["whole"] == pytest.approx(sum(tokens) / 5)
    assert tokens[0] != tokens[1]  # every round has rows of its own
    assert "| full, mixed lengths | trl |" in train.table([result], {})
