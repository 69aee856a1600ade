"""Records that are not learned from: looked at, written down, and what follows from it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import PartialState, tracking
from accelerate.logging import get_logger
from PIL import Image
from safetensors.torch import load_file

from omnimix import config
from omnimix.errors import OmnimixError, TrainError
from omnimix.train import trackers
from omnimix.train.run import train
from omnimix.train.settings import Stage
from omnimix.train.validation import Best, Validation
from tests.train.ranks import Told
from tests.train.runs import Write, looks, record, same_weights

VALIDATE: dict[str, Any] = {
    "data": {"kind": "jsonl", "path": "talks.jsonl"},
    "every": 2,
    "max_samples": 3,
    "answers": 2,
    "max_new_tokens": 3,
}


def test_validation_changes_nothing_that_is_learned(write: Write, tmp_path: Path) -> None:
    train(write(stages=[{"max_steps": 4}]), out=tmp_path / "without")
    stage = {"max_steps": 4, "validate": {**VALIDATE, "measures": ["exact"]}}
    train(write(stages=[stage]), out=tmp_path / "with")
    same_weights(tmp_path / "without", tmp_path / "with")
    found = looks(tmp_path / "with")
    assert [line["step"] for line in found] == [2, 4]
    assert all(line["validation"] > 0 and "exact" in line["measures"] for line in found)


def test_a_few_answers_are_written_down_with_their_pictures(write: Write) -> None:
    folder = train(write(stages=[{"max_steps": 2, "validate": VALIDATE}])).folder
    place = folder / "answers" / "stage-00-step-0000002"
    lines = [json.loads(line) for line in (place / "answers.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == [0, 1]
    assert [line["right"] for line in lines] == ["red", "blue"]
    assert all("answer" in line and "What is at" in line["question"] for line in lines)
    with Image.open(place / lines[1]["picture"]) as picture:
        assert picture.size[0] >= 48


def test_the_loss_is_that_of_the_records_alone(write: Write, tmp_path: Path) -> None:
    """Cut into batches of one or three, padded or packed, the mean over tokens is the same."""
    found = []
    for name, words in (("a", {"batch_size": 1}), ("b", {"batch_size": 3, "packing": True})):
        stage = {"max_steps": 1, "optimizer": {"lr": 1e-30}, "validate": VALIDATE, **words}
        train(write(stages=[stage]), out=tmp_path / name)
        found += [line["validation"] for line in looks(tmp_path / name)]
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_the_best_weights_are_kept_and_the_stage_ends_when_it_gets_no_better(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.6, 1.0])
    monkeypatch.setattr(Validation, "_loss", lambda *_: (next(losses), []))
    words = {**VALIDATE, "every": 1, "answers": 0, "early_stopping_patience": 2}
    path = write(stages=[{"max_steps": 9, "validate": words}])
    result = train(path)
    assert result.finished and result.steps == 4
    assert [line["best"] for line in looks(result.folder)] == [True, True, False, False]
    state = json.loads((result.folder / "best" / "state.json").read_text())
    assert (state["step"], state["best"]["value"]) == (2, 2.0)
    # A run that is stopped at that step holds them.
    path_two = write(stages=[{"max_steps": 9}])
    train(path_two, out=tmp_path / "two", listener=_stop_at_two)
    held = load_file(tmp_path / "two" / "stage-00-step-0000002" / "model.safetensors")
    torch.testing.assert_close(held, load_file(result.folder / "best" / "model.safetensors"))
    best = load_file(result.folder / "model-best" / "model.safetensors")
    assert all(torch.equal(best[name], tensor) for name, tensor in held.items() if name in best)
    # Gone on with, it knows that it is over.
    assert train(write(stages=[{"max_steps": 9, "validate": words}])).steps == 0


def _stop_at_two(line: dict[str, Any]) -> None:
    if line["step"] == 2:
        raise KeyboardInterrupt


def test_a_run_that_was_stopped_looks_as_one_that_was_not(write: Write, tmp_path: Path) -> None:
    path = write(stages=[{"max_steps": 4, "validate": {**VALIDATE, "answers": 0}}])
    train(path, out=tmp_path / "straight")
    assert not train(path, out=tmp_path / "cut", listener=_stop_at_two).finished
    train(path, out=tmp_path / "cut")
    assert looks(tmp_path / "straight") == looks(tmp_path / "cut")


def test_a_best_of_something_else_is_forgotten(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accuracy is compared with no loss, and a stage that a loss had ended goes on."""
    losses, right = iter([3.0, 2.0, 2.5, 2.6, *[9.0] * 4]), iter([0.9] * 4 + [0.2, 0.5, 0.1, 0.1])
    monkeypatch.setattr(Validation, "_loss", lambda *_: (next(losses), []))
    monkeypatch.setattr(Validation, "_measured", lambda *_: {"exact": next(right)})
    words = {**VALIDATE, "every": 1, "measures": ["exact"], "early_stopping_patience": 2}
    assert train(write(stages=[{"max_steps": 9, "validate": words}])).steps == 4
    path, told = write(stages=[{"max_steps": 9, "validate": {**words, "best": "exact"}}]), Told()
    folder = train(path, watcher=told).folder
    assert "the best of validation begins anew (best: loss -> exact)" in (told.said)
    assert [(line["step"], line["best"]) for line in looks(folder)[4:]] == [
        (4, True),
        (5, True),
        (6, False),
        (7, False),
    ]
    state = json.loads((folder / "best" / "state.json").read_text())
    assert (state["step"], state["best"]["value"]) == (5, 0.5)
    assert (folder / "model-best").is_dir()
    assert train(path).steps == 0


