"""A run that was interrupted ends as one that was not, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from omnimix.errors import TrainError
from omnimix.train.objectives import Sft
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
