"""Runs that are stopped, that cannot write, that find damage or numbers that are none."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from omnimix.checkpoints import runs
from omnimix.cli.main import app
from omnimix.compose.model import MultimodalLM
from omnimix.compose.recipe import Recipe
from omnimix.data.rows import RowSource
from omnimix.errors import CheckpointError, DroppedError, SampleError, TrainError, WriteError
from omnimix.generate.folder import find
from omnimix.train import checkpoint, folder as folders, optim
from omnimix.train.idle import IdleError
from omnimix.train.loop import recompute
from omnimix.train.objectives import Sft
from omnimix.train.run import train
from omnimix.train.watcher import Watcher, Watchers
from tests.conftest import TINY
from tests.train.runs import Write, metrics, record, same_weights, weights

STYLE = "template={user: {before: '<|im_start|>'}}"
Spoil = Callable[[int, Tensor], Tensor]


class Told(Watcher):
    """Keeps the sentences."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def tell(self, sentence: str) -> None:
        self.said.append(sentence)


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[Spoil], None]:
    """Puts something between the loss of every micro-batch, counted from 1, and its backward pass."""

    def put(change: Spoil) -> None:
        plain, calls = Sft.loss, [0]

        def loss(self: Sft, *words: Any) -> Tensor:
            calls[0] += 1
            return change(calls[0], plain(self, *words))

        monkeypatch.setattr(Sft, "loss", loss)

    return put


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_goes_on_exactly(
    number: signal.Signals,
    write: Write,
    tmp_path: Path,
    spoil: Callable[[Spoil], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(stages=[{"max_steps": 4}])
    train(path, out=tmp_path / "straight")

    def press(call: int, loss: Tensor) -> Tensor:
        if call == 3:
            os.kill(os.getpid(), number)
        return loss

    with monkeypatch.context():
        spoil(press)
        done = CliRunner().invoke(app, ["train", str(path), "--out", str(tmp_path / "cut")])
    assert done.exit_code == 128 + number
    assert "saved in" in done.output and "stage-00-step-0000002" in done.output
    spoil(lambda _, loss: loss)
    train(path, out=tmp_path / "cut")
    same_weights(tmp_path / "straight", tmp_path / "cut")
    assert metrics(tmp_path / "straight") == metrics(tmp_path / "cut")


def test_a_signal_while_weights_move_waits_for_the_end_of_the_step(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(stages=[{"max_steps": 3}])
    plain = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *words: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, *words)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    result = train(path)
    assert (result.finished, result.signal, result.steps) == (False, signal.SIGTERM, 1)
    assert [line["step"] for line in metrics(result.folder)] == [1]
    assert result.saved is not None and checkpoint.state_of(result.saved)["step"] == 1


MOMENTS = {
    "while a record is read": (RowSource, "__getitem__"),
    "while a loss is taken": (Sft, "loss"),
    "while gradients are cut": (optim, "clip"),
    "in the backward pass": (torch.Tensor, "backward"),
    "while weights move": (torch.optim.AdamW, "step"),
    "while a line is written": (Watchers, "metrics"),
    "while a checkpoint is written": (torch, "save"),
    "while a file gets to the disk": (checkpoint, "sync"),
}


@pytest.mark.parametrize(
    ("moment", "number"),
    list(zip(MOMENTS, [signal.SIGINT, signal.SIGTERM] * len(MOMENTS), strict=False)),
)
def test_a_signal_at_any_moment_costs_nothing(
    moment: str,
    number: signal.Signals,
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, name = MOMENTS[moment]
    plain, calls = getattr(owner, name), 0

    def pressed(*words: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1 + (owner not in (torch, checkpoint)):
            os.kill(os.getpid(), number)
        return plain(*words, **more)

    path = write(stages=[{"max_steps": 2, "save_steps": 1}])
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, pressed)
        done = CliRunner().invoke(app, ["train", str(path), "--out", str(tmp_path / "cut")])
    assert done.exit_code == 128 + number and "stopped " in done.output
    saved = runs.checkpoints(tmp_path / "cut")
    assert [runs.damage(place) for place in saved] == [None] * len(saved)
    assert train(path, out=tmp_path / "cut").finished
    assert [line["step"] for line in metrics(tmp_path / "cut")] == [1, 2]


def test_handlers_are_put_back(write: Write) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train(write(stages=[{"max_steps": 1}]))
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_step_without_a_usable_record_is_skipped_and_counted(write: Write) -> None:
    told = Told()
    rows = [record(0), "{", record(1), record(2)]
    stage = {"max_steps": 8, "batch_size": 1}
    result = train(write(rows, [stage]), watcher=told)
    assert result.finished and result.dropped.count == 2
    lines = [
        json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert sum(line["skipped"] for line in lines) == 2
    assert sum("left out: talks.jsonl: line 2" in one for one in told.said) == 1
    (dropped,) = (result.folder / "dropped.jsonl").read_text().splitlines()
    assert "talks.jsonl: line 2" in json.loads(dropped)["why"]


def _changed(**words: Any) -> str:
    return json.dumps(json.loads(record(0)) | words)


def _asked(*content: Any) -> str:
    said = [{"role": "user", "content": list(content)}, {"role": "assistant", "content": ["red"]}]
    return _changed(turns=said)


UNUSABLE = {
    "no JSON": "{",
    "a list": "[1]",
    "null": "null",
    "no turns": _changed(turns=[]),
    "turns that are none": _changed(turns=7),
    "an unknown role": record(0).replace("assistant", "robot"),
    "a null answer": record(0).replace('["red"]', "null"),
    "half of a character": record(0).replace("red", "\\ud83d"),
    "a picture that is not there": _asked({"image": "gone.png"}, "What?"),
    "a picture that is none": _asked({"image": "test.train.yaml"}, "What?"),
    "a picture that is a folder": _asked({"image": "."}, "What?"),
    "a picture elsewhere": _asked({"image": "../../etc/hosts"}, "What?"),
    "a region without a picture": _asked({"point": [1, 1]}, "What?"),
    "a region outside": _asked({"image": "a.png"}, {"point": [900, 1]}, "What?"),
    "a region that is no number": record(0).replace("[0, 0]", "[NaN, 0]"),
    "a text beyond the context": _asked("word " * 3000),
}


def test_records_that_are_left_out_are_named_with_their_line(write: Write) -> None:
    told = Told()
    lines = [line for bad in UNUSABLE.values() for line in (bad, record(1))]
    steps = {"max_steps": len(lines), "batch_size": 1, "max_dropped": 0.9, "order": "shuffled"}
    result = train(write(lines, [steps]), watcher=told)
    assert result.finished and result.dropped.count == len(UNUSABLE)
    named = [
        json.loads(line) for line in (result.folder / "dropped.jsonl").read_text().splitlines()
    ]
    assert not any("object is not" in one["why"] for one in named)  # words of Python
    for i, name in enumerate(UNUSABLE):
        where = f"talks.jsonl: line {2 * i + 1}:"
        assert sum(one["why"].startswith(where) for one in named) == 1, name
    assert sum("left out" in sentence for sentence in told.said) >= 5


def test_a_micro_batch_without_a_usable_record_changes_nothing_for_the_others(
    write: Write, tmp_path: Path
) -> None:
    rows = [record(0), "{", record(1), record(2)]
    for name, parts in (("whole", 1), ("cut", 4)):
        stage = {"max_steps": 2, "batch_size": 4, "gradient_accumulation_steps": parts}
        train(write(rows, [stage]), out=tmp_path / name)
    ends = [[line["targets"] for line in metrics(tmp_path / name)] for name in ("whole", "cut")]
    assert ends[0] == ends[1]


@pytest.mark.parametrize(("limit", "stops"), [("0.2", True), ("0.5", False)])
def test_a_share_of_broken_records_ends_the_run(limit: str, stops: bool, write: Write) -> None:
    rows = [record(i) if i % 3 else "{" for i in range(9)]
    path = write(rows, [{"max_steps": 5, "order": "shuffled", "max_dropped": float(limit)}])
    if not stops:
        assert train(path).dropped.count >= 3
        return
    with pytest.raises(DroppedError, match=r"more than max_dropped.*talks\.jsonl: line"):
        train(path)
    done = CliRunner().invoke(app, ["train", str(path)])
    assert done.exit_code == 1


def test_a_run_that_left_out_too_much_says_so_again_until_the_limit_is_raised(
    write: Write, tmp_path: Path
) -> None:
    rows = [record(i) if i % 3 else "{" for i in range(9)]
    path = write(rows, [{"max_steps": 9, "batch_size": 1, "order": "shuffled", "max_dropped": 0.2}])
    said = []
    for _ in range(3):
        with pytest.raises(DroppedError) as error:
            train(path, out=tmp_path / "cut")
        said.append(error.value.sentence())
        (place,) = runs.checkpoints(tmp_path / "cut")
        said.append(place.name)
        assert checkpoint.state_of(place)["dropped"] == 1, "those of the undone step come again"
    assert said == said[:2] * 3 and "2 records (of 9)" in said[0]
    assert said[0].count("talks.jsonl: line") == 2, "those known before are named"
    raised = ["stages.0.max_dropped=0.5"]
    ends = [train(path, raised, out=tmp_path / name) for name in ("cut", "straight")]
    assert [(end.finished, end.dropped.count, end.dropped.first) for end in ends] == [
        (True, 3, ends[1].dropped.first)
    ] * 2
    assert _dropped(tmp_path / "cut") == _dropped(tmp_path / "straight")
    same_weights(tmp_path / "straight", tmp_path / "cut")


def _dropped(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "dropped.jsonl").read_text().split("\n")[:-1]]


def test_what_was_left_out_is_known_when_a_run_goes_on(
    write: Write, tmp_path: Path, spoil: Callable[[Spoil], None]
) -> None:
    """Stopped within steps that leave something out, with the counters as they would be without."""
    rows = [record(i) if i % 2 else "{" for i in range(6)]
    path = write(rows, [{"max_steps": 6, "order": "shuffled", "max_dropped": 0.5}])
    straight = train(path, out=tmp_path / "straight")

    def press(call: int, loss: Tensor) -> Tensor:
        if call % 2 == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    spoil(press)
    ends = [train(path, out=tmp_path / "cut")]
    while not ends[-1].finished:
        assert len(ends) < 9
        ends.append(train(path, out=tmp_path / "cut"))
    assert len(ends) > 3 and ends[-1].dropped == straight.dropped
    assert _dropped(tmp_path / "cut") == _dropped(tmp_path / "straight")
    states = [
        checkpoint.state_of(runs.checkpoints(tmp_path / name)[-1])["left_out"]
        for name in ("cut", "straight")
    ]
    assert states[0] == states[1] and states[0]["read"] == 12 and len(states[0]["known"]) == 3


def test_lines_that_are_cut_back_end_at_their_ends_alone(tmp_path: Path) -> None:
    lines = [{"stage": 0, "step": n, "why": "a\u2028b\x85c"} for n in (1, 2, 3)]
    file = tmp_path / "dropped.jsonl"
    file.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines) + '{"st')
    folders.cut_back(file, 0, 2)
    assert _dropped(tmp_path) == lines[:2]


def test_a_checkpoint_that_knows_nothing_of_it_begins_the_count(
    write: Write, tmp_path: Path
) -> None:
    rows = [record(i) if i % 3 else "{" for i in range(9)]
    words = {"max_steps": 9, "batch_size": 1, "order": "shuffled", "max_dropped": 0.5}
    path = write(rows, [{**words, "save_steps": 1}])

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 8:
            raise KeyboardInterrupt

    assert not train(path, out=tmp_path / "run", listener=stop).finished
    place = runs.checkpoints(tmp_path / "run")[-1]
    state = json.loads((place / "state.json").read_text())
    del state["left_out"]
    (place / "state.json").write_text(json.dumps(state))
    (place / runs.SUMS).unlink()
    checkpoint.seal(place, {})
    assert train(path, out=tmp_path / "run").finished


def test_nothing_but_empty_answers_is_refused_before_the_first_step(write: Write) -> None:
    rows = [record(i).replace('["red"]', '["  "]') for i in (0, 3)]
    with pytest.raises(SampleError, match="every answer is empty"):
        train(write(rows))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("seed=3", "seed: 0 -> 3"),
        ("stages.0.batch_size=1", "stages.0.batch_size: 2 -> 1"),
        ("stages.0.optimizer.lr=0.5", r"stages.0.optimizer.lr: 0.001 -> 0.5"),
        ("stages.0.max_steps=9", "stages.0.max_steps: 2 -> 9"),
        ("stages.0.optimizer.weight_decay=0.5", "optimizer.weight_decay: "),
        ("stages.0.optimizer.max_grad_norm=0.5", "optimizer.max_grad_norm: "),
        ("stages.0.schedule.lr_scheduler_type=constant", "schedule.lr_scheduler_type: "),
        ("stages.0.order=shuffled", "stages.0.order: mixture -> shuffled"),
        ("stages.0.mixture.0.data.path=a.png", r"mixture.0.data.path: talks.jsonl -> a.png"),
        ("set.1=language.config.rms_norm_eps=0.1", r"recipe.language.config.rms_norm_eps"),
    ],
)
def test_a_folder_of_a_run_with_other_words_is_refused(
    word: str, said: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(stages=[{"max_steps": 2}])
    train(path)
    before = (path.parent / "run" / "training.yaml").read_text()
    if "a.png" in word:
        (path.parent / "a.png").write_text(record(0))
    with pytest.raises(TrainError, match=f"began with other words: .*{said}"):
        train(path, [word])
    assert (path.parent / "run" / "training.yaml").read_text() == before


def test_two_runs_do_not_share_a_folder(write: Write, tmp_path: Path) -> None:
    path = write(stages=[{"max_steps": 1}])
    holding = (
        "import sys; from pathlib import Path; from omnimix.train.folder import locked; "
        "held = locked(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", holding, str(tmp_path / "run")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(TrainError, match="another process trains in this folder"):
            train(path, out=tmp_path / "run")
        other.stdin.close()
    assert train(path, out=tmp_path / "run").finished


def test_words_that_change_nothing_learned_may_change(write: Write) -> None:
    path = write(stages=[{"max_steps": 2}])
    train(path)
    assert train(path, ["num_workers=1", "stages.0.save_steps=1", "name=other"]).finished


def test_changes_that_are_allowed_are_told_and_kept(write: Write) -> None:
    told = Told()
    path = write(stages=[{"max_steps": 2}])
    train(path)
    result = train(path, ["stages.0.max_steps=3"], watcher=told, allow_changes=True)
    assert result.steps == 1 and "changed: stages.0.max_steps: 2 -> 3" in told.said
    last = json.loads((result.folder / "run.jsonl").read_text().splitlines()[-1])
    assert last["changed"] == ["stages.0.max_steps: 2 -> 3"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_at_its_step(
    value: float, write: Write, spoil: Callable[[Spoil], None]
) -> None:
    path = write(stages=[{"max_steps": 6, "save_steps": 2, "logging_steps": 6}])
    spoil(lambda call, loss: loss * value if call == 5 else loss)
    with pytest.raises(TrainError, match=r"loss of step 5 is (nan|inf)"):
        train(path)
    (_, last) = runs.checkpoints(path.parent / "run")
    assert last.name.endswith("4")
    assert all(t.isfinite().all() for t in load_file(last / "model.safetensors").values())


def test_a_gradient_of_zeros_ends_the_run(write: Write, spoil: Callable[[Spoil], None]) -> None:
    spoil(lambda call, loss: loss * 0 + 5 if call == 2 else loss)
    with pytest.raises(TrainError, match=r"gradient of step 2 is 0.0 while the loss is 5"):
        train(write())


def test_a_loss_far_above_a_guess_is_warned_of(
    write: Write, spoil: Callable[[Spoil], None]
) -> None:
    told = Told()
    spoil(lambda call, loss: loss + 100 if call > 1 else loss)
    train(write(), watcher=told)
    warned = [one for one in told.said if one.startswith("warning: the loss of step")]
    assert len(warned) == 3 and "step 2" in warned[0]


def test_a_learning_rate_of_a_thousand_is_refused(write: Write) -> None:
    with pytest.raises(Exception, match=r"optimizer\.lr: .*less than or equal to 1"):
        train(write(), ["stages.0.optimizer.lr=1000"])


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    weights = {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])}
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
    with pytest.raises(TrainError, match="b holds values that are not finite"):
        checkpoint.save(tmp_path, weights, optimizer, {"stage": 0, "step": 1}, [{}])
    assert runs.checkpoints(tmp_path) == []


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a flipped bit": lambda place: _flip(place / "model.safetensors"),
    "a flipped bit of the optimizer": lambda place: _flip(place / "optimizer.pt"),
    "a cut file": lambda place: os.truncate(place / "optimizer.pt", 100),
    "an empty file": lambda place: (place / "model.safetensors").write_bytes(b""),
    "a missing file": lambda place: (place / "optimizer.pt").unlink(),
    "no checksums": lambda place: (place / "checksums.json").unlink(),
    "checksums cut": lambda place: os.truncate(place / "checksums.json", 5),
    "a cut file of weights": lambda place: os.truncate(place / "model.safetensors", 300),
    "a file of zeros": lambda place: (place / "optimizer.pt").write_bytes(bytes(4096)),
    "checksums of nothing": lambda place: (place / "checksums.json").write_text("[]"),
    "another state": lambda place: (place / "state.json").write_text('{"stage": 0, "step": 9}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_found(
    damage: str, tmp_path: Path
) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
    for step in (1, 2):
        weights = {"a": torch.rand(200)}
        state = {"stage": 0, "step": step}
        checkpoint.save(tmp_path, weights, optimizer, state, [checkpoint.chance()])
    with pytest.raises(CheckpointError, match=r"not ended.*from stage-00-step-0000002, which is"):
        find(tmp_path)
    DAMAGES[damage](last := tmp_path / "stage-00-step-0000002")
    for place in (tmp_path, last):  # by those who answer, too
        with pytest.raises(
            CheckpointError,
            match=r"0002 is damaged \(.*--fall-back goes on from stage-00-step-0000001",
        ):
            find(place)
    with pytest.raises(
        TrainError, match=r"is damaged \(.*--fall-back goes on from stage-00-step-0000001"
    ):
        checkpoint.newest(tmp_path)
    place, said = checkpoint.newest(tmp_path, fall_back=True)
    assert place == tmp_path / "stage-00-step-0000001"
    assert len(said) == 1 and said[0].startswith("stage-00-step-0000002 is damaged")
    assert checkpoint.newest(tmp_path) == (place, [])
    DAMAGES[damage](place)
    with pytest.raises(CheckpointError, match="can end in no model"):
        find(tmp_path)
    with pytest.raises(TrainError, match="no whole checkpoint is left"):
        checkpoint.newest(tmp_path, fall_back=True)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "recipe.yaml").touch()
    with pytest.raises(CheckpointError, match=r"training run\. Its model is .*model"):
        find(tmp_path)


