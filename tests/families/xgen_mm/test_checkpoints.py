"""xGen-MM's files: every layout read and written, every key of the real releases mapped, refusals in words."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import omnimix
from omnimix.checkpoints import base, reading, tables
from omnimix.checkpoints.base import Parts
from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import CheckpointError
from omnimix.families.xgen_mm import names, recipe as xgen_recipe
from omnimix.families.xgen_mm.folder import Found, XGenMM
from omnimix.families.xgen_mm.recipe import Facts
from omnimix.families.xgen_mm.tokenizer import MARKS
from omnimix.language.slow_llama import AddedToken, SlowLlama
from omnimix.media.tiling import GRIDS
from tests.cases import case_path

CASE = "xgen_mm/anyres_single"
MANIFEST = "xgen-mm-phi3-mini-instruct-interleave-r-v1.5"
LAYOUTS = {
    "hf_hub_fp32": ("vlm.", True),
    "hf_hub_bf16_estimated_shards": ("vlm.", True),
    "train_fsdp": ("model_state_dict.", True),
    "train_ddp": ("model_state_dict.module.", False),
    "converted_bare": ("", True),
}
"""For each manifest its prefix and whether it holds the vision encoder."""


@pytest.fixture(scope="module")
def loaded() -> tuple[MultimodalLM, Processor]:
    model, processor, _ = reading.load(base.open_release(case_path(f"{CASE}/checkpoint/hf_hub")))
    return model, processor


@pytest.fixture(scope="module")
def full() -> MultimodalLM:
    """The release at its real size, without memory."""
    added = tuple(
        AddedToken(content=text, id=32000 + i)
        for i, text in enumerate(["<|endoftext|>", *(f"<{i}>" for i in range(11)), *MARKS])
    )
    tokenizer = SlowLlama(
        path="tokenizer.model",
        added_tokens=added,
        eos_token="<|endoftext|>",
        extra_special_tokens=MARKS,
    )
    facts = Facts(
        text={"sliding_window": 2047},
        vision=xgen_recipe.VISION,
        tokenizer=tokenizer,
    )
    return MultimodalLM.on_meta(xgen_recipe.build(facts))


def manifest(layout: str) -> dict[str, tuple[int, ...]]:
    path = case_path(f"xgen_mm/manifest/{MANIFEST}.{layout}.json.gz")
    files = json.loads(gzip.decompress(path.read_bytes()))["files"]
    return {key: tuple(shape) for keys in files.values() for key, (shape, _) in keys.items()}


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_key_of_the_release_is_one_parameter_and_back(
    layout: str, full: MultimodalLM
) -> None:
    prefix, tower = LAYOUTS[layout]
    keys = manifest(layout)
    stored = {key: torch.empty(shape, device="meta") for key, shape in keys.items()}
    plan = names.table(prefix, 32012).reading(stored)
    assert not plan.unknown and not plan.missing
    assert all(".head." in key for key in plan.unused) and len(plan.unused) == 11 * tower
    sources = [name for move in plan.moves for name in move.foreign]
    assert sorted([*sources, *plan.unused]) == sorted(keys)  # each exactly once
    wanted = {k: v for k, v in full.state_dict().items() if tower or names.TOWER not in k}
    assert shapes(tables.read(plan, stored)) == shapes(wanted)
    written = shapes(XGenMM().tensors(full, prefix))
    assert {k: v for k, v in written.items() if tower or "vision_encoder" not in k} == keys


def test_the_release_has_its_number_of_parameters(full: MultimodalLM) -> None:
    learned = {k: p.numel() for k, p in full.named_parameters() if names.TOWER not in k}
    assert sum(learned.values()) == 3_931_031_619
    assert len(manifest("hf_hub_fp32")) == 718


def test_the_shipped_recipe_is_the_release(full: MultimodalLM) -> None:
    shipped = recipes.load("xgen_mm")
    odd = recipes.difference(shipped, full.recipe.model_copy(update={"tokenizer": None}))
    assert odd is None, odd


def test_all_layouts_hold_the_same_model(loaded: tuple[MultimodalLM, Processor]) -> None:
    folder = case_path(f"{CASE}/checkpoint/train_fsdp")
    for path in (folder / "checkpoint_0.pt", folder):
        release = base.open_release(path, Parts(words={"heads": 4}))
        assert release.layout.kind == names.TRAINER
        tensors, report = reading.native_tensors(release)
        reading.check(release, MultimodalLM.on_meta(release.recipe), tensors)
        assert len(report.unused) == 11 and report.used == 83
        for name, tensor in loaded[0].state_dict().items():
            assert torch.equal(tensors[name], tensor), name


def test_a_ddp_file_takes_the_vision_encoder_from_its_part() -> None:
    release = base.open_release(
        case_path(f"{CASE}/checkpoint/train_ddp"), Parts(words={"heads": 4})
    )
    tensors, report = reading.native_tensors(release)
    reading.check(release, MultimodalLM.on_meta(release.recipe), tensors)
    assert "siglip" in report.notes[0]
    assert {reason for key, reason in report.unused.items() if "optimizer" in key} == {
        "the optimizer's state is not carried over"
    }
    tower = load_file(release.weights[1].files[0])
    name = "vision_model.post_layernorm.weight"
    assert torch.equal(tensors[f"{names.TOWER}post_layernorm.weight"], tower[name])


def test_the_newest_file_of_a_folder_is_the_highest_number(tmp_path: Path) -> None:
    source = case_path(f"{CASE}/checkpoint/train_fsdp/checkpoint_0.pt")
    for number in (0, 2, 10):
        shutil.copy(source, tmp_path / f"checkpoint_{number}.pt")
    found = base.recognise(tmp_path)
    assert found is not None and found[1].root.name == "checkpoint_10.pt"


def test_a_hub_folder_comes_back_key_by_key(
    loaded: tuple[MultimodalLM, Processor], tmp_path: Path
) -> None:
    files = XGenMM().write(*loaded, tmp_path)
    assert all(path.is_file() for path in files)
    original = case_path(f"{CASE}/checkpoint/hf_hub")
    theirs, ours = stored(original), stored(tmp_path)
    assert shapes(ours) == shapes(theirs)
    for key, tensor in theirs.items():
        if ".head." not in key or "lm_head" in key:
            assert torch.equal(ours[key], tensor), key
        else:
            assert not ours[key].any(), key
    config = json.loads((tmp_path / "config.json").read_text())
    wanted = json.loads((original / "config.json").read_text())
    for part in ("text_config", "vision_tokenizer_config"):
        for word, value in wanted[part].items():
            if word != "torch_dtype":
                assert config[part][word] == value, word
    for name in ("preprocessor_config.json", "added_tokens.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads(
            (original / name).read_text()
        )
    again = base.open_release(tmp_path)
    before = base.open_release(original)
    assert again.recipe.model_copy(update={"name": before.recipe.name}) == before.recipe


def stored(folder: Path) -> dict[str, Tensor]:
    release = base.open_release(folder)
    return release.layout.opened.tensors(*release.weights[0].files)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("checkpoint_3.pt", names.TRAINER), ("base_model_weight.pt", names.BARE)],
)
def test_single_files_come_back(
    name: str, kind: str, loaded: tuple[MultimodalLM, Processor], tmp_path: Path
) -> None:
    XGenMM().write(*loaded, tmp_path / name)
    parts = Parts(XGenMM().parts(beside()).places, {"heads": 4})
    release = base.open_release(tmp_path / name, parts)
    assert release.layout.kind == kind
    tensors, _ = reading.native_tensors(release)
    reading.check(release, MultimodalLM.on_meta(release.recipe), tensors)
    for key, tensor in loaded[0].state_dict().items():
        assert torch.equal(tensors[key], tensor), key


def beside() -> base.Layout:
    return Found("xgen_mm", names.HUB, case_path(f"{CASE}/checkpoint/hf_hub"))


def test_the_trainers_keys_under_ddp(loaded: tuple[MultimodalLM, Processor]) -> None:
    ours = shapes(XGenMM().tensors(loaded[0], "module."))
    theirs = torch.load(
        case_path(f"{CASE}/checkpoint/train_ddp/checkpoint_1.pt"), weights_only=True
    )
    learned = {key: shape for key, shape in ours.items() if "vision_encoder" not in key}
    assert learned == shapes(theirs["model_state_dict"])


TRAINED = f"{CASE}/checkpoint/train_fsdp/checkpoint_0.pt"


def test_a_trainers_file_makes_the_recipe(loaded: tuple[MultimodalLM, Processor]) -> None:
    backbones = case_path(f"{CASE}/backbones")
    parts: dict[str, Any] = {
        "llm": backbones / "Phi-3-mini-4k-instruct-tiny",
        "vision": backbones / "siglip-so400m-patch14-384-tiny",
    }
    recipe, ours = (
        base.open_release(case_path(TRAINED), Parts(parts, {"heads": 4})).recipe,
        loaded[0].recipe,
    )
    assert recipe.modalities == ours.modalities
    assert recipe.language.head == ours.language.head
    assert recipe.tokenizer == ours.tokenizer and recipe.template == ours.template
    assistant = omnimix.load(case_path(TRAINED), parts=parts, heads=4, num_vision_tokens=8)
    assert torch.equal(
        assistant.model.get_output_embeddings().weight, loaded[0].get_output_embeddings().weight
    )


def test_the_aspect_and_the_sampling_are_words() -> None:
    def image(**more: Any) -> Any:
        return opened(case_path(TRAINED), heads=4, **more).recipe.modalities["image"]

    flat = image(anyres_patch_sampling=False)
    assert flat.arrange.kind == "flat" and flat.groups(5) == 1
    assert image().groups(5) == 5
    pad = image(image_aspect_ratio="pad")
    assert [step.kind for step in pad.steps] == ["pad", "resize"] and pad.arrange is None
    assert pad.steps[0].fill == (127, 127, 127)
    assert [step.kind for step in image(image_aspect_ratio="none").steps] == ["resize"]
    assert image(anyres_grids=[(1, 1), (4, 1)]).steps[0].grids == ((1, 1), (4, 1))


def test_the_base_release_has_neither_aspect_nor_roles(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["vision_encoder_config"] = {"model_type": "xgenmm_vision_encoder"}
    (folder / "config.json").write_text(json.dumps(config))
    recipe = opened(folder).recipe
    assert [step.kind for step in recipe.modalities["image"].steps] == ["resize"]
    assert recipe.modalities["image"].arrange is None
    assert recipe.template.name == "xgen_base" and recipe.template.default_system is None
    assert opened(folder, image_aspect_ratio="pad").recipe.template.name == "phi3"


# --- what is refused ---


def copied(tmp_path: Path, without: str = "") -> Path:
    source = case_path(f"{CASE}/checkpoint/hf_hub")
    out = tmp_path / "hub"
    out.mkdir()
    for path in source.iterdir():
        if path.name != without:
            shutil.copyfile(path, out / path.name)
    return out


def opened(path: Path, **words: Any) -> Any:
    vision = case_path(f"{CASE}/backbones/siglip-so400m-patch14-384-tiny")
    return base.open_release(path, Parts({"vision": vision}, words))


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer_config.json"])
def test_a_missing_tokenizer(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"the tokenizer is missing: no {name}"):
        opened(copied(tmp_path, name))


def test_a_missing_and_a_truncated_shard(tmp_path: Path) -> None:
    folder = copied(tmp_path, "model-00002-of-00005.safetensors")
    with pytest.raises(CheckpointError, match="1 of 5 shards of the model are missing"):
        opened(folder)
    data = (
        case_path(f"{CASE}/checkpoint/hf_hub") / "model-00002-of-00005.safetensors"
    ).read_bytes()
    (folder / "model-00002-of-00005.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"model-00002.*truncated"):
        opened(folder)


def test_a_truncated_trainer_file(tmp_path: Path) -> None:
    data = case_path(f"{CASE}/checkpoint/train_fsdp/checkpoint_0.pt").read_bytes()
    (tmp_path / "checkpoint_0.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        base.open_release(tmp_path)


def test_a_wrong_number_of_latents() -> None:
    with pytest.raises(CheckpointError, match=r"holds 8 latents, but 128 tokens .* Set num_vision"):
        opened(case_path(f"{CASE}/checkpoint/hf_hub"), num_vision_tokens=128)
    with pytest.raises(CheckpointError, match="holds 8 latents"):
        opened(case_path(TRAINED), heads=4, num_vision_tokens=64)


def test_sizes_that_no_file_tells(tmp_path: Path) -> None:
    source = case_path(f"{CASE}/checkpoint/train_fsdp/checkpoint_0.pt")
    path = tmp_path / "checkpoint_0.pt"  # with nothing beside it
    shutil.copyfile(source, path)
    llm = case_path(f"{CASE}/backbones/Phi-3-mini-4k-instruct-tiny")
    vision = case_path(f"{CASE}/backbones/siglip-so400m-patch14-384-tiny")
    with pytest.raises(CheckpointError, match="number of heads is not known"):
        base.open_release(path, Parts({"llm": llm, "vision": vision}))
    parts = {"llm": llm, "vision": xgen_recipe.VISION_ID}
    with pytest.raises(CheckpointError, match=r"another shape: image.* instead of \[1152"):
        reading.load(base.open_release(path, Parts(parts, {"heads": 4})))
    with pytest.raises(CheckpointError, match=r"no word 'head'. Did you mean 'heads'"):
        base.open_release(path, Parts(words={"head": 4}))
    with pytest.raises(CheckpointError, match=r"no part 'vison'. Did you mean 'vision'"):
        base.open_release(path, Parts({"vison": vision}))


def test_a_key_too_many_and_one_too_few(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    source = case_path(f"{CASE}/checkpoint/train_fsdp/checkpoint_0.pt")
    stored = torch.load(source, weights_only=True)
    state = stored["model_state_dict"]
    state["lang_model.model.layers.0.mlp.surprise"] = torch.zeros(2)
    del state["lang_model.model.norm.weight"]
    torch.save(stored, folder / "checkpoint_0.pt")
    places = XGenMM().parts(beside()).places
    release = base.open_release(folder, Parts(places, {"heads": 4}))
    with pytest.raises(CheckpointError) as caught:
        reading.load(release)
    assert "missing: language.model.norm.weight" in caught.value.what
    assert "unexpected: language.model.layers.0.mlp.surprise" in caught.value.what


def test_a_tokenizer_of_another_release(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["initial_tokenizer_len"] = 490
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match="counts 490 tokens before <image>, the tokenizer 492"
    ):
        opened(folder)


def test_a_recipe_that_xgen_cannot_express(
    loaded: tuple[MultimodalLM, Processor], tiny_model: MultimodalLM
) -> None:
    family = XGenMM()
    with pytest.raises(CheckpointError, match="cannot be expressed as xGen-MM: the tokenizer"):
        family.expressed(tiny_model.recipe)
    words = loaded[0].recipe.dump()
    words["modalities"]["image"]["steps"][0]["fill"] = [1, 2, 3]
    with pytest.raises(CheckpointError, match=r"expressed as xGen-MM: modalities\.image\.steps"):
        family.expressed(recipes.parse(words, "changed"))


def test_words_and_recipe_are_inverse(loaded: tuple[MultimodalLM, Processor]) -> None:
    facts = xgen_recipe.facts_of(loaded[0].recipe)
    assert xgen_recipe.facts_of(xgen_recipe.build(facts, "again", "here")) == facts
    for change in (
        {"aspect": "pad", "grids": GRIDS},
        {"aspect": "none", "grids": GRIDS, "chat": False},
        {"sampling": False},
        {"grids": ((1, 1), (4, 1))},
        {"add_bos": True},
        {"mean": (0.1, 0.2, 0.3)},
    ):
        changed = replace(facts, **change)
        assert xgen_recipe.facts_of(xgen_recipe.build(changed, "x", "here")) == changed, change


def test_grids_that_do_not_fit_the_tiles() -> None:
    with pytest.raises(CheckpointError, match="768 x 384 is not made of tiles of 46"):
        xgen_recipe.grids_in_tiles([[92, 46], [768, 384]], 46, "here")


def test_a_converted_file_of_any_name_is_found_in_its_folder(tmp_path: Path) -> None:
    source = case_path(f"{CASE}/checkpoint/train_fsdp/checkpoint_0.pt")
    state = torch.load(source, weights_only=True)["model_state_dict"]
    torch.save(state, tmp_path / "base_model.pt")
    found = base.recognise(tmp_path)
    assert found is not None
    assert (found[0].name, found[1].kind) == ("xgen_mm", "bare state dict")
    (tmp_path / "another.pt").write_bytes((tmp_path / "base_model.pt").read_bytes())
    assert base.recognise(tmp_path) is None
