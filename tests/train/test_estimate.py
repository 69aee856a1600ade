"""`omnimix plan`: its formulas against real steps, against arithmetic by hand, and against its own page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tools import scaling
from typer.testing import CliRunner

from benchmarks import memory
from omnimix.cli.main import app
from omnimix.cli.plan import size
from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.errors import OmnimixError
from omnimix.parallel.layout import ParallelSpec
from omnimix.train import optim, optimizers
from omnimix.train.estimate import Estimator, Machine, Way, state, weights
from omnimix.train.planning import longest, plan_file
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
