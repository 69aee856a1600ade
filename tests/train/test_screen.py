"""What a run shows: plain lines in a log, a live table on a terminal, curves of several runs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import jsonschema
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from omnimix import config
from omnimix.cli import screen
from omnimix.cli.main import app
from omnimix.errors import TrainError
from omnimix.train.plots import plot_losses
from omnimix.train.run import train
from omnimix.train.settings import FOLDER, schema
from tests.train.runs import Write, record

VALIDATE = {"data": {"kind": "jsonl", "path": "talks.jsonl"}, "answers": 0}


def test_a_log_says_what_learns_every_line_and_where_the_model_lies(write: Write) -> None:
    path = write([record(0), "{", record(1)], [{"max_steps": 3, "validate": VALIDATE}])
    done = CliRunner().invoke(app, ["train", str(path)])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    text = "\n".join(lines)
    assert "dataset 1 has 3 records, about" in text and "parameters learn (image encoder" in text
    for step in (1, 2, 3):
        (line,) = [one for one in lines if one.startswith(f"train {step}/3  loss")]
        for word in ("lr ", "gradient ", "language ", "samples/s", "learned tokens/s", "left "):
            assert word in line
    assert any(line.startswith("train 3/3  validation ") for line in lines)
    assert sum(line.startswith("left out: talks.jsonl: line 2") for line in lines) == 1
    assert lines[-1] == f"ask it: omnimix chat {path.parent / 'run' / 'model'}"


def test_a_terminal_has_a_table_and_the_sentences_above_it(write: Write) -> None:
    stream = io.StringIO()
    shown = screen.Screen(Console(file=stream, force_terminal=True, width=100))
    train(write(stages=[{"max_steps": 3, "validate": VALIDATE}]), watcher=shown)
    shown.close()
    text = stream.getvalue()
    assert "parameters learn" in text and "3 of 3" in text
    for word in ("stage", "loss", "validation", "gradient", "waiting for data", "memory", "left"):
        assert word in text
    assert shown.shown["memory"].endswith(" GB") and not shown.live.is_started


def test_the_time_left_goes_by_the_pace_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(screen.time, "monotonic", lambda: clock[0])
    pace = screen.Pace()
    for step in (1, 2, 3):
        clock[0] += 100 if step == 1 else 10
        pace.step("a", step, 63)
    assert pace.left() == "10:00"
    pace.step("b", 1, 4)
    assert pace.left() == "-"
    assert [screen.duration(s) for s in (5, 65, 3723)] == ["0:05", "1:05", "1:02:03"]


def test_curves_of_several_runs(write: Write, tmp_path: Path) -> None:
    stages = [{"max_steps": 2}, {"max_steps": 2, "validate": VALIDATE}]
    for name in ("one", "two"):
        train(write(stages=stages), [f"seed={len(name)}"], tmp_path / name)
    runs = [str(tmp_path / "one"), str(tmp_path / "two")]
    for ending in ("svg", "png"):
        out = tmp_path / f"both.{ending}"
        done = CliRunner().invoke(app, ["plot", *runs, "--out", str(out)])
        assert done.exit_code == 0 and str(out) in done.output
    with Image.open(tmp_path / "both.png") as picture:
        assert min(picture.size) > 100
    assert "<svg" in (tmp_path / "both.svg").read_text()
    with pytest.raises(TrainError, match=r"no drawing ends in '\.txt'"):
        plot_losses([tmp_path / "one"], tmp_path / "a.txt")
    with pytest.raises(TrainError, match="no metrics can be read"):
        plot_losses([tmp_path], tmp_path / "a.svg")


def test_the_schema_takes_the_shipped_files_and_no_other_words() -> None:
    done = CliRunner().invoke(app, ["train", "--schema"])
    assert json.loads(done.output) == schema()
    validator = jsonschema.Draft202012Validator(schema())
    shipped = sorted(FOLDER.glob("*.train.yaml"))
    assert len(shipped) > 3
    for path in shipped:
        words = config.read_yaml(path)
        validator.validate(words)
        assert not validator.is_valid({**words, "stages": [{**words["stages"][0], "stepps": 3}]})
    assert CliRunner().invoke(app, ["train"]).exit_code == 2
