"""From one layout to another and back, each proven on a probe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import omnimix
from omnimix.cli.main import app
from omnimix.convert.layouts import convert
from omnimix.convert.verifying import verify
from omnimix.errors import CheckpointError
from tests.cases import case_path


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("converted") / "native"
    convert(case_path("prismatic/dinosiglip_gelu/checkpoint"), place)
    return place


def test_a_certificate_is_written(native: Path) -> None:
    facts = json.loads((native / "certificate.json").read_text())
    assert facts["from"].startswith("prismatic") and facts["to"] == "native"
    assert facts["versions"]["torch"] and facts["bytes"]["model.safetensors"] > 10_000
    assert facts["largest_differences"]["logits"]["difference"] <= 1e-4
    assert verify(native).passed


def test_there_and_back(native: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = CliRunner().invoke(app, ["convert", str(native), str(out), "--to", "prismatic"])
    assert result.exit_code == 0, result.output
    assert verify(out).passed
    first = case_path("prismatic/dinosiglip_gelu/checkpoint/checkpoints/latest-checkpoint.pt")
    one = torch.load(first, weights_only=True)["model"]
    other = torch.load(out / "checkpoints" / "latest-checkpoint.pt", weights_only=True)["model"]
    assert one.keys() == other.keys()
    for group, tensors in one.items():
        assert tensors.keys() == other[group].keys()
        assert all(torch.equal(tensors[key], other[group][key]) for key in tensors)
    section = json.loads((out / "config.json").read_text())["model"]
    assert section["vision_backbone_id"] == "dinosiglip-vit-so-384px"
    assert section["image_resize_strategy"] == "letterbox"
    assert section["llm_max_length"] == 2048
    assert omnimix.load(out).processor.recipe == omnimix.load(native).processor.recipe


def test_a_changed_model_is_found_out(native: Path, tmp_path: Path) -> None:
    place = tmp_path / "changed"
    place.mkdir()
    for file in native.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    tensors = load_file(place / "model.safetensors")
    tensors["image.branches.0.connector.4.bias"] += 0.5
    save_file(tensors, place / "model.safetensors", {"format": "pt"})
    report = verify(place)
    assert report.failed is not None and report.failed.stage == "embeddings"


def test_what_cannot_be_expressed_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be expressed as Prismatic"):
        convert("nano", tmp_path / "out", "prismatic")
    assert not (tmp_path / "out").exists()


def test_bad_words(native: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"unknown layout 'prismatc'\. Did you mean 'prismatic'"
    ):
        convert(native, tmp_path / "out", "prismatc")
    (tmp_path / "used").write_text("x")
    with pytest.raises(CheckpointError, match="the folder to write to is not empty"):
        convert(native, tmp_path)
    result = CliRunner().invoke(app, ["convert", str(native), str(tmp_path / "o"), "--part", "llm"])
    assert result.exit_code == 2 and "--part takes NAME=PLACE" in result.stderr
