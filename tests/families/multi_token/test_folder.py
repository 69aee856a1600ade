"""multi_token's files: every release maps both ways, layouts and refusals, encoders of the hub's folders."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from omnimix.checkpoints import base, reading, tables
from omnimix.checkpoints.base import Parts
from omnimix.compose import recipe as recipes
from omnimix.compose.modality import ModalitySpec
from omnimix.compose.model import MultimodalLM
from omnimix.errors import CheckpointError
from omnimix.families.multi_token import folder as multi_token, names as keys
from omnimix.families.multi_token.folder import MultiToken
from omnimix.families.multi_token.senses import BUILDERS, SENSES
from tests.cases import case_path

FOLDER = "multi_token"
CASE = f"{FOLDER}/vision_lora"
RELEASES = {
    "Mistral-7B-LoRA-VisionCLIP-LLAVA": ("vision_clip", "multi_token"),
    "Mistral-7B-CLIP-LoRA-captions-only-demo": ("vision_clip", "multi_token"),
    "Mistral-7B-LoRA-VisionCLIPPool-LLAVA": ("vision_clip", "multi_token_pool"),
    "Mistral-7B-LoRA-Multi-VisionCLIPPool-LLAVA": ("vision_clip", "multi_token_pool"),
    "Mistral-7B-LoRA-ImageBind-LLAVA": ("imagebind", "multi_token_imagebind"),
    "Mistral-7B-LoRA-DocumentGTE-260K-x128": ("document_gte", "multi_token_document"),
    "Mistral-7B-LoRA-DocumentGTE-16K-x8": ("document_gte", "multi_token_document"),
    "Mistral-7B-LoRA-AudioWhisper": ("audio_whisper", "multi_token_speech"),
    "Mistral-7B-LoRA-AudioCLAP": ("audio_clap", "multi_token_sound"),
    "Mistral-7B-LoRA-XCLIP": ("video_xclip", "multi_token_video"),
}
ADAPTER = "adapters=[{kind: lora, part: language, r: 64, lora_alpha: 16, lora_dropout: 0.05}]"


def test_the_releases_are_those_of_the_published_table() -> None:
    zoo = json.loads(case_path(f"{FOLDER}/facts.json").read_text())["model_zoo"]
    assert [row["repo"] for row in zoo] == [f"sshh12/{name}" for name in RELEASES]
    for row in zoo:
        name = row["repo"].split("/")[1]
        assert BUILDERS[row["builder"]] == (RELEASES[name][0],)
        rows = manifest(f"sshh12--{name}")["non_lora_trainables.bin"]
        tokens = keys.projectors(shapes(rows))[RELEASES[name][0]].tokens
        assert tokens == (None if row["builder"] == "vision_clip" else row["tokens"]), name


def manifest(name: str) -> dict[str, dict[str, Tensor]]:
    """The files of a release, their tensors on the meta device."""
    path = case_path(f"{FOLDER}/manifest/{name}.json.gz")
    files = json.loads(gzip.decompress(path.read_bytes()))["files"]
    return {
        file: {
            key: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
            for key, (shape, dtype) in held.items()
        }
        for file, held in files.items()
    }


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


@pytest.mark.parametrize("name", RELEASES)
def test_releases_map_both_ways(name: str) -> None:
    theirs, recipe = RELEASES[name]
    ours = SENSES[theirs].name
    files = manifest(f"sshh12--{name}")
    adapter = next(held for file, held in files.items() if file.startswith("adapter_model"))
    stored = files["non_lora_trainables.bin"]
    found = keys.projectors(shapes(stored))
    assert list(found) == [theirs]
    told = found[theirs]
    words = [ADAPTER, f"modalities.{ours}.branches.0.connector.depth={told.depth}"]
    if told.tokens is not None:
        words.append(f"modalities.{ours}.branches.0.connector.tokens={told.tokens}")
    model = MultimodalLM.on_meta(recipes.load(recipe, words))
    wanted = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.startswith("language.") or ".connector." in name
    }
    assert told.prefix == "base_model.model.model."
    whole = {**next(iter(manifest("mistralai--Mistral-7B-Instruct-v0.1").values())), **adapter}
    table = keys.kept_table(keys.adapted(adapter)) + keys.projector_table(
        told.prefix, {theirs: ours}
    )
    plan = table.reading({**whole, **stored})
    assert not plan.unknown and not plan.missing and not plan.unused
    assert shapes(tables.read(plan, {**whole, **stored})) == shapes(wanted)
    back = table.writing(wanted)
    assert not back.unknown and not back.missing
    assert shapes(tables.write(back, wanted)) == shapes({**whole, **stored})


@pytest.mark.parametrize("name", ["Mistral-7B-LoRA-VisionCLIP-LLAVA"])
def test_a_merged_adapter_leaves_the_base_models_names(name: str) -> None:
    adapter = next(iter(manifest(f"sshh12--{name}").values()))
    (own,) = manifest("mistralai--Mistral-7B-Instruct-v0.1").values()
    table = keys.merged_table(0.25, keys.adapted(adapter))
    plan = table.reading({**own, **adapter})
    assert not plan.unknown and not plan.missing
    language = recipes.load("multi_token").language
    with torch.device("meta"):
        wanted = {f"language.{k}": v for k, v in language.build().state_dict().items()}
    assert shapes(tables.read(plan, {**own, **adapter})) == shapes(wanted)


def test_every_manifest_is_looked_at() -> None:
    found = {path.name for path in case_path(f"{FOLDER}/manifest").glob("sshh12--*")}
    assert found == {f"sshh12--{name}.json.gz" for name in RELEASES}


def test_every_width_of_the_releases_is_that_of_their_encoder() -> None:
    for name, (theirs, recipe) in RELEASES.items():
        stored = manifest(f"sshh12--{name}")["non_lora_trainables.bin"]
        told = keys.projectors(shapes(stored))[theirs]
        model = MultimodalLM.on_meta(recipes.load(recipe))
        (branch,) = model.modality(SENSES[theirs].name).branches
        assert told.width == branch.width  # type: ignore[union-attr]


# --- layouts ---


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A case's checkpoint and its parts, free to be changed."""
    out = tmp_path / "case"
    shutil.copytree(case_path(CASE), out, copy_function=shutil.copyfile)
    for folder in (out, *out.rglob("*")):
        folder.chmod(0o755 if folder.is_dir() else 0o644)
    return out / "checkpoint"


