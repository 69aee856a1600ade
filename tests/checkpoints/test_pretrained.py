"""Parts from anywhere: what the files say, what is filled, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from omnimix.checkpoints import pretrained
from omnimix.checkpoints.pretrained import FilledPart
from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.encoders.transformers import TransformersVision
from omnimix.errors import OmnimixError
from omnimix.generate.assistant import load
from omnimix.types import Sample, Turn
from tests import hub


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    hub.as_bin(hub.language(folder / "lm"))
    hub.language(folder / "lm-shards", shards=True)
    hub.as_bin(hub.timm_tower(folder / "vit"))
    hub.as_bin(hub.clip(folder / "clip"))
    hub.whisper(folder / "whisper")
    return folder


def recipe(parts: Path, encoder: dict[str, Any] | None = None, **words: Any) -> Recipe:
    image: dict[str, Any] = {
        "opens": "image",
        "steps": [{"kind": "resize", "size": 64}],
        "branches": [
            {"encoders": [encoder or {"kind": "timm", "weights": "vit"}], "connector": "mlp"}
        ],
    }
    plain = {"language": {"weights": "lm"}, "template": "tokenizer", "modalities": {"image": image}}
    return recipes.parse({"name": "own", **plain, **words}, "own.yaml", folders=[parts])


def jinja(folder: Path, messages: list[dict[str, str]]) -> list[int]:
    """What transformers makes of a conversation with the folder's own template."""
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(folder)
    text = own.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(own.encode(text, add_special_tokens=False))


def begun(recipe: Recipe) -> tuple[MultimodalLM, dict[str, FilledPart]]:
    torch.manual_seed(0)
    model, report = pretrained.begin(recipe)
    return model, {one.part: one for one in report}


def test_weights_alone_bring_configuration_tokenizer_and_style(parts: Path) -> None:
    found = recipe(parts)
    assert found.language.config["hidden_size"] == 64
    assert found.tokenizer is not None and found.tokenizer.path == str(parts / "lm/tokenizer.json")
    processor = Processor.from_recipe(found)
    assert processor.weave.tokenizer.eos == processor.weave.tokenizer.pad == 706
    turns = (Turn("user", ("Hi",)),)
    system, later = Turn("system", ("Be brief.",)), Turn("assistant", ("Ho",))
    for said in (
        turns,
        (system, *turns),
        (*turns, later, turns[0]),
        (system, turns[0], later, turns[0]),
    ):
        messages = [{"role": turn.role, "content": turn.text()} for turn in said]
        (ids,) = processor(Sample(tuple(said)), open_answer=True).input_ids.tolist()
        assert ids == jinja(parts / "lm", messages)
    (encoder,) = found.modalities["image"].encoders()
    told = encoder.dump()
    assert told["model"] == "vit_tiny_patch16_224" and told["img_size"] == 64
    assert told["args"] == {"embed_dim": 48, "depth": 2, "num_heads": 3}
    assert told["steps"] == [{"kind": "normalize", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}]


@pytest.mark.parametrize("lm", ["lm", "lm-shards", "lm-bin"])
@pytest.mark.parametrize("vit", ["vit", "vit-bin", "vit/model.safetensors"])
def test_parts_are_filled_and_told(lm: str, vit: str, parts: Path) -> None:
    words: dict[str, Any] = {"kind": "timm", "weights": vit}
    if vit.endswith(".safetensors"):
        words |= {"model": "vit_tiny_patch16_224", "img_size": 64}
        words["args"] = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    model, report = begun(recipe(parts, words, language={"weights": lm}))
    tower = load_file(parts / "vit" / "model.safetensors")
    mine = model.state_dict()
    name = "image.branches.0.encoders.0"
    assert torch.equal(
        mine[f"{name}.trunk.blocks.1.mlp.fc1.weight"], tower["blocks.1.mlp.fc1.weight"]
    )
    stored = load_file(parts / "lm" / "model.safetensors")
    for key, tensor in stored.items():
        assert torch.equal(mine[f"language.{key}"], tensor)
    assert report[name].filled == len(tower) - 2 and not report[name].fresh
    assert report[name].left_out == ("head.bias", "head.weight")
    assert report["language"].filled and not report["language"].left_out
    assert report["image.branches.0.connector"].filled == 0
    assert len(report["image.branches.0.connector"].fresh) == 4
    assert any("4 fresh" in line for line in pretrained.lines(list(report.values())))


def test_a_tower_out_of_a_whole_model(parts: Path) -> None:
    words = {"kind": "transformers", "weights": "clip", "layer": -2}
    model, report = begun(recipe(parts, words))
    whole = load_file(parts / "clip" / "model.safetensors")
    key = "vision_model.encoder.layers.1.mlp.fc1.weight"
    (name,) = [n for n in model.state_dict() if n.endswith("layers.1.mlp.fc1.weight")]
    assert torch.equal(model.state_dict()[name], whole[key])
    assert not report["image.branches.0.encoders.0"].fresh
    assert any("layers.2" in n for n in report["image.branches.0.encoders.0"].left_out)
    same, _ = begun(recipe(parts, {**words, "weights": "clip-bin"}))
    assert torch.equal(same.state_dict()[name], whole[key])
    (encoder,) = model.recipe.modalities["image"].encoders()
    assert encoder.dump()["steps"][0]["std"] == [0.2, 0.2, 0.2]