def test_a_run_that_fell_back_ends_as_one_that_did_not(write: Write, tmp_path: Path) -> None:
    path = write(stages=[{"max_steps": 4, "save_steps": 2}])
    train(path, out=tmp_path / "straight")
    train(path, out=tmp_path / "cut")
    _flip(tmp_path / "cut" / "stage-00-step-0000004" / "model.safetensors")
    with pytest.raises(TrainError, match="is damaged"):
        train(path, out=tmp_path / "cut")
    assert train(path, out=tmp_path / "cut", fall_back=True).steps == 2
    same_weights(tmp_path / "straight", tmp_path / "cut")
    assert metrics(tmp_path / "straight") == metrics(tmp_path / "cut")


def test_metrics_behind_the_checkpoint_are_cut_back(write: Write, tmp_path: Path) -> None:
    """A run that was killed has written lines of steps that it takes again."""
    path = write(stages=[{"max_steps": 4, "save_steps": 2}])
    train(path, out=tmp_path / "straight")
    train(path, out=tmp_path / "cut")
    last = tmp_path / "cut" / "stage-00-step-0000004"
    last.rename(last.with_name("lost"))
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"stage": 0, "st')
    train(path, out=tmp_path / "cut")
    assert metrics(tmp_path / "straight") == metrics(tmp_path / "cut")