def edited(path: Path, **words: Any) -> None:
    found = {**json.loads(path.read_text()), **words}
    path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))


def loaded(path: Path, **words: Any) -> MultimodalLM:
    model, _, _ = reading.load(base.open_release(path, Parts(words=words)))
    return model


def same(one: MultimodalLM, other: MultimodalLM) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("prefix", keys.PREFIXES)
def test_projectors_of_any_run_are_read(prefix: str, copied: Path) -> None:
    before = loaded(copied)
    file = copied / multi_token.PROJECTORS
    stored = torch.load(file, weights_only=True)
    own = {f"{prefix}{k.removeprefix(keys.PREFIXES[0])}": v for k, v in stored.items()}
    torch.save(own, file)
    assert same(loaded(copied), before)


@pytest.mark.parametrize("named", ["", ".default", ".default_0", ".my_run"])
@pytest.mark.parametrize("form", ["safetensors", "torch", "old torch"])
def test_an_adapter_is_read_in_every_form(form: str, named: str, copied: Path) -> None:
    """Files of torch before 1.6 too, and keys that hold the adapter's name, as a living model has them."""
    before = loaded(copied)
    file = copied / "adapter_model.bin"
    keys = torch.load(file, weights_only=True)
    stored = {key.replace(".weight", f"{named}.weight"): tensor for key, tensor in keys.items()}
    file.unlink()
    if form == "safetensors":
        save_file(stored, copied / "adapter_model.safetensors")
    else:
        torch.save(stored, file, _use_new_zipfile_serialization=form == "torch")
    assert same(loaded(copied), before)


def test_two_adapters_in_one_file_are_refused(copied: Path) -> None:
    file = copied / "adapter_model.bin"
    keys = torch.load(file, weights_only=True)
    both = {
        key.replace(".weight", f".{name}.weight"): tensor
        for key, tensor in keys.items()
        for name in ("one", "other")
    }
    torch.save(both, file)
    with pytest.raises(CheckpointError, match="no matrices lora_A of one name"):
        loaded(copied)


def test_a_builder_of_the_trainers_own_leaves_the_list(copied: Path) -> None:
    before = loaded(copied)
    edited(copied / "config.json", modality_builder="my_builder")
    assert same(loaded(copied), before)


