"""`omnimix plan`: its formulas against real steps, against arithmetic by hand, and against its own page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tools import scaling
from typer.testing import CliRunner

from benchmarks import memory
from omnimix.cli.main import app
from omnimix.cli.plan import size
from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import OmnimixError, SampleError, TrainError
from omnimix.parallel.layout import ParallelSpec
from omnimix.train import optim, optimizers, settings
from omnimix.train.estimate import Estimator, Machine, Way, state, weights
from omnimix.train.plan import plan
from omnimix.train.planned_rows import longest
from omnimix.train.planning import StageEstimate, plan_file
from omnimix.train.settings import OptimizerSpec, Stage
from tests.conftest import TINY
from tests.train.runs import Write

SMALL = (
    "language.config.num_hidden_layers=2",
    "modalities.image.branches.0.encoders.0.args={embed_dim: 96, depth: 1, num_heads: 3, class_token: false}",
)


@pytest.mark.parametrize("name", ["all learns", "connector alone"])
def test_peak_of_real_steps_is_as_planned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # All eight are run by `python -m benchmarks.memory`; these are the smallest.
    _, words = memory.RUNS[name]
    monkeypatch.setitem(memory.RUNS, name, (SMALL, words))
    took, plan = memory.compare(name)
    assert plan["total"] == pytest.approx(took, rel=0.15)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon"])
def test_states_are_those_that_the_optimizer_makes(name: str) -> None:
    model = MultimodalLM.from_recipe(recipes.load("nano", TINY))
    spec = OptimizerSpec(name=name)
    optimizer = optim.optimizer(model, spec)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    names = {name for name, _ in model.named_parameters()}
    said = sum(state(weight, spec) for weight in weights(model, names))
    # Each parameter's count of steps lies beside it.
    assert said == pytest.approx(optimizers.held(optimizer), rel=0.03)


@pytest.fixture(scope="module")
def seven() -> Estimator:
    """One block of the 7B recipe, whose blocks are alike."""
    recipe = recipes.load("prism_dinosiglip", ["language.config.num_hidden_layers=1"])
    stage = Stage(
        mixture=[{"data": {"kind": "jsonl", "path": "a"}}],  # type: ignore[list-item]
        max_steps=1,
        trainable=("connectors", "language"),
        batch_size=8,
        max_length=512,
    )
    row = longest(recipe, stage)
    return Estimator(recipe, stage, row, len(row), row.targets)


def test_a_block_keeps_what_is_counted_by_hand(seven: Estimator) -> None:
    d, f, heads, tokens = 4096, 11008, 32, len(seven.row)
    by_hand = (24 * d + 8 * f + 4 * heads + 8) * tokens  # docs/scaling.md
    assert seven.traced(False, True, 1).block == pytest.approx(by_hand, rel=0.01)


def test_a_forward_pass_takes_two_operations_a_weight_and_attention(seven: Estimator) -> None:
    d, f, tokens = 4096, 11008, len(seven.row)
    by_hand = 2 * (4 * d * d + 3 * d * f) * tokens + 4 * d * tokens**2
    assert seven.traced(False, True, 1).flops["language"] == pytest.approx(by_hand, rel=0.01)


def test_shares_and_traffic_follow_the_mesh(seven: Estimator) -> None:
    machine = Machine(8, 80e9)
    whole = seven.memory(Way(ParallelSpec(), False, 1), machine)
    full = seven.memory(Way(ParallelSpec(shard="full"), False, 1), machine)
    assert full.weights == pytest.approx(whole.weights / 8)
    assert full.optimizer == pytest.approx(whole.optimizer / 8)
    size = sum(w.size for w in seven.weights)
    sent = seven.traffic(Way(ParallelSpec(shard="full"), False, 2), machine)
    assert sent["all_gather"] == pytest.approx(2 * 2 * 2 * size * 7 / 8)
    assert "all_gather" not in seven.traffic(Way(ParallelSpec(), False, 1), machine)


def test_a_plan_that_does_not_fit_names_the_nearest_that_does(write: Write) -> None:
    file = str(write(stages=[{"batch_size": 8}]))
    fits = CliRunner().invoke(app, ["plan", file, "--devices", "2", "--memory", "4GB", "--json"])
    assert fits.exit_code == 0, fits.output
    (stage,) = json.loads(fits.stdout)["stages"]
    assert stage["rows"]["count"] == 5 and stage["rows"]["looked_at"] == 5
    short = f"{stage['memory']['total'] / 1e6 - 1:.3f}MB"
    refused = CliRunner().invoke(app, ["plan", file, "--devices", "2", "--memory", short])
    assert refused.exit_code == 1
    assert "The nearest that fits: --set 'parallel={" in refused.stderr
    never = CliRunner().invoke(app, ["plan", file, "--devices", "2", "--memory", "1MB"])
    assert never.exit_code == 1 and "No plan of these devices fits" in never.stderr


def test_rows_that_are_cut_are_counted(write: Write) -> None:
    (whole,) = plan_file(write(stages=[{}]), (), Machine(1, 1e12))
    (cut,) = plan_file(write(stages=[{"max_length": 8}]), (), Machine(1, 1e12))
    assert (whole.rows.cut, cut.rows.cut) == (0, 5)


def estimator(**words: Any) -> Estimator:
    """Of one row, as long as the stage allows."""
    recipe = recipes.load("nano", TINY)
    part = {"data": {"kind": "jsonl", "path": "a"}}
    stage = Stage.model_validate(
        {
            "mixture": [part],
            "max_steps": 1,
            "batch_size": 4,
            "max_length": 30,
            "bf16": False,
            **words,
        }
    )
    row = longest(recipe, stage)
    learned = sum(one.targets for one in row.both)
    return Estimator(recipe, stage, row, sum(map(len, row.both)), learned)


def test_preferences_take_both_answers_and_a_reference() -> None:
    way, machine = Way(ParallelSpec(), False, 1), Machine(1, 80e9)
    one, two = estimator(), estimator(objective="dpo")
    # Forwards and backwards three of one answer; four of both with the reference.
    assert two.flops(way) == pytest.approx(one.flops(way) * 2 * 4 / 3)
    assert two.memory(way, machine).activations > 1.8 * one.memory(way, machine).activations
    learned = sum(4 * w.size for w in two.weights if w.learns)
    held = two.memory(way, machine).weights - one.memory(way, machine).weights
    assert held == pytest.approx(learned)


def test_frozen_encoders_go_forward_alone() -> None:
    way = Way(ParallelSpec(), False, 1)
    found = estimator(trainable=["connectors", "language"])
    flops = found.traced(False, False, 1).flops
    head = 2 * found.vocabulary * found.width * found.learned
    by_hand = flops["image encoders"] + 3 * (flops["image"] + flops["language"] + head)
    assert found.flops(way) == pytest.approx(4 * by_hand)
    assert estimator().flops(way) == pytest.approx(4 * (by_hand + 2 * flops["image encoders"]))


ROUND = {"order": "shuffled", "num_train_epochs": 3}


def planned(write: Write, **words: Any) -> StageEstimate:
    (found,) = plan_file(write(stages=[{"batch_size": 1, **ROUND, **words}]), (), Machine(1, 1e12))
    return found


WAYS: dict[str, dict[str, Any]] = {
    "rounds": {},
    "max_steps ends it": {"max_steps": 4},
    "a short batch": {"batch_size": 2},
    "larger than a round": {"batch_size": 8},
    "parts": {"batch_size": 4, "gradient_accumulation_steps": 2},
    "parts, all": {"batch_size": 4, "gradient_accumulation_steps": 2, "drop_last": False},
    "alike": {"batch_size": 2, "group_by_length": True},
    "packed": {"packing": {"tokens": 2.5}},
    "packed, all": {"packing": {"tokens": 2.5}, "batch_size": 2, "drop_last": False},
    "few items": {"packing": {"tokens": 2.5, "items": 3}},
}


@pytest.mark.parametrize("name", WAYS)
def test_steps_are_those_of_a_run(
    name: str, write: Write, tiny_processor: Processor, tmp_path: Path
) -> None:
    words = {"max_steps": None, **WAYS[name]}
    if "packing" in words:  # tokens in records
        one = planned(write, max_steps=None).rows.tokens
        words["packing"] = {**words["packing"], "tokens": int(words["packing"]["tokens"] * one)}
    found = planned(write, **words)
    training, _ = settings.load(tmp_path / "test.train.yaml")
    made = plan(training, 0, 0, tmp_path, tiny_processor, (0, 1))
    assert found.steps == made.steps


def test_a_round_without_a_whole_step_is_refused(write: Write) -> None:
    parts = {"batch_size": 8, "gradient_accumulation_steps": 4}
    with pytest.raises(TrainError, match="5 records make no whole step of 8"):
        planned(write, max_steps=None, **parts)


def test_rows_that_a_run_refuses_are_not_planned(write: Write) -> None:
    with pytest.raises(SampleError, match=r"one answer alone.*set objective: sft"):
        planned(write, objective="dpo")
    with pytest.raises(TrainError, match="none of the 5 records looked at fits into a row of 9"):
        planned(write, packing={"tokens": 9})
    with pytest.raises(
        OmnimixError, match=r"stages.0.feature_cache: the encoder of 'image' learns"
    ):
        planned(write, feature_cache="kept")
    off = {"objective": {"kind": "dpo", "reference": "adapters_off"}}
    with pytest.raises(TrainError, match="adapters_off is the model without its adapters"):
        estimator(**off)


def test_what_a_run_refuses_is_not_planned(write: Write) -> None:
    machine = Machine(2, 1e12)
    stage = {"batch_size": 4, "optimizer": {"name": "adafactor"}}
    file = write(stages=[stage])
    (found,) = plan_file(file, (), machine)
    ways = list(found._ways())
    assert ways and all(w.parallel.shard == "none" and w.parallel.tensor == 1 for w in ways)
    with pytest.raises(TrainError, match="adafactor does not work on weights that lie over"):
        plan_file(file, ("parallel.shard=full",), machine)
    with pytest.raises(TrainError, match="batch_size of 10 cannot be cut into 4"):
        plan_file(write(stages=[{"batch_size": 10, "gradient_accumulation_steps": 4}]), (), machine)
    with pytest.raises(TrainError, match=r"optimizer.lr_scale: the pattern 'languge' matches no"):
        plan_file(write(stages=[{"optimizer": {"lr_scale": {"languge": 0.1}}}]), (), machine)
    (plain,) = plan_file(write(stages=[{"batch_size": 4}]), (), Machine(1, 1e12))
    ways = list(plain._ways())
    assert [w.parallel.offload for w in ways] == sorted(
        (w.parallel.offload for w in ways), key=bool
    )
    least = min(plain.estimator.memory(w, plain.machine).total for w in ways)
    tight = replace(plain, machine=replace(plain.machine, memory=least))
    nearest = tight.nearest()
    assert nearest is not None and nearest.parallel.offload == "cpu"
    assert "offload: cpu" in nearest.words(0)


@pytest.mark.parametrize("text", ["80", "eighty GB", "-1GB"])
def test_a_size_without_sense_is_refused(text: str) -> None:
    with pytest.raises(OmnimixError, match="no size"):
        size(text)


def test_the_page_says_what_the_functions_say() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    assert scaling.table(scaling.numbers()) in page


def test_words_of_parallel_may_stand_together_and_too_many_devices_are_named(write: Write) -> None:
    file = str(write(stages=[{"batch_size": 4}]))
    words = ["plan", file, "--parallel", "shard=full,tensor=1", "--devices"]
    assert CliRunner().invoke(app, [*words, "2"]).exit_code == 0
    refused = CliRunner().invoke(app, [*words, "8"])
    assert refused.exit_code == 2 and "fewer with --devices" in refused.output
