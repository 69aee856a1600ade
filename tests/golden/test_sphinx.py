"""Every public case of SPHINX through `omnimix verify`, the reference's face, and changed cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from omnimix.cli.main import app
from omnimix.convert.layouts import convert
from omnimix.convert.verifying import verify
from omnimix.errors import CheckpointError
from tests.cases import case_path

COMMON = {
    *("folder", "pixels", "prompt", "ids", "features", "embeddings", "states", "logits", "stops"),
    *("greedy ids", "text", "stream", "scores", "top-p", "quantized"),
}
STAGES = {
    "ens_1shard": COMMON | {"connector tokens", "mix"},
    "ens5_2shard": COMMON
    | {
        *("records", "labels", "what learns", "groups", "loss", "gradients", "weights", "rates"),
        "batches",
    },
}
ONE = "sphinx/ens_1shard"


@pytest.mark.parametrize("case", STAGES)
def test_every_public_case_agrees(case: str) -> None:
    report = verify(case_path(f"sphinx/{case}"), stop=False)
    assert report.passed, report.failed
    assert report.unread == []
    assert {line.stage for line in report.lines()} == STAGES[case]


# --- the doors ---


def test_the_greedy_answer_at_the_command_line() -> None:
    folder = case_path(ONE)
    words = ["--image", str(folder / "inputs/cat.png"), "--ask", "What's in the image?"]
    result = CliRunner().invoke(app, ["chat", str(folder / "checkpoint"), *words])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("no people")  # as the golden batch says


def test_there_and_back_again(tmp_path: Path) -> None:
    source = case_path("sphinx/ens5_2shard/checkpoint")
    for checks in (
        convert(source, tmp_path / "native"),
        convert(tmp_path / "native", tmp_path / "four", "sphinx", shards=4),
    ):
        assert all(check.passed and check.difference == 0 for check in checks)
    assert verify(tmp_path / "four").passed
    files = {path.name for path in (tmp_path / "four").iterdir()}
    assert files >= {f"consolidated.{i:02d}-of-04.model.pth" for i in range(4)}
    assert files >= {"tokenizer.model", "config.json", "meta.json"}
    theirs = json.loads((source / "config.json").read_text(encoding="utf-8"))
    assert json.loads((tmp_path / "four/config.json").read_text(encoding="utf-8")) == theirs


# --- changed cases: a difference is found, and named ---


def copied(tmp_path: Path, case: str) -> Path:
    """A case under another name; what tests change is copied, the rest linked."""
    source = case_path(f"sphinx/{case}")
    out = tmp_path / "moved"
    out.mkdir()
    for path in source.iterdir():
        if path.is_dir():
            (out / path.name).symlink_to(path)
        else:
            (out / path.name).write_bytes(path.read_bytes())
    return out


def change_tensor(out: Path, name: str, change: Callable[[Tensor], Tensor]) -> None:
    tensors = load_file(out / "expected.safetensors")
    tensors[name] = change(tensors[name].clone()).contiguous()
    save_file(tensors, out / "expected.safetensors")


@pytest.mark.parametrize(
    ("case", "name", "stage"),
    [
        ("ens_1shard", "pre.u8.cat.png", "pixels"),
        ("ens5_2shard", "pre.thumb224_half_s2", "pixels"),
        ("ens_1shard", "feat.qformer", "features"),
        ("ens_1shard", "feat.ens", "features"),
        ("ens5_2shard", "alt.clip_quickgelu_view0", "features"),
        ("ens_1shard", "visual_tokens", "connector tokens"),
        ("ens_1shard", "hidden_last_text", "states"),
        ("ens_1shard", "gen.2.step_logits", "logits"),
        ("ens_1shard", "mix.logits_beta0.5", "mix"),
        ("ens5_2shard", "train.finetune.grad.llma.start_img", "gradients"),
        ("ens5_2shard", "train.finetune.after.llma.layers.1.attention.wo.weight", "weights"),
    ],
)
def test_a_changed_number_is_found_in_its_stage(
    case: str, name: str, stage: str, tmp_path: Path
) -> None:
    out = copied(tmp_path, case)

    def changed(tensor: Tensor) -> Tensor:
        flat = tensor.view(-1)
        flat[-1] = 255 - flat[-1] if tensor.dtype == torch.uint8 else flat[-1] + 1
        return tensor

    change_tensor(out, name, changed)
    report = verify(out)
    assert report.failed is not None and report.failed.stage == stage
    assert [line.stage for line in report.lines() if not line.passed] == [stage]


@pytest.mark.parametrize(
    ("case", "section", "change", "stage"),
    [
        ("ens5_2shard", "sampler", lambda facts: facts["epochs"]["0"].reverse(), "batches"),
        (
            "ens5_2shard",
            "lr_schedule",
            lambda facts: facts["points"].update({"0.5": 1e-5}),
            "rates",
        ),
        ("ens_1shard", "quant", lambda facts: facts["quantised_linear_modules"].pop(), "quantized"),
        ("ens_1shard", "score", lambda facts: facts["log_likelihood"].reverse(), "scores"),
        ("ens_1shard", "stream", lambda facts: facts["shown"].pop(0), "stream"),
    ],
)
def test_a_changed_word_is_found_in_its_stage(
    case: str, section: str, change: Callable[[dict[str, Any]], Any], stage: str, tmp_path: Path
) -> None:
    out = copied(tmp_path, case)
    facts = json.loads((out / "case.json").read_text(encoding="utf-8"))
    change(facts["results"][section])
    (out / "case.json").write_text(json.dumps(facts), encoding="utf-8")
    report = verify(out)
    assert report.failed is not None and report.failed.stage == stage


def test_a_layout_without_shards_refuses_the_word(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the layout prismatic has no word 'shards'"):
        convert(case_path(ONE) / "checkpoint", tmp_path / "out", "prismatic", shards=2)