def test_kept_and_merged_adapters_answer_alike(copied: Path) -> None:
    kept, merged = loaded(copied, adapters="keep"), loaded(copied)
    (adapter,) = kept.recipe.adapters
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout) == (64, 16, 0.05)
    ids = torch.arange(1, 9)[None]
    with torch.inference_mode():
        first, second = kept(input_ids=ids).logits, merged(input_ids=ids).logits
        bare = loaded(copied, adapters="none")(input_ids=ids).logits
    torch.testing.assert_close(first, second, atol=1e-4, rtol=0)
    assert (bare - second).abs().max() > 0.1
    torch.testing.assert_close(kept.merge()(input_ids=ids).logits, second, atol=1e-4, rtol=0)


def test_a_run_without_lora_has_the_base_model(copied: Path) -> None:
    bare = loaded(copied, adapters="none")
    for name in ("adapter_model.bin", "adapter_config.json"):
        (copied / name).unlink()
    release = base.open_release(copied)
    assert release.layout.kind == "projectors alone"
    assert release.notes == ("a run without LoRA: the language model is the base one",)
    assert same(loaded(copied), bare)


@pytest.mark.parametrize(
    ("file", "words", "says"),
    [
        ("adapter_model.bin", None, "the adapter's weights are missing"),
        ("adapter_config.json", None, "stands without adapter_config.json"),
        ("config.json", None, "config.json is missing"),
        ("non_lora_trainables.bin", None, "there is no such file of weights"),
        ("config.json", {"modalities": []}, "no list of modalities"),
        ("config.json", {"modalities": ["audio_whisper"]}, "the builder 'vision_clip' makes"),
        (
            "config.json",
            {"modalities": ["vision_clip", "smell"], "modality_builder": "x"},
            "unknown modality 'smell'",
        ),
        (
            "config.json",
            {"modalities": ["vision_clip", "audio_clap"], "modality_builder": "x"},
            "no projector of audio_clap",
        ),
        ("adapter_config.json", {"r": 8}, "says rank 8, the matrices have 64"),
        ("adapter_config.json", {"use_dora": True}, "not plain LoRA (use_dora True)"),
        ("adapter_config.json", {"bias": "all"}, "not plain LoRA (bias 'all')"),
    ],
)
def test_what_is_broken_is_named(
    file: str, words: dict[str, Any] | None, says: str, copied: Path
) -> None:
    if words is None:
        (copied / file).unlink()
    else:
        edited(copied / file, **words)
    with pytest.raises(CheckpointError) as caught:
        reading.load(base.open_release(copied))
    assert says in caught.value.sentence()
    assert "\n" not in caught.value.sentence()


