"""A script of Prismatic's users changes its import line alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from PIL import Image

from omnimix.errors import CheckpointError, RegistryError, SampleError
from omnimix.families.prismatic import (
    available_model_names,
    available_models,
    get_model_description,
    load,
)
from tests.cases import case_path, golden

CASES = ["clip_mlp_vicuna", "dinosiglip_gelu"]


@pytest.mark.parametrize("case", CASES)
def test_the_script_of_the_readme(case: str) -> None:
    folder, facts, expected = golden(f"prismatic/{case}")
    vlm = load(folder / "checkpoint", hf_token=None)
    vlm.to("cpu", dtype=torch.float32)
    for i, request in enumerate(facts["requests"]):
        image = Image.open(folder / "inputs" / request["image"]).convert("RGB")
        prompt_builder = vlm.get_prompt_builder(system_prompt=request["system_prompt"])
        for j, turn in enumerate(request["turns"]):
            prompt_builder.add_turn(role=("human", "gpt")[j % 2], message=turn)
        prompt_text = prompt_builder.get_prompt()
        assert prompt_text == request["prompt"]
        generated_text = vlm.generate(
            image,
            prompt_text,
            do_sample=False,
            temperature=0.4,
            max_new_tokens=14,
            min_length=1,
        )
        assert generated_text == request["generated_text"]
        pixels = vlm.vision_backbone.image_transform(image)
        streams = pixels if isinstance(pixels, dict) else {"": pixels}
        for stream, found in streams.items():
            wanted = expected.get(f"req{i}/pixel_values/{stream}".rstrip("/"))
            if wanted is not None:
                torch.testing.assert_close(found, wanted.reshape(found.shape), atol=1e-5, rtol=0)


def test_parts_of_the_model_have_their_names() -> None:
    folder, facts, _ = golden("prismatic/clip_mlp_vicuna")
    vlm = load(folder / "checkpoint")
    assert vlm.vision_backbone.identifier == "clip-vit-l-336px"
    assert vlm.vision_backbone.num_patches == facts["num_patches"]
    assert vlm.vision_backbone.embed_dim == facts["vision_embed_dim"]
    assert vlm.vision_backbone.get_image_transform() is vlm.vision_backbone.image_transform
    assert vlm.llm_backbone.identifier == "vicuna-v15-7b"
    assert vlm.llm_backbone.tokenizer is vlm.tokenizer is vlm.llm_backbone.get_tokenizer()
    assert vlm.llm_backbone.pad_token_id == facts["llm"]["pad_token_id"]
    builder = vlm.llm_backbone.prompt_builder_fn()
    assert builder.add_turn("human", "Hi").endswith("USER: Hi ASSISTANT: ")
    assert not any(p.requires_grad for p in vlm.assistant.model.parameters())
    assert any(
        p.requires_grad
        for p in load(folder / "checkpoint", load_for_training=True).assistant.model.parameters()
    )


def test_the_lists_are_the_published_ones() -> None:
    published = json.loads(case_path("prismatic/registry.json").read_text(encoding="utf-8"))
    assert available_models() == [row["registry_key"] for row in published]
    assert available_model_names() == [(row["registry_key"], row["names"]) for row in published]
    for row in published:
        said, wanted = get_model_description(row["names"][0]), row["description"]
        if "dinosiglip" in row["registry_key"]:  # its encoders are named in three ways there
            del said["visual_representation"], wanted["visual_representation"]
        assert said == wanted
    with pytest.raises(RegistryError, match=r"(?i)did you mean"):
        get_model_description("prism-dinosiglip+7")


def test_token_and_cache_reach_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(repo: str, **words: Any) -> str:
        asked.update(words)
        raise OSError("no network here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.delenv("OMNIMIX_MODELS", raising=False)
    (tmp_path / ".hf_token").write_text("hf_abc\n")
    with pytest.raises(CheckpointError, match="the files cannot be had"):
        load("prism-dinosiglip+7b", hf_token=tmp_path / ".hf_token", cache_dir=tmp_path)
    assert asked["token"] == "hf_abc" and asked["cache_dir"] == tmp_path


def test_unknown_keywords_are_refused() -> None:
    folder, _, _ = golden("prismatic/clip_mlp_vicuna")
    with pytest.raises(CheckpointError, match="no word 'hftoken'"):
        load(folder / "checkpoint", hftoken="x")


@pytest.mark.parametrize("token", ["no/such/file", "", " ", "two words", Path("absent")])
def test_a_token_that_is_none_is_refused(token: str | Path) -> None:
    with pytest.raises(CheckpointError, match="hf_token is no token, and no file that holds one"):
        load("prism-dinosiglip+7b", hf_token=token)


def test_arguments_of_another_form_are_refused() -> None:
    with pytest.raises(SampleError, match="load: model_id_or_path: NoneType was given"):
        load(None)  # type: ignore[arg-type]
    with pytest.raises(RegistryError, match="the model has no name"):
        load("")
    vlm = load(case_path("prismatic/clip_mlp_vicuna/checkpoint"))
    builder = vlm.get_prompt_builder()
    calls: list[tuple[Callable[..., Any], tuple[Any, ...], str]] = [
        (vlm.generate, (None, None), "generate: prompt_text: NoneType was given"),
        (vlm.generate, (None, "Hi", "yes?"), "generate: do_sample: str was given"),
        (vlm.generate_batch, (None, ["Hi"]), "generate_batch: images: NoneType was given"),
        (vlm.generate_batch, ([None], "Hi"), "a list of texts is wanted, not one text"),
        (vlm.get_prompt_builder, (3,), "get_prompt_builder: system_prompt: int was given"),
        (builder.add_turn, ("human", None), "add_turn: message: NoneType was given"),
    ]
    for call, given, said in calls:
        with pytest.raises(SampleError, match=re.escape(said)):
            call(*given)