@pytest.mark.parametrize(
    ("changed", "template", "said"),
    [
        ({}, None, ""),
        ({"early_stopping_patience": 9, "every": 1, "answers": 0, "max_new_tokens": 9}, None, ""),
        ({"max_samples": 2}, None, "records: 3 -> 2"),
        ({"data": {"kind": "jsonl", "path": "others.jsonl"}}, None, "talks.jsonl -> others.jsonl"),
        ({"best": "exact", "measures": ["exact"]}, None, "best: loss -> exact"),
        ({}, "caption", "template"),
        (None, None, "what it was of is not known"),
    ],
)
def test_what_the_best_is_of(
    changed: dict[str, Any] | None, template: str | None, said: str, write: Write
) -> None:
    folder = write().parent
    (folder / "others.jsonl").write_text((folder / "talks.jsonl").read_text())
    told: list[str] = []

    def made(words: dict[str, Any], template: str | None, state: dict[str, Any]) -> Validation:
        mixture = [{"data": VALIDATE["data"]}]
        plain = {"mixture": mixture, "max_steps": 1, "validate": {**VALIDATE, **words}}
        stage = config.validate(Stage, {**plain, "template": template}, "stage")
        run: Any = SimpleNamespace(folder=folder, tell=told.append)
        assert stage.validate is not None
        return Validation(stage.validate, run, 0, stage, state)

    before = made({}, None, {})
    assert before.best.take(0.5, 2, True)
    before.looked = 2
    state = json.loads(json.dumps(before.state()))
    if changed is None:
        del state["best_of"]
    after = made(changed or {}, template, state)
    assert (after.best, after.looked) == ((Best(), None) if said else (before.best, 2))
    assert all(said in one for one in told) and len(told) == bool(said)


def test_best() -> None:
    least, most = Best(), Best()
    assert [least.take(v, i, True) for i, v in enumerate([2.0, 2.0, 1.0])] == [True, False, True]
    assert [most.take(v, i, False) for i, v in enumerate([0.1, 0.3, 0.2])] == [True, True, False]
    assert (most.value, most.step, most.since) == (0.3, 1, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"measures": ["exakt"]}, r"validate: .*'exakt'.*'exact'"),
        ({"best": "exact"}, "neither loss nor one of the measures"),
        ({"data": {"kind": "scenes"}, "max_samples": None}, "validate: the dataset has no end"),
        ({"data": {"kind": "jsonl", "path": "none.jsonl"}}, "none.jsonl"),
        ({"data": {"kind": "jsonl", "path": "bad.jsonl"}}, r"validate: none of the 1 records"),
    ],
)
def test_what_cannot_be_looked_at_is_refused_before_the_first_step(
    words: dict[str, Any], said: str, write: Write
) -> None:
    path = write(stages=[{"validate": {**VALIDATE, **words}}])
    (path.parent / "bad.jsonl").write_text("{")
    with pytest.raises(OmnimixError, match=said):
        train(path)
    assert not (path.parent / "run" / "metrics.jsonl").exists()


class Kept(tracking.GeneralTracker):  # type: ignore[misc]
    """A tracker that keeps what it is given."""

    name = "kept"
    requires_logging_directory = False
    said: list[tuple[str, Any]] = []

    def __init__(self, run_name: str) -> None:
        super().__init__()
        self.said.append(("run", run_name))

    def start(self) -> None:
        # accelerate's own trackers write to its log, which asks for its state first.
        get_logger(__name__).debug("started")
        self.said.append(("start", None))

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.said.append(("words", values))

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.said.append((f"step {step}", values))

    def finish(self) -> None:
        self.said.append(("finish", None))


def test_metrics_reach_the_trackers(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "kept", Kept)
    Kept.said.clear()
    PartialState._reset_state()
    stages = [{"max_steps": 1, "validate": {**VALIDATE, "answers": 0}}, {"max_steps": 1}]
    train(write(stages=stages), ["trackers=[kept]"])
    said = [word for word, _ in Kept.said]
    assert said == ["run", "start", "words", "step 1", "step 1", "step 2", "finish"]
    assert Kept.said[2][1]["stages.0.batch_size"] == 2
    assert {"loss", "lr", "grad_norm", "grad_norms/language"} <= Kept.said[3][1].keys()
    assert "validation" in Kept.said[4][1]


def test_a_tracker_that_fails_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "kept", Kept)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no account")

    monkeypatch.setattr(Kept, "log", fail)
    with pytest.warns(UserWarning, match="'kept' failed and gets no more: no account"):
        assert train(write(stages=[{"max_steps": 2}]), ["trackers=[kept]"]).finished
    monkeypatch.setattr(Kept, "start", fail)
    with pytest.raises(TrainError, match=r"'kept' does not start \(no account\)"):
        train(write(), ["trackers=[kept]"])


def test_a_tracker_that_is_not_there_is_named(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    with pytest.raises(TrainError, match="package of the tracker 'wandb' is not installed"):
        trackers.made("wandb", tmp_path)
    with pytest.raises(TrainError, match=r"unknown tracker 'wendb'.*'wandb'"):
        train(write(), ["trackers=[wendb]"])


def test_answers_are_no_part_of_what_is_learned(write: Write) -> None:
    rows = [record(i) for i in range(3)]
    folder = train(write(rows, [{"max_steps": 3, "validate": {**VALIDATE, "every": 1}}])).folder
    assert [line["step"] for line in looks(folder)] == [1, 2, 3]
