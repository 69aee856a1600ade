"""A run that was interrupted ends as one that was not, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from typer.testing import CliRunner

from omnimix import cache
from omnimix.cli.main import app
from omnimix.data import arranged
from omnimix.errors import SampleError, TrainError
from omnimix.train.objectives import Sft
from omnimix.train.proving import prove
from omnimix.train.run import train
from tests.train.runs import Write, metrics, record, same_weights


def stop_at(stage: int, step: int) -> Callable[[dict[str, Any]], None]:
    """A listener that presses Ctrl-C after a step."""

    def listen(line: dict[str, Any]) -> None:
        if (line["stage"], line["step"]) == (stage, step):
            raise KeyboardInterrupt

    return listen


def test_resume_equals_no_interruption(write: Write, tmp_path: Path) -> None:
    stages = [
        {"max_steps": 2},
        {"max_steps": 4, "packing": True, "gradient_accumulation_steps": 2, "save_steps": 3},
    ]
    path = write(stages=stages)
    straight = train(path, out=tmp_path / "straight")
    assert straight.finished and straight.steps == 6
    for stage, step in ((0, 1), (1, 2)):
        cut = train(path, out=tmp_path / "cut", listener=stop_at(stage, step))
        assert not cut.finished
    with pytest.raises(TrainError, match="checkpoints of an earlier run"):
        train(path, out=tmp_path / "cut", resume=False)
    resumed = train(path, out=tmp_path / "cut")
    assert resumed.finished and resumed.steps == 2
    same_weights(tmp_path / "straight", tmp_path / "cut")
    assert metrics(tmp_path / "straight") == metrics(tmp_path / "cut")
    again = train(path, out=tmp_path / "cut")
    assert again.finished and again.steps == 0
    same_weights(tmp_path / "straight", tmp_path / "cut")


def test_a_step_interrupted_in_the_middle_is_undone(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(stages=[{"max_steps": 4}])
    train(path, out=tmp_path / "straight")
    plain, calls = Sft.loss, [0]

    def loss(self: Sft, *words: Any) -> Tensor:
        found = plain(self, *words)
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Sft, "loss", loss)
    assert not train(path, out=tmp_path / "cut").finished
    assert train(path, out=tmp_path / "cut").steps == 2
    same_weights(tmp_path / "straight", tmp_path / "cut")
    assert metrics(tmp_path / "straight") == metrics(tmp_path / "cut")


@pytest.mark.parametrize(("order", "workers"), [("by_length", 0), ("like_length", 2)])
def test_records_of_like_length_go_on_exactly(
    write: Write, tmp_path: Path, order: str, workers: int
) -> None:
    rows = [record(i).replace("What is at", "What " + "is " * (7 * i % 5) + "at") for i in range(9)]
    path = write(rows, [{"max_steps": 6, "order": order, "save_steps": 2}])
    words = [f"num_workers={workers}"]
    train(path, words, out=tmp_path / "straight")
    assert not train(path, words, out=tmp_path / "cut", listener=stop_at(0, 3)).finished
    assert train(path, words, out=tmp_path / "cut").finished
    same_weights(tmp_path / "straight", tmp_path / "cut")
    assert metrics(tmp_path / "straight") == metrics(tmp_path / "cut")


DATA = {
    "rounds": ({}, {"packing": {"tokens": 180, "items": 3}, "order": "shuffled"}),
    "alike": ({}, {"group_by_length": True}),
    "packed_stream": ({"stream": True, "shuffle_buffer": 4}, {"packing": {"tokens": 180}}),
}


@pytest.mark.parametrize("name", DATA)
def test_what_is_arranged_goes_on_exactly_with_other_workers(
    write: Write, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arranged, "WINDOW", 10)
    monkeypatch.setenv(cache.MOVED, str(tmp_path / "cache"))
    data, stage = DATA[name]
    rows = [record(i).replace("What is at", "What " + "is " * (7 * i % 5) + "at") for i in range(9)]
    mixture = [{"data": {"kind": "rows", "path": "talks.jsonl", **data}}]
    stage = {"mixture": mixture, "max_steps": 6, "save_steps": 2, "batch_size": 2, **stage}
    path = write(rows, [{**stage, "gradient_accumulation_steps": 2}])
    train(path, out=tmp_path / "straight")
    cut = train(path, ["num_workers=2"], out=tmp_path / "cut", listener=stop_at(0, 3))
    assert not cut.finished
    said: list[str] = []
    assert prove(path, out=tmp_path / "cut", tell=said.append)
    assert [line.split(":")[0] for line in said[1:-1]] == [f"step {n}" for n in range(1, 7)]
    assert train(path, out=tmp_path / "cut", allow_changes=True).finished
    same_weights(tmp_path / "straight", tmp_path / "cut")
    assert metrics(tmp_path / "straight") == metrics(tmp_path / "cut")


def test_a_stream_needs_steps(write: Write, tmp_path: Path) -> None:
    mixture = [{"data": {"kind": "rows", "path": "talks.jsonl", "stream": True}}]
    words = {"mixture": mixture, "order": "shuffled", "num_train_epochs": 1, "max_steps": None}
    with pytest.raises(TrainError, match="the dataset has no end"):
        train(write(stages=[words]), out=tmp_path / "run")


def test_a_replay_that_differs_is_named(write: Write, tmp_path: Path) -> None:
    path = write(stages=[{"max_steps": 4}])
    with pytest.raises(TrainError, match="no checkpoint to go on from"):
        prove(path, out=tmp_path / "run")
    assert not train(path, out=tmp_path / "run", listener=stop_at(0, 3)).finished
    args = ["train", str(path), "--out", str(tmp_path / "run"), "--prove-resume"]
    found = CliRunner().invoke(app, args)
    assert (found.exit_code, "equal: the run goes on" in found.output) == (0, True), found.output
    rows = [record(i).replace("What", "Where") if i == 2 else record(i) for i in range(5)]
    (tmp_path / "talks.jsonl").write_text("\n".join(rows))
    found = CliRunner().invoke(app, args)
    assert found.exit_code == 1 and " differs: " in found.output.splitlines()[-1]


def test_rows_from_python(write: Write, tmp_path: Path) -> None:
    """A `Dataset` and a stream of one under the names that the file calls them; a stopped run goes on."""
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list(
        [{"instruction": f"Say {i}.", "output": str(i)} for i in range(5)]
    )
    mixture = [
        {"data": {"path": "@mine", "slice": ":4"}},
        {"data": {"path": "@endless", "stream": True, "shuffle_buffer": 2}},
    ]
    path = write(stages=[{"mixture": mixture, "max_steps": 3}])
    given = {"mine": rows, "endless": rows.to_iterable_dataset()}
    assert train(path, out=tmp_path / "straight", rows=given).finished
    assert not (tmp_path / "straight/dropped.jsonl").exists()
    cut = train(path, ["num_workers=2"], out=tmp_path / "cut", listener=stop_at(0, 2), rows=given)
    assert not cut.finished
    with pytest.raises(SampleError, match=r"no rows called 'mine' .*rows=\{'mine': dataset\}"):
        train(path, out=tmp_path / "cut", allow_changes=True)
    assert train(path, out=tmp_path / "cut", allow_changes=True, rows=given).finished
    same_weights(tmp_path / "straight", tmp_path / "cut")
