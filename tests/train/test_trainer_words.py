"""Words of a stage that repeat what xGen-MM's trainer does."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from omnimix import config
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.data.length_groups import grouped
from omnimix.data.ordered import Rounds
from omnimix.data.sources import Source
from omnimix.errors import RecipeError
from omnimix.train import optim
from omnimix.train.settings import OptimizerSpec, ScheduleSpec, Stage
from omnimix.train.step import optimizer_step
from omnimix.types import Media, Sample, Turn
from tests.train.test_parts import Net


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ("cosine", [0.0, 2.0, 1.7071067811865475, 1.0]),
        ("linear", [0.0, 2.0, 1.5, 1.0]),
        ("constant", [0.0, 2.0, 2.0, 2.0]),
    ],
)
def test_rates_fall_in_three_shapes(shape: str, wanted: list[float]) -> None:
    words = {"lr_scheduler_type": shape, "warmup_steps": 1, "zero_first": True}
    schedule = ScheduleSpec(**words)  # type: ignore[arg-type]
    assert [optim.rate(step, 5, 2.0, schedule) for step in range(4)] == pytest.approx(wanted)
    plain = ScheduleSpec(lr_scheduler_type=shape, warmup_steps=0)  # type: ignore[arg-type]
    assert optim.rate(0, 4, 2.0, plain) == 2.0
    assert optim.rate(4, 4, 2.0, plain) == (2.0 if shape == "constant" else pytest.approx(0.0))


def test_nothing_is_spared_from_decay() -> None:
    (group,) = optim.groups(Net(), OptimizerSpec(weight_decay=0.1, no_weight_decay="nothing"))
    assert group["weight_decay"] == 0.1
    held = group["params"]
    assert isinstance(held, list) and len(held) == len(list(Net().parameters()))


def test_the_gradient_is_clipped_after_every_part(
    tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    def sample(answer: str) -> Sample:
        return Sample((Turn("user", ("What?",)), Turn("assistant", (answer,))), answer)

    parts = [tiny_processor([sample("A cup.")]), tiny_processor([sample("Two red cups.")])]
    norms = []
    for each in (False, True):
        words = {"max_grad_norm": 0.01, "clip_micro_batches": each, "lr": 1e-6}
        stage = Stage.model_validate(
            {"mixture": [{"data": "scenes"}], "max_steps": 1, "optimizer": words, "bf16": False}
        )
        model = copy.deepcopy(tiny_model)
        assert optim.set_trainable(model, ["*"])
        optimizer = optim.optimizer(model, stage.optimizer)
        norms.append(optimizer_step(model, optimizer, stage, 0, 1, parts).norms)
    once, often = norms
    assert len(once) == 1 and len(often) == 2
    # The first part's gradient was cut to 0.01 before the second was added.
    assert float(often[1]) < float(often[0]) + float(once[0])
    assert not torch.isclose(often[1], once[0])


class Records(Source):
    """Records of given lengths; those at even places have a picture."""

    def __init__(self, words: list[int]) -> None:
        self.words = words
        self.length = len(words)

    def __getitem__(self, index: int) -> Sample:
        text = " ".join(["word"] * self.words[index])
        picture = (Media.image("a.png"),) if index % 2 == 0 else ()
        return Sample((Turn("user", (*picture, text)),), str(index))


def test_rounds_by_length_are_the_grouped_order() -> None:
    sizes = [3, 9, 4, 1, 7, 8, 2, 5]
    rounds = Rounds(Records(sizes), "by_length", 4, accumulate=2, epochs=2, seed=42)
    signed = [size if place % 2 == 0 else -size for place, size in enumerate(sizes)]
    wanted = [grouped(signed, 2, epoch, 42, accumulate=2) for epoch in range(2)]
    assert [i for part in rounds.parts for i in part] == [i for order in wanted for i in order]
    assert {len(part) for part in rounds.parts} == {2} and rounds.steps == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"optimizer": {"max_grad_norm": -1}}, "optimizer.max_grad_norm"),
        ({"optimizer": {"max_grad_norm": math.nan}}, "optimizer.max_grad_norm"),
        ({"optimizer": {"lr": math.nan}}, "optimizer.lr"),
        ({"optimizer": {"lr": "nan"}}, "optimizer.lr"),
        ({"optimizer": {"lr_scale": {"*": -0.1}}}, "optimizer.lr_scale"),
        ({"optimizer": {"lr_scale": {"*": math.inf}}}, "optimizer.lr_scale"),
        ({"optimizer": {"lr": 0.1, "lr_scale": {"*": 11}}}, "rate of '\\*' 1.1, above 1"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, "optimizer.betas"),
        ({"optimizer": {"betas": [math.nan, 0.9]}}, "optimizer.betas"),
        ({"optimizer": {"eps": 0}}, "optimizer.eps"),
        ({"optimizer": {"eps": math.inf}}, "optimizer.eps"),
        ({"optimizer": {"weight_decay": -0.1}}, "optimizer.weight_decay"),
        ({"optimizer": {"weight_decay": math.inf}}, "optimizer.weight_decay"),
        ({"schedule": {"warmup_ratio": math.nan}}, "schedule.warmup_ratio"),
        ({"schedule": {"hold": math.nan}}, "schedule.hold"),
        ({"schedule": {"min_lr_ratio": math.nan}}, "schedule.min_lr_ratio"),
        ({"max_dropped": math.nan}, "max_dropped"),
        ({"mixture": [{"data": "a.json", "weight": math.inf}]}, "mixture.0.weight"),
        ({"mixture": [{"data": "a.json", "loss_scale": math.inf}]}, "mixture.0.loss_scale"),
        ({"objective": {"kind": "dpo", "beta": math.inf}}, "objective.beta"),
        ({"objective": {"kind": "dpo", "label_smoothing": math.nan}}, "objective.label_smoothing"),
        ({"objective": {"kind": "ipo", "beta": math.nan}}, "objective.beta"),
    ],
)
def test_a_number_that_would_lead_astray_is_refused(words: dict[str, Any], said: str) -> None:
    plain = {"mixture": [{"data": "a.json"}], "max_steps": 1}
    with pytest.raises(RecipeError, match=f"stage: {said}|{said}"):
        config.validate(Stage, {**plain, **words}, "stage")


@pytest.mark.parametrize("most", [None, 0, math.inf])
def test_a_gradient_need_not_be_clipped(most: float | None) -> None:
    spec = OptimizerSpec(max_grad_norm=most, lr_scale={"a": 0})
    assert (spec.max_grad_norm or math.inf) == math.inf