def test_a_full_disk_ends_in_a_sentence_and_the_checkpoint_before_stays(
    write: Write, tmp_path: Path
) -> None:
    path = write(stages=[{"max_steps": 4, "save_steps": 2}])
    train(path, out=tmp_path / "straight")

    def full(line: dict[str, Any]) -> None:
        if line["step"] == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(
            WriteError, match=r"cannot be written \(File too large\).*from stage-00-step-0000002"
        ):
            train(path, out=tmp_path / "cut", listener=full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [place.name for place in (tmp_path / "cut").iterdir() if "part" in place.name] == []
    train(path, out=tmp_path / "cut")
    same_weights(tmp_path / "straight", tmp_path / "cut")


@pytest.mark.parametrize("room", [0, 1, 7, 63, 100, 500, 900, 1500, 2500, 4000])
def test_a_disk_that_is_full_at_any_byte_leaves_no_half_of_a_checkpoint(
    room: int, tmp_path: Path
) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
    words = {"a": torch.rand(700)}, optimizer
    first = checkpoint.save(tmp_path, *words, {"stage": 0, "step": 1}, [checkpoint.chance()])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(
            WriteError, match=r"cannot be written \(.*goes on from stage-00-step-0000001"
        ):
            checkpoint.save(tmp_path, *words, {"stage": 0, "step": 2}, [checkpoint.chance()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [first] and runs.damage(first) is None


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        PermissionError(13, "Permission denied"),
    ],
)
def test_errors_of_writing_become_sentences(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(torch, "save", fail)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
    with pytest.raises(WriteError, match=r"stage-00-step-0000001: cannot be written \("):
        checkpoint.save(tmp_path, {"a": torch.ones(1)}, optimizer, {"stage": 0, "step": 1}, [{}])


def test_a_folder_that_cannot_be_made_is_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"cannot be written \(Not a directory\)"):
        train(write(), out=tmp_path / "a.png" / "run")


def test_a_checkpoint_holds_what_learns_and_refuses_another_foundation(
    write: Write, tiny_folder: Path, tmp_path: Path
) -> None:
    words = [f"initial_checkpoint={tmp_path / 'begin'}", "stages.0.trainable=[connectors]"]
    (tmp_path / "begin").symlink_to(tiny_folder)
    path = write(stages=[{"max_steps": 2, "save_steps": 1}])
    result = train(path, words)
    (_, last) = runs.checkpoints(result.folder)
    held = load_file(last / "model.safetensors")
    names = {name for name in held if "running" not in name and "num_batches" not in name}
    assert names and all(".connector." in name or ".frame." in name for name in names)
    whole = load_file(tiny_folder / "model.safetensors")
    name = next(name for name in whole if name.startswith("language.") and whole[name].ndim == 2)
    whole[name][0, 0] += 1
    (tmp_path / "begin").unlink()
    (tmp_path / "begin").mkdir()
    save_file(whole, tmp_path / "begin" / "model.safetensors", {"format": "pt"})
    with pytest.raises(TrainError, match="stay frozen are not those that the run began with"):
        train(path, words)


def test_recomputed_activations_change_no_number(
    write: Write, tmp_path: Path, tiny_recipe: Recipe
) -> None:
    path = write(stages=[{"max_steps": 2}, {"max_steps": 1}])
    train(path, out=tmp_path / "kept")
    train(path, ["stages.0.gradient_checkpointing=true"], out=tmp_path / "again")
    left, right = weights(tmp_path / "kept"), weights(tmp_path / "again")
    # Gradients are added up in another order.
    # Adam divides by the size of a gradient, which near zero is nothing but rounding.
    torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)
    model = MultimodalLM.from_recipe(tiny_recipe)
    for on in (True, False):
        recompute(model, on)
        assert any(getattr(m, "gradient_checkpointing", False) for m in model.modules()) == on


