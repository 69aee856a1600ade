"""The loop: stages, what is refused, and what a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from omnimix import config
from omnimix.checkpoints import runs
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import RecipeError, SampleError, TrainError
from omnimix.train.run import train
from tests.train.runs import Write, metrics, record, weights


def test_the_seed_decides(write: Write, tmp_path: Path) -> None:
    path = write(stages=[{"max_steps": 1}])
    for name, seed in (("a", 0), ("b", 1)):
        train(path, [f"seed={seed}"], out=tmp_path / name)
    assert metrics(tmp_path / "a") != metrics(tmp_path / "b")


def test_what_a_run_leaves_behind(write: Write, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    result = train(write(), ["stages.0.save_steps=2"], listener=seen.append)
    assert result.folder == tmp_path / "run"
    assert [line["step"] for line in seen] == [1, 2, 3, 4, 5, 6]
    assert [path.name[-1] for path in runs.checkpoints(result.folder)] == ["4", "6"]
    with Image.open(result.folder / "loss.png") as curve:
        assert min(curve.size) > 100
    (run,) = [json.loads(line) for line in (result.folder / "run.jsonl").read_text().splitlines()]
    assert run["seed"] == 0 and run["versions"]["torch"] and not run["resumed"]
    model = MultimodalLM.from_pretrained(result.folder / "model")
    assert model.recipe.name == "tiny"
    Processor.from_pretrained(result.folder / "model")
    assert config.read_yaml(result.folder / "training.yaml")["stages"][0]["save_steps"] == 2


def test_a_few_records_are_learned_by_heart(write: Write) -> None:
    rows = [record(0), record(1)]
    words = ["stages.0.max_steps=20", "stages.0.optimizer.lr=0.01"]
    result = train(write(rows), words)
    losses = [line["loss"] for line in metrics(result.folder)]
    assert losses[0] > 5 and losses[-1] < losses[0] / 3


def test_what_is_frozen_does_not_move(write: Write, tmp_path: Path) -> None:
    path = write(stages=[{"max_steps": 1, "trainable": ["-*.embed_tokens.*", "language.*"]}])
    first = train(path, ["stages.0.optimizer.lr=1.0e-30"], out=tmp_path / "still")
    moved = train(path, out=tmp_path / "moved")
    one, other = weights(first.folder), weights(moved.folder)
    changed = {name for name in one if not torch.equal(one[name], other[name])}
    assert changed
    assert all(n.startswith("language.") and "embed_tokens" not in n for n in changed)


def test_broken_records_are_left_out_and_counted(write: Write) -> None:
    rows = [record(0), '{"turns": [', record(1)]
    result = train(write(rows, [{"max_steps": 2, "batch_size": 3}]))
    assert result.dropped.count == 2
    assert "talks.jsonl: line 2" in result.dropped.first[0]


@pytest.mark.parametrize(
    "row",
    [
        "{",
        "[]",
        '{"id": "1"}',
        '{"turns": [{"role": "robot", "content": ["a"]}]}',
        '{"turns": [{"role": "user", "content": [{"image": "../../etc/passwd"}]}]}',
        '{"turns": [{"role": "user", "content": [{"box": ["a", 1, 2, 3]}]}]}',
        '{"turns": [{"role": "user", "content": [{"point": [1, 2], "on": "x"}]}]}',
        '{"turns": [{"role": "user", "content": [{"sound": "a.wav"}]}]}',
        '{"turns": [{"role": "user", "content": ["no answer"]}]}',
    ],
)
def test_nothing_but_broken_records_is_refused(row: str, write: Write) -> None:
    with pytest.raises(
        SampleError,
        match=r"none of the 1 records looked at can be used; the first says: |holds no list of records",
    ):
        train(write([row]))


@pytest.mark.parametrize(
    ("override", "error", "words"),
    [
        ("stages.0.trainable=['eye.*']", TrainError, r"'eye\.\*' matches no parameter.*image"),
        ("stages.0.trainable=['-*']", TrainError, "nothing is left to learn"),
        (
            "stages.0.gradient_accumulation_steps=3",
            TrainError,
            "batch_size of 2 cannot be cut into 3",
        ),
        ("stages.0.mixture.0.data.path=none.jsonl", SampleError, "cannot read the file"),
        ("stages.0.mixture.0.data.kind=jsonal", RecipeError, "mixture.0.data.kind: .*'jsonl'"),
        ("stages.0.max_setps=3", RecipeError, "stages.0: unknown word 'max_setps'; .*'max_steps'"),
        ("stages=[]", RecipeError, "stages"),
        ("stages.0.mixture.0.apart=true", RecipeError, "apart needs packing: true"),
        ("recipe=nanno", RecipeError, "Did you mean 'nano'"),
        (
            "initial_checkpoint=nowhere",
            TrainError,
            "initial_checkpoint: .*nowhere: the folder to start from does not exist",
        ),
        (
            "initial_checkpoint=a.png",
            TrainError,
            "initial_checkpoint: .*a.png: the folder to start from is a file",
        ),
        (
            "initial_checkpoint=.",
            TrainError,
            "has no model.safetensors .it holds a.png, .*its folder 'model'",
        ),
    ],
)
def test_refused(override: str, error: type[Exception], words: str, write: Write) -> None:
    with pytest.raises(error, match=words):
        train(write(), [override])


def test_packing_is_refused_where_the_language_model_would_confuse_samples(write: Write) -> None:
    words = ("stages.0.packing=true", "set.1=language.config.model_type=nemotron")
    with pytest.raises(
        RecipeError, match=r"stages\.0: nemotron cannot take packed samples.*packing: false"
    ):
        train(write(), words)


def test_a_start_of_another_recipe_is_refused(write: Write, tiny_folder: Path) -> None:
    other = "set.1=language.config.hidden_size=64"
    with pytest.raises(TrainError, match=r"do not fit the model .*same recipe"):
        train(write(), [f"initial_checkpoint={tiny_folder}", other])


def test_an_unknown_file_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"no such training file.*nano\.train\.yaml"):
        train("nowhere.train.yaml")


def test_a_folder_in_place_of_a_file_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"a folder, not a training file.*nano\.train\.yaml"):
        train(tmp_path)
    (tmp_path / "mine.train.yaml").touch()
    with pytest.raises(RecipeError, match=r"Name a file in it: .*mine\.train\.yaml"):
        train(tmp_path)
    (tmp_path / "training.yaml").touch()
    with pytest.raises(RecipeError, match=r"the folder of a training run.*goes on where"):
        train(tmp_path)


def test_a_wrong_word_of_a_table_is_named_itself(write: Write) -> None:
    path = write(stages=[{"packing": {"tokens": 300, "items": 0}}])
    with pytest.raises(RecipeError, match=r"stages\.0\.packing\.items: .*equal to 1"):
        train(path)
