"""Every projector, vision backbone and language model of the spec: opened and written back with its keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from omnimix.checkpoints import base, reading
from omnimix.checkpoints.base import Parts
from omnimix.compose.modality import Modality
from omnimix.compose.recipe import difference
from omnimix.encoders.timm import TimmTrunk
from omnimix.families.prismatic.folder import Prismatic
from tests.cases import case_path, golden
from tests.families.prismatic.runs import ENCODERS, LLMS, made, words

PROJECTORS = ["linear", "gelu-mlp", "fused-gelu-mlp", "no-align+linear", "no-align+gelu-mlp"]
STRATEGIES = ["letterbox", "resize-crop", "resize-naive"]


def there_and_back(run: Path, vision: str, out: Path) -> base.Release:
    release = base.open_release(run, Parts(words=words(vision)))
    model, processor, report = reading.load(release)
    Prismatic().write(model, processor, out)
    file = "checkpoints/latest-checkpoint.pt"
    theirs, ours = (torch.load(place / file)["model"] for place in (run, out))
    assert {group: list(keys) for group, keys in ours.items()} == {
        group: list(keys) for group, keys in theirs.items()
    }
    assert all(
        torch.equal(ours[group][key], theirs[group][key])
        for group in theirs
        for key in theirs[group]
    )
    for part in ENCODERS[vision]:
        stock = load_file(run.parent / "backbones" / "vision" / f"any_{part}.safetensors")
        written = load_file(out / "backbones" / "vision" / f"{part}.safetensors")
        unused = {k.removeprefix(f"{part}: ") for k in report.unused if k.startswith(f"{part}: ")}
        assert written.keys() == stock.keys() - unused
        assert all(torch.equal(written[key], stock[key]) for key in written)
    again = base.open_release(out)
    assert difference(again.recipe, release.recipe) is None
    return release


@pytest.mark.parametrize("arch", PROJECTORS)
def test_projectors_have_the_keys_of_the_spec(arch: str, tmp_path: Path) -> None:
    run = made(tmp_path, "clip-vit-l", "llama2-7b-pure", arch)
    there_and_back(run, "clip-vit-l", tmp_path / "out")


@pytest.mark.parametrize("number", range(len(ENCODERS)))
def test_every_vision_backbone(number: int, tmp_path: Path) -> None:
    vision = list(ENCODERS)[number]
    strategy = STRATEGIES[number % len(STRATEGIES)]
    run = made(tmp_path, vision, "vicuna-v15-7b", "fused-gelu-mlp", strategy)
    release = there_and_back(run, vision, tmp_path / "out")
    encoders = release.recipe.modalities["image"].branches[0].encoders
    quick = [encoder.dump()["args"]["act_layer"] for encoder in encoders]
    assert quick == ["quick_gelu" if vision.startswith("clip-") else "gelu"] * len(encoders)


@pytest.mark.parametrize("llm", LLMS)
def test_every_language_model_and_its_template(llm: str, tmp_path: Path) -> None:
    run = made(tmp_path, "siglip-vit-so400m", llm, "gelu-mlp")
    release = there_and_back(run, "siglip-vit-so400m", tmp_path / "out")
    assert release.recipe.template.name == LLMS[llm][2]


def test_the_ids_are_those_of_the_published_tables() -> None:
    text = case_path("prismatic/registry_tables.json").read_text(encoding="utf-8")
    tables = json.loads(text)
    assert set(tables["vision_backbones"]) == set(ENCODERS)
    assert set(tables["llm_backbones"]) == set(LLMS)


@pytest.mark.parametrize("case", ["clip_mlp_vicuna", "dinosiglip_gelu"])
def test_a_load_builds_and_opens_everything_once(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, _ = golden(f"prismatic/{case}")
    built: list[str] = []
    opened: list[str] = []
    for kind in (Modality, TimmTrunk):
        before = kind.__init__

        def counting(self: object, *args: object, _before: object = before) -> None:
            built.append(type(self).__name__)
            _before(self, *args)  # type: ignore[operator]

        monkeypatch.setattr(kind, "__init__", counting)
    create, load = timm.create_model, torch.load
    monkeypatch.setattr(
        timm, "create_model", lambda *a, **k: built.append("timm") or create(*a, **k)
    )
    monkeypatch.setattr(torch, "load", lambda f, **k: opened.append(str(f)) or load(f, **k))
    reading.load(base.open_release(folder / "checkpoint"))
    trunks = 2 if case.startswith("dino") else 1
    assert sorted(built) == ["Modality", *["TimmTrunk"] * trunks, *["timm"] * trunks]
    assert opened == [str(folder / "checkpoint" / "checkpoints" / "latest-checkpoint.pt")]
