"""`omnimix sweep`: cells, what they share, going on, and the report; a miniature of two steps."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import TINY
from typer.testing import CliRunner

from omnimix import config
from omnimix.cli import sweeping
from omnimix.cli.main import app
from omnimix.cli.sweeping import SweepSpec
from omnimix.compose.model import MultimodalLM
from omnimix.errors import OmnimixError, RecipeError
from omnimix.train import settings

AXES = {"connector": {"mlp": (), "linear": ("recipe.x=1",)}, "rate": {"a": (), "b": ("seed=1",)}}


def test_one_at_a_time_moves_each_axis_from_the_base() -> None:
    spec = SweepSpec(name="t", training="t.yaml", axes=AXES, benchmark="scenes", set=("seed=0",))
    assert spec.cells() == {
        "connector=mlp,rate=a": ["seed=0"],
        "connector=linear,rate=a": ["seed=0", "recipe.x=1"],
        "connector=mlp,rate=b": ["seed=0", "seed=1"],
    }
    full = spec.model_copy(update={"grid": "full"}).cells()
    assert len(full) == 4
    assert full["connector=linear,rate=b"] == ["seed=0", "recipe.x=1", "seed=1"]


def test_every_cell_of_the_shipped_sweep_is_a_training_file_and_a_model() -> None:
    spec = sweeping.load(settings.FOLDER / "scenes.sweep.yaml")
    file = settings.FOLDER / spec.training
    for name, overrides in spec.cells().items():
        training, folder = settings.load(file, sweeping._words(spec, file, overrides, Path("out")))
        MultimodalLM.on_meta(training.model(folder)[0])
        kept = [bool(stage.feature_cache) for stage in training.stages]
        assert kept == [True, "freeze=nothing" not in name], name


def test_the_report_pairs_question_by_question() -> None:
    cost = dict.fromkeys(sweeping.COST, 1)
    found = {
        "base": {"scores": {"a": [0.0] * 8 + [1.0] * 2}, **cost},
        "other": {"scores": {"a": [1.0] * 8 + [1.0] * 2}, **cost},
    }
    base, other = sweeping.report(found)
    assert (base["difference"], base["p"]) == (0.0, 1.0)
    assert other["score"] == 1.0
    assert other["difference"] == pytest.approx(0.8)
    assert other["p"] == pytest.approx(
        2 / 2**8
    )  # eight questions changed, all of them for the better


def test_a_cell_is_called_by_what_is_other_than_in_the_base() -> None:
    spec = sweeping.load(settings.FOLDER / "scenes.sweep.yaml")
    cells = list(spec.cells())
    labels = [sweeping.label(cell, cells[0]) for cell in cells]
    assert labels[0] == "base" and "connector=linear" in labels
    assert len(set(labels)) == len(cells)
    assert sweeping.label("a=1,b=2", "a=0,b=0") == "a=1, b=2"


def test_many_cells_of_many_axes_fit_into_the_pictures(tmp_path: Path) -> None:
    spec = sweeping.load(settings.FOLDER / "scenes.sweep.yaml")
    cost = dict.fromkeys(sweeping.COST, 1)
    rows = sweeping.report({c: {"scores": {"a": [0.0, 1.0]}, **cost} for c in spec.cells()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib says so where nothing of the axes is left
        sweeping.plots(rows, tmp_path)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    stage = {
        "mixture": [{"data": {"kind": "scenes", "seed": 0, "questions": 2}}],
        "trainable": ["connectors", "language"],
        "batch_size": 2,
        "max_steps": 2,
        "bf16": False,
    }
    words = {"name": "mini", "recipe": "nano", "set": list(TINY), "num_workers": 0}
    (folder / "mini.train.yaml").write_text(
        config.to_yaml({**words, "output_dir": "run", "stages": [stage]})
    )
    linear = "recipe.modalities.image.branches.0.connector.kind=linear"
    spec = {
        "name": "mini",
        "training": "mini.train.yaml",
        "benchmark": "scenes",
        "tasks": ["exists"],
        "limit": 2,
        "feature_cache": True,
        "axes": {"connector": {"mlp": [], "linear": [linear]}},
    }
    (folder / "mini.sweep.yaml").write_text(config.to_yaml(spec))
    return folder


def test_a_sweep_goes_on_and_reports(swept: Path) -> None:
    out = swept / "out"
    command = ["sweep", str(swept / "mini.sweep.yaml"), "--out", str(out)]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    assert "kept" not in first.output
    again = CliRunner().invoke(app, command)
    assert again.output.count("kept") == 2
    rows = json.loads((out / "report.json").read_text())
    assert [row["cell"] for row in rows] == ["connector=mlp", "connector=linear"]
    assert rows[0]["parameters"] > rows[1]["parameters"]
    page = (out / "report.md").read_text()
    assert "base: connector=mlp." in page and "| base |" in page and "| connector=linear |" in page
    assert [row["steps"] for row in rows] == [2, 2]
    assert (out / "scores.png").stat().st_size and (out / "cost.png").stat().st_size
    assert any((out / "features").rglob("*"))


def test_other_words_in_a_finished_cell_are_refused(swept: Path) -> None:
    out = swept / "out"
    spec = sweeping.load(swept / "mini.sweep.yaml").model_copy(update={"limit": 3})
    with pytest.raises(OmnimixError, match="other words"):
        sweeping.run(spec, swept, out, lambda _: None)


def test_a_wrong_word_is_found_before_anything_is_trained(swept: Path) -> None:
    spec = sweeping.load(swept / "mini.sweep.yaml")
    spec = spec.model_copy(update={"axes": {"a": {"x": (), "y": ("stages.0.batch=3",)}}})
    with pytest.raises(RecipeError):
        sweeping.run(spec, swept, swept / "never", lambda _: None)
    assert not (swept / "never").exists()


@pytest.mark.parametrize("words", [{"benchmark": "scene"}, {"tasks": ("atribute",)}])
def test_a_wrong_question_is_found_before_anything_is_trained(
    words: dict[str, Any], swept: Path
) -> None:
    spec = sweeping.load(swept / "mini.sweep.yaml").model_copy(update=words)
    with pytest.raises(OmnimixError, match=r"scene|atribute"):
        sweeping.run(spec, swept, swept / "never", lambda _: None)
    assert not (swept / "never").exists()


def test_a_training_file_that_was_changed_is_not_that_of_a_finished_cell(swept: Path) -> None:
    file = swept / "mini.train.yaml"
    before = file.read_text()
    file.write_text(before.replace("batch_size: 2", "batch_size: 1"))
    try:
        spec = sweeping.load(swept / "mini.sweep.yaml")
        with pytest.raises(OmnimixError, match="training file or recipe was another"):
            sweeping.run(spec, swept, swept / "out", lambda _: None)
    finally:
        file.write_text(before)


def test_a_cell_that_fails_is_named_and_the_others_are_reported(
    swept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sweeping._cell

    def cell(spec: Any, file: Any, words: list[str], place: Path) -> Any:
        if "linear" in place.name:
            raise OmnimixError("the loss is nan")
        return real(spec, file, words, place)

    monkeypatch.setattr(sweeping, "_cell", cell)
    out = swept / "failing"
    done = CliRunner().invoke(app, ["sweep", str(swept / "mini.sweep.yaml"), "--out", str(out)])
    assert done.exit_code == 2
    assert "1 of 2 cells failed, the first of them connector=linear: the loss is nan" in " ".join(
        done.stderr.split()
    )
    assert "connector=linear failed" in (out / "report.md").read_text()
    assert [row["cell"] for row in json.loads((out / "report.json").read_text())] == [
        "connector=mlp"
    ]
