"""The base of family readers: parts and words apart, files told apart by what is wrong with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from omnimix.checkpoints import base
from omnimix.checkpoints.base import Parts
from omnimix.checkpoints.files import Files, read_json, tensors_of
from omnimix.errors import CheckpointError, UnsafeFileError
from tests.cases import case_path

FOLDERS = [
    "prismatic/clip_mlp_vicuna/checkpoint",
    "sphinx/ens_1shard/checkpoint",
    "multi_token/vision_lora/checkpoint",
    "xgen_mm/anyres_single/checkpoint/hf_hub",
]


@pytest.mark.parametrize("folder", FOLDERS)
def test_unknown_parts_and_words_are_refused_in_every_family(folder: str) -> None:
    path = case_path(folder)
    recognised = base.recognise(path)
    assert recognised is not None
    family = recognised[0]
    part, word = family.part_names[0], family.known_words[0]
    for given, said in (
        (Parts({f"{part}x": "a"}), f"knows no part '{part}x'.*[Dd]id you mean '{part}'"),
        (Parts(words={f"{word}x": 1}), f"knows no word '{word}x'.*[Dd]id you mean '{word}'"),
        (Parts(words={part: 1}), f"{part} is a part, not a word.*--part {part}=FOLDER"),
    ):
        with pytest.raises(CheckpointError, match=said):
            base.open_release(recognised, given)
    apart = next(word for word in family.known_words if word not in family.part_names)
    with pytest.raises(CheckpointError, match=f"{apart} is a word, not a place.*--word {apart}=x"):
        base.open_release(recognised, Parts({apart: "x"}))


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_lies_beside_a_checkpoint_is_enough(folder: str) -> None:
    assert base.open_release(case_path(folder)).recipe.modalities


def test_backbones_are_told_apart_by_what_is_inside(tmp_path: Path) -> None:
    for case in ("clip_mlp_vicuna", "dinosiglip_gelu"):
        place = tmp_path / case
        shutil.copytree(case_path(f"prismatic/{case}"), place, copy_function=shutil.copyfile)
        words = json.loads((place / "parts.json").read_text())["words"]
        (place / "parts.json").unlink()
        (place / "backbones").chmod(0o755)
        (place / "backbones" / "vision").rename(place / "backbones" / "some encoders")
        wanted = base.open_release(case_path(f"prismatic/{case}/checkpoint"))
        release = base.open_release(place / "checkpoint", Parts(words=words))
        assert release.recipe == wanted.recipe
        assert [w.name for w in release.weights] == [w.name for w in wanted.weights]


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "is no JSON"), ("[1]", "holds a list"), (b"\xff\xfe{}", "is no JSON")],
)
def test_broken_json_is_named(text: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=said):
        read_json(path)
    path.write_text("\ufeff" + '{"a": 1}', encoding="utf-8")
    assert read_json(path) == {"a": 1} and read_json(tmp_path / "other.json") is None


def test_python_objects_are_an_error_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": Path("x")}, path)
    with pytest.raises(UnsafeFileError, match="would run code"):
        tensors_of(path)
    path.write_bytes(b"no file of weights")
    with pytest.raises(CheckpointError, match="truncated") as caught:
        tensors_of(path)
    assert not isinstance(caught.value, UnsafeFileError)


def test_a_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    opened: list[Any] = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda path, **w: opened.append(path) or load(path, **w))
    files = Files()
    assert files.sizes([tmp_path / "a.pt"]) == {"a": (2,)}
    assert files.tensors(tmp_path / "a.pt")["a"].sum() == 2 and len(opened) == 1