@pytest.mark.parametrize(
    ("words", "says"),
    [({"adapters": "melt"}, "adapters is 'melt'"), ({"whisper": "x"}, "knows no word 'whisper'")],
)
def test_words_that_nobody_knows_are_refused(words: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        base.open_release(case_path(CASE) / "checkpoint", Parts(words=words))


def test_other_folders_are_none_of_ours(tmp_path: Path) -> None:
    assert MultiToken().recognise(tmp_path) is None
    (tmp_path / "config.json").write_text('{"model_type": "mistral"}')
    assert MultiToken().recognise(tmp_path) is None
    (tmp_path / "config.json").write_text('{"model_type": "x", "modalities": ["a"]}')
    assert MultiToken().recognise(tmp_path) is None


def test_a_stopped_run_has_its_configuration_in_its_newest_checkpoint(copied: Path) -> None:
    before = loaded(copied)
    words = json.loads((copied / "config.json").read_text())
    for step, kind in ((9, {}), (10, words)):
        (copied / f"checkpoint-{step}").mkdir()
        (copied / f"checkpoint-{step}" / "config.json").write_text(json.dumps(kind))
    (copied / "config.json").unlink()
    assert same(loaded(copied), before)


def test_pictures_may_be_padded_to_a_square(copied: Path) -> None:
    release = base.open_release(copied, Parts(words={"pad_non_square_images": True}))
    steps = release.recipe.modalities["image"].steps
    assert [step.kind for step in steps] == ["pad", "resize_crop"]
    assert steps[0].fill == (122, 116, 104)  # type: ignore[attr-defined]


# --- encoders that no public case has ---


def encoder_of(name: str, folder: Path) -> tuple[Any, ModalitySpec]:
    """Our encoder with the weights of a folder of the hub."""
    known = SENSES[name]
    projector = keys.Projector(3, 2, 16)
    words = known.words(projector, folder, {})
    spec = ModalitySpec.model_validate(words)
    encoder = spec.branches[0].encoders[0].build().eval()
    stored = reading.tensors_of(folder / "model.safetensors")
    plan = known.table("", words).reading(stored)
    assert not plan.unknown and not plan.missing
    encoder.load_state_dict(tables.read(plan, stored), strict=True)
    return encoder, spec


def test_clap_of_a_hub_folder(tmp_path: Path) -> None:
    from transformers import ClapConfig, ClapModel

    audio = {"spec_size": 32, "window_size": 2, "patch_size": 4, "patch_stride": [4, 4]}
    audio |= {"num_mel_bins": 8, "hidden_size": 16, "patch_embeds_hidden_size": 8}
    audio |= {"depths": [1, 1], "num_attention_heads": [1, 2], "enable_fusion": True}
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 9}
    text |= {"num_attention_heads": 1}
    torch.manual_seed(0)
    model = ClapModel(ClapConfig(audio_config=audio, text_config=text, projection_dim=16)).eval()
    model.save_pretrained(tmp_path)
    sizes = {"feature_size": 8, "sampling_rate": 24000, "max_length_s": 2, "hop_length": 240}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(sizes))
    encoder, spec = encoder_of("audio_clap", tmp_path)
    (step,) = spec.branches[0].encoders[0].steps
    assert (step.sampling_rate, step.feature_size, step.max_length_s, step.hop_length) == (
        24000,
        8,
        2,
        240,
    )  # type: ignore[attr-defined]
    tiles = torch.randn(2, 4, 40, 8)
    with torch.inference_mode():
        wanted = model.get_audio_features(tiles, is_longer=torch.ones(2, 1, dtype=torch.bool))
        found = encoder(tiles)[:, 0]
    wanted = getattr(wanted, "pooler_output", wanted)
    wanted = torch.nn.functional.normalize(wanted, dim=-1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_xclip_of_a_hub_folder(tmp_path: Path) -> None:
    from transformers import XCLIPConfig, XCLIPModel

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2}
    vision = {**sizes, "image_size": 32, "patch_size": 16, "num_frames": 3, "mit_hidden_size": 12}
    vision |= {"mit_intermediate_size": 24, "mit_num_attention_heads": 2}
    text = {**sizes, "vocab_size": 9}
    torch.manual_seed(0)
    model = XCLIPModel(
        XCLIPConfig(vision_config=vision, text_config=text, projection_dim=12)
    ).eval()
    model.save_pretrained(tmp_path)
    encoder, spec = encoder_of("video_xclip", tmp_path)
    assert spec.opens.num_frames == 3  # type: ignore[attr-defined]
    assert [step.kind for step in spec.steps] == ["resize_crop", "clip"]
    tiles = torch.randn(2, 3, 3, 32, 32)
    ids = torch.tensor([[1, 2]])
    with torch.inference_mode():
        wanted = model(input_ids=ids, pixel_values=tiles, attention_mask=torch.ones_like(ids))
        found = encoder(tiles)[:, 0]
    torch.testing.assert_close(found, wanted.video_embeds, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["vision_lora", "audio_document_mix", "imagebind_three_kinds"])
def test_a_folder_is_written_back(name: str, tmp_path: Path) -> None:
    model, processor, _ = reading.load(base.open_release(case_path(f"{FOLDER}/{name}/checkpoint")))
    MultiToken().write(model, processor, tmp_path)
    release = base.open_release(tmp_path)
    again, _, _ = reading.load(release)
    assert same(again, model)
    assert again.recipe.model_copy(update={"name": ""}) == model.recipe.model_copy(
        update={"name": "", "about": again.recipe.about}
    )
    assert (tmp_path / "adapter_config.json").is_file()


def test_a_kept_adapter_is_written_as_it_is(tmp_path: Path) -> None:
    path = case_path(CASE) / "checkpoint"
    release = base.open_release(path, Parts(words={"adapters": "keep"}))
    model, processor, _ = reading.load(release)
    MultiToken().write(model, processor, tmp_path)
    own = reading.tensors_of(path / "adapter_model.bin")
    found = reading.tensors_of(tmp_path / "adapter_model.safetensors")
    assert found.keys() == own.keys()
    assert all(torch.equal(found[key], own[key]) for key in own)
    assert same(loaded(tmp_path, adapters="keep"), model)


def test_what_has_no_counterpart_there_is_refused(tmp_path: Path) -> None:
    from omnimix.generate import folder as folders

    model, processor = folders.read(folders.find("nano"), torch.device("cpu"))
    with pytest.raises(CheckpointError, match="cannot be expressed as multi_token"):
        MultiToken().write(model, processor, tmp_path)