def test_a_word_of_the_style_that_the_tokenizer_lacks_is_warned_of(write: Write) -> None:
    told = Told()
    train(write(stages=[{"max_steps": 1}]), [f"set={[*TINY, STYLE]}"], watcher=told)
    assert any(one.startswith("warning: ") and "<|im_start|>" in one for one in told.said)


def wordy(i: int) -> str:
    turns = [{"role": "user", "content": ["?"]}, {"role": "assistant", "content": ["red"]}]
    return json.dumps({"id": str(i), "turns": turns})


def test_a_stage_in_which_no_step_teaches_ends_with_exit_code_1(write: Write) -> None:
    path = write([wordy(i) for i in range(4)], [{"trainable": ["connectors"], "max_steps": 3}])
    with pytest.raises(IdleError, match=r"stages\.0: no step of 3 taught anything: the gradient"):
        train(path)
    assert CliRunner().invoke(app, ["train", str(path)]).exit_code == 1
    with pytest.raises(IdleError, match="the last 4 steps taught nothing"):
        train(path, ["stages.0.max_steps=30"], out=path.parent / "long")


def test_steps_without_a_picture_among_others_are_no_fault(write: Write) -> None:
    rows = [record(0), *(wordy(i) for i in range(1, 5))]
    stage = {"trainable": ["connectors"], "max_steps": 10, "batch_size": 1}
    result = train(write(rows, [stage]))
    assert result.finished and result.steps == 10