def test_a_sound_encoder_brings_its_step(parts: Path) -> None:
    speech = {
        "opens": "audio",
        "branches": [{"encoders": [{"kind": "whisper", "weights": "whisper"}]}],
    }
    speech["branches"][0]["connector"] = "linear"  # type: ignore[index]
    model, report = begun(recipe(parts, modalities={"speech": speech}))
    assert not report["speech.branches.0.encoders.0"].fresh
    (encoder,) = model.recipe.modalities["speech"].encoders()
    assert encoder.dump()["steps"][0]["feature_size"] == 16


def test_positions_are_resampled_for_another_size(parts: Path) -> None:
    model, report = begun(recipe(parts, {"kind": "timm", "weights": "vit", "img_size": 96}))
    assert model.state_dict()["image.branches.0.encoders.0.trunk.pos_embed"].shape == (1, 37, 48)
    assert not report["image.branches.0.encoders.0"].fresh


def test_more_rows_are_fresh_and_told(parts: Path) -> None:
    _, report = begun(recipe(parts, language={"weights": "lm", "config": {"vocab_size": 720}}))
    assert report["language"].fresh[0] == "language.model.embed_tokens.weight: rows 707 to 719"


def test_a_connector_from_a_trained_model(parts: Path, tmp_path: Path) -> None:
    first, _ = begun(recipe(parts))
    first.save_pretrained(tmp_path / "trained")
    words = recipe(parts).dump()
    image = words["modalities"]["image"]
    image["branches"][0]["connector"] = {"kind": "mlp", "weights": str(tmp_path / "trained")}
    torch.manual_seed(7)
    model, _ = pretrained.begin(recipes.parse(words, "test"))
    name = "image.branches.0.connector.2.weight"
    assert torch.equal(model.state_dict()[name], first.state_dict()[name])
    mapped = {
        f"model.mm_projector.{k}": v
        for k, v in first.image.branches[0].connector.state_dict().items()
    }
    save_file(mapped, tmp_path / "mm_projector.safetensors")
    image["branches"][0]["connector"]["weights"] = str(tmp_path / "mm_projector.safetensors")
    model, _ = pretrained.begin(recipes.parse(words, "test"))
    assert torch.equal(model.state_dict()[name], first.state_dict()[name])


def test_a_saved_model_needs_its_parts_no_more(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omnimix.generate.assistant import load

    found = recipe(parts)
    model, _ = begun(found)
    model.save_pretrained(tmp_path / "out")
    Processor.from_recipe(found).save_pretrained(tmp_path / "out")
    assert str(parts) not in (tmp_path / "out" / "recipe.yaml").read_text()
    monkeypatch.setattr("omnimix.hub.located", None)
    again = load(tmp_path / "out")
    assert torch.equal(
        again.model.state_dict()["language.model.norm.weight"], model.language.model.norm.weight
    )
    assert "im_start" in (tmp_path / "out" / "chat_template.jinja").read_text()


@pytest.mark.parametrize(
    ("encoder", "words", "said"),
    [
        (
            None,
            {"language": {"weights": "nowhere/lm"}},
            "language.weights: the language model 'nowhere/lm' cannot be had from the hub",
        ),
        (
            None,
            {"language": {"weights": "./nowhere"}},
            "language.weights: there is no language model at",
        ),
        (None, {"language": {"weights": "vit"}}, "no config.json with a model_type"),
        (
            None,
            {"language": {"weights": "lm", "config": {"hidden_size": 32}}},
            "weights of .* do not fit",
        ),
        (
            {"kind": "timm", "weights": "lm", "model": "vit_tiny_patch16_224"},
            {},
            "weights do not fit: .* is missing",
        ),
        ({"kind": "timm", "weights": "vit", "args": {"embed_dim": 96}}, {}, "instead of"),
        (
            {"kind": "timm", "weights": "nowhere/vit"},
            {},
            "modalities.image.branches.0.encoders.0.weights: .*cannot be had",
        ),
        (
            {"kind": "timm", "weights": "vit_small_patch14_dinov2.lvd142m"},
            {},
            "'timm/vit_small_patch14_dinov2.lvd142m' cannot be had",
        ),
        (
            {"kind": "timm", "weights": "lvd142m", "model": "vit_small_patch14_dinov2"},
            {},
            "'timm/vit_small_patch14_dinov2.lvd142m' cannot be had",
        ),
        (None, {"language": {"config": {"model_type": "llama"}}}, "there is none"),
    ],
)
def test_what_cannot_begin_is_refused(
    encoder: dict[str, Any] | None,
    words: dict[str, Any],
    said: str,
    parts: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OmnimixError, match=said):
        begun(recipe(parts, encoder, **words))


def test_weights_that_no_feature_depends_on_may_be_missing(parts: Path) -> None:
    small = {"embed_dims": [16, 16, 32, 32], "depths": [1] * 4, "num_heads": [1, 1, 2, 2]}
    tower = hub.timm_tower(parts / "tiny_vit", "tiny_vit_5m_224", **small)
    file = tower / "model.safetensors"
    whole = load_file(file)
    left = {name: tensor for name, tensor in whole.items() if not name.startswith("head.")}
    assert left.keys() < whole.keys()
    save_file(left, file)
    words = recipe(parts, {"kind": "timm", "weights": "tiny_vit"})
    _, report = begun(words)
    part = report["image.branches.0.encoders.0"]
    assert part.fresh and all(".head." in name for name in part.fresh)
    del left["patch_embed.conv1.bn.weight"]
    save_file(left, file)
    with pytest.raises(OmnimixError, match=r"patch_embed\.conv1\.bn\.weight is missing"):
        pretrained.begin(words)


TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
SMALL = {**TINY, "image_size": 64, "patch_size": 16}


def saved_tower(name: str, config: Any, folder: Path) -> Path:
    """A model of transformers in the layout of the hub, with its normalization."""
    import transformers

    torch.manual_seed(3)
    getattr(transformers, name)(config).save_pretrained(folder)
    told = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return folder


def filled_tower(folder: Path) -> tuple[FilledPart, torch.Tensor]:
    """What becomes of a tower's weights, and what it gives."""
    words = {"weights": str(folder)}
    spec = TransformersVision.model_validate(TransformersVision.complete(words, folder))
    tower = spec.build().eval()
    part = pretrained.filled("vision", spec, tower, folder)
    with torch.no_grad():
        return part, tower(torch.ones_like(spec.tile()))


def test_a_tower_of_transformers_tells_what_is_fresh_and_left_out(tmp_path: Path) -> None:
    """A classifier's tower without the pooler that no feature depends on."""
    from transformers import ViTConfig

    folder = saved_tower("ViTForImageClassification", ViTConfig(**SMALL), tmp_path / "vit")
    part, _ = filled_tower(folder)
    assert sorted(part.fresh) == [
        "vision.tower.pooler.dense.bias",
        "vision.tower.pooler.dense.weight",
    ]
    assert sorted(part.left_out) == ["classifier.bias", "classifier.weight"]
    whole = load_file(folder / "model.safetensors")
    save_file({**whole, "vit.layernorm.weight": torch.ones(3)}, folder / "model.safetensors")
    with pytest.raises(OmnimixError, match=r"layernorm\.weight is \[3\] instead of \[32\]"):
        filled_tower(folder)
    del whole["vit.layernorm.weight"]
    save_file(whole, folder / "model.safetensors")
    with pytest.raises(OmnimixError, match=r"1 of 40 .* tower\.layernorm\.weight is missing"):
        filled_tower(folder)


def test_a_tower_out_of_another_multimodal_model(tmp_path: Path) -> None:
    from transformers import AutoModel, LlavaConfig

    language = {**TINY, "model_type": "llama", "vocab_size": 64, "num_key_value_heads": 2}
    vision = {**SMALL, "model_type": "clip_vision_model"}
    config = LlavaConfig(vision_config=vision, text_config=language)
    folder = saved_tower("LlavaForConditionalGeneration", config, tmp_path / "llava")
    part, given = filled_tower(folder)
    assert not part.fresh and any("lm_head" in name for name in part.left_out)
    theirs = AutoModel.from_pretrained(folder).vision_tower(torch.ones(1, 3, 64, 64))
    torch.testing.assert_close(given, theirs.last_hidden_state)


def test_a_tower_that_counts_patches_has_the_tile_they_make(tmp_path: Path) -> None:
    from transformers import Siglip2Config

    sides = {
        "text_config": {**TINY, "vocab_size": 64},
        "vision_config": {**TINY, "num_patches": 16},
    }
    folder = saved_tower("Siglip2Model", Siglip2Config(**sides), tmp_path / "siglip2")
    part, given = filled_tower(folder)
    assert given.shape == (1, 16, 32) and not part.fresh
    assert any(name.startswith("text_model.") for name in part.left_out)


def test_a_recipe_over_parts_answers_untrained(
    parts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = recipe(parts)
    file = parts / "own.yaml"
    file.write_text(recipes.dump(words))
    assistant = load(str(file))
    assert "fresh, so untrained: image.branches.0.connector" in caplog.text
    assert assistant.reply([Turn("user", ("Who?",))], max_new_tokens=2).ids
    with pytest.raises(OmnimixError, match="'quantization' is a word for a finished model"):
        load(file, quantization="int8")
    file.write_text(recipes.dump(recipes.load("nano")))
    with pytest.raises(OmnimixError, match="names no weights"):
        load(file)
