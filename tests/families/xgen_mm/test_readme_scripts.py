"""The notebook and the model cards of xGen-MM, with their import line and their paths changed alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import omnimix
from omnimix.errors import CheckpointError, OmnimixError, SampleError
from omnimix.families.xgen_mm import (
    AutoImageProcessor,
    AutoModelForVision2Seq,
    AutoTokenizer,
    create_model_and_transforms,
    process_images,
)
from omnimix.families.xgen_mm.folder import XGenMM
from tests.cases import case_path

CASE = "xgen_mm/interleave_multi"
HUB = f"{CASE}/checkpoint/hf_hub"


def golden(name: str) -> torch.Tensor:
    return load_file(case_path(CASE) / "expected.safetensors")[name]


def expected(name: str) -> dict[str, Any]:
    facts = json.loads((case_path(CASE) / "case.json").read_text("utf-8"))
    found: dict[str, Any] = facts["generate"][name]
    return found


def asked(name: str) -> dict[str, Any]:
    request = json.loads((case_path(CASE) / "inputs/request.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = next(one for one in request["generate"] if one["name"] == name)
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A trainer's file of the case's weights, and the released backbones beside it."""
    folder = tmp_path_factory.mktemp("run")
    source = omnimix.load(case_path(HUB))
    XGenMM().write(source.model, source.processor, folder / "checkpoint_0.pt")
    shutil.copytree(case_path(f"{CASE}/backbones"), folder, dirs_exist_ok=True)
    yield folder


def config(folder: Path, **words: Any) -> SimpleNamespace:
    """The notebook's `cfg`."""
    cfg = {
        "model_family": "xgenmm_v1",
        "lm_path": str(folder / "Phi-3-mini-4k-instruct-tiny"),
        "vision_encoder_path": str(folder / "siglip-so400m-patch14-384-tiny"),
        "vision_encoder_pretrained": "google",
        "num_vision_tokens": 6,
        "image_aspect_ratio": "anyres",
        "anyres_patch_sampling": True,
        "anyres_grids": [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)],
        "ckpt_pth": folder / "checkpoint_0.pt",
    }
    return SimpleNamespace(**{**cfg, **words})


def made(cfg: SimpleNamespace, **words: Any) -> Any:
    additional_kwargs = {
        "num_vision_tokens": cfg.num_vision_tokens,
        "image_aspect_ratio": cfg.image_aspect_ratio,
        "anyres_patch_sampling": cfg.anyres_patch_sampling,
    }
    return create_model_and_transforms(
        clip_vision_encoder_path=cfg.vision_encoder_path,
        clip_vision_encoder_pretrained=cfg.vision_encoder_pretrained,
        lang_model_path=cfg.lm_path,
        tokenizer_path=cfg.lm_path,
        model_family=cfg.model_family,
        **{**additional_kwargs, **words},
    )


def apply_prompt_template(prompt: str) -> str:
    return (
        "<|system|>\nA chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.<|end|>\n"
        f"<|user|>\n{prompt}<|end|>\n<|assistant|>\n"
    )


@pytest.mark.parametrize("name", ["two_images", "three_images_text_between"])
def test_the_inference_notebook(name: str, trained: Path) -> None:
    cfg = config(trained)
    model, image_processor, tokenizer = made(cfg)

    ckpt = torch.load(cfg.ckpt_pth)["model_state_dict"]
    model.load_state_dict(ckpt, strict=True)
    model = model.eval().to("cpu")

    base_img_size = model.base_img_size
    anyres_grids = []
    for m, n in cfg.anyres_grids:
        anyres_grids.append([base_img_size * m, base_img_size * n])
    model.anyres_grids = anyres_grids

    image_proc = partial(process_images, image_processor=image_processor, model_cfg=cfg)
    files = asked(name)["images"][0]
    images = [Image.open(case_path(CASE) / "inputs" / file).convert("RGB") for file in files]
    image_size = [image.size for image in images]
    image_size = [image_size]
    vision_x = [image_proc([img]) for img in images]
    vision_x = [vision_x]

    prompt = apply_prompt_template(asked(name)["prompts"][0])
    lang_x = tokenizer([prompt], return_tensors="pt")
    assert torch.equal(lang_x["input_ids"], golden(f"gen/{name}/input_ids"))

    kwargs_default = dict(
        do_sample=False,
        temperature=0,
        max_new_tokens=asked(name)["max_new_tokens"],
        top_p=None,
        num_beams=1,
    )
    generated_text = model.generate(
        vision_x=vision_x,
        lang_x=lang_x["input_ids"].to(torch.device("cpu")),
        image_size=image_size,
        attention_mask=lang_x["attention_mask"].to(torch.device("cpu")),
        **kwargs_default,
    )
    assert torch.equal(generated_text, golden(f"gen/{name}/generated_ids"))
    generated_text = tokenizer.decode(generated_text[0], skip_special_tokens=True)
    text = generated_text.split("<|end|>")[0]
    assert text == expected(name)["text_skip_special"][0].split("<|end|>")[0]


def test_the_model_card(tmp_path: Path) -> None:
    """The hub's usage: three classes with `from_pretrained`, then `generate(**inputs, image_size=...)`."""
    name = "two_images"
    model_name_or_path = case_path(HUB)
    model = AutoModelForVision2Seq.from_pretrained(model_name_or_path, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(
        model_name_or_path, trust_remote_code=True, use_fast=False, legacy=False
    )
    image_processor = AutoImageProcessor.from_pretrained(model_name_or_path, trust_remote_code=True)
    tokenizer = model.update_special_tokens(tokenizer)

    model = model.to("cpu")
    model.eval()
    tokenizer.padding_side = "left"
    tokenizer.eos_token = "<|end|>"

    image_list = []
    image_sizes = []
    for file in asked(name)["images"][0]:
        img = Image.open(case_path(CASE) / "inputs" / file)
        image_list.append(image_processor([img], image_aspect_ratio="anyres")["pixel_values"])
        image_sizes.append(img.size)
    inputs: dict[str, Any] = {"pixel_values": [image_list]}
    language_inputs = tokenizer(
        [apply_prompt_template(asked(name)["prompts"][0])], return_tensors="pt"
    )
    inputs.update(language_inputs)
    for word, value in inputs.items():
        if isinstance(value, torch.Tensor):
            inputs[word] = value.to("cpu")
    generated_text = model.generate(
        **inputs,
        image_size=[image_sizes],
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        temperature=0.05,
        do_sample=False,
        max_new_tokens=asked(name)["max_new_tokens"],
        top_p=None,
        num_beams=1,
    )
    prediction = tokenizer.decode(generated_text[0], skip_special_tokens=True).split("<|end|>")[0]
    assert prediction == expected(name)["text_skip_special"][0]


def test_the_card_of_the_base_release() -> None:
    """Squashed pictures, and a placeholder for every vision token but the first."""
    facts = json.loads((case_path(CASE) / "case.json").read_text("utf-8"))["hubbase"]
    folder = case_path(HUB)
    model = AutoModelForVision2Seq.from_pretrained(folder)
    held = omnimix.load(
        folder, image_aspect_ratio="none"
    )  # the case's weights, used as a base model
    model._held = held
    tokenizer = model.update_special_tokens(AutoTokenizer.from_pretrained(folder))
    image_processor = AutoImageProcessor.from_pretrained(folder)
    images = [Image.open(case_path(CASE) / "inputs" / file) for file in facts["images"]]
    pixels = image_processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, golden("hubbase/pixel_values"))
    language = tokenizer([facts["prompt"]], return_tensors="pt")
    assert torch.equal(language["input_ids"], golden("hubbase/input_ids"))
    ids = model.generate(
        pixel_values=pixels,
        **language,
        eos_token_id=facts["eos_token_id"],
        max_new_tokens=len(facts["generated"][0]),
    )
    assert ids.tolist() == facts["generated"]


def test_the_converter_script(trained: Path, tmp_path: Path) -> None:
    """A hub model's weights into the trainer's model, and into a file without a wrapper."""
    model = AutoModelForVision2Seq.from_pretrained(case_path(HUB))
    local_model, _, _ = made(config(trained))
    local_model.load_state_dict(model.vlm.state_dict(), strict=True)
    torch.save(model.vlm.state_dict(), tmp_path / "base_model.pt")
    again, _, _ = made(config(trained), ckpt_pth=str(tmp_path / "base_model.pt"))
    for name, tensor in local_model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert sum(p.numel() for p in again.parameters()) > 0


def test_a_batch_of_prompts_is_each_prompt_alone(trained: Path) -> None:
    cfg = config(trained)
    model, image_processor, tokenizer = made(cfg, ckpt_pth=str(cfg.ckpt_pth))
    file = case_path(CASE) / "inputs/moon.png"
    image = Image.open(file).convert("RGB")
    pixels = process_images([image], image_processor, cfg)
    prompts = [apply_prompt_template("<image>\nWhat is it?"), apply_prompt_template("Hello.")]
    words: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6}
    together = tokenizer(prompts, return_tensors="pt", padding=True)
    rows = model.generate(
        [[pixels], []],
        together["input_ids"],
        [[image.size], []],
        together["attention_mask"],
        **words,
    )
    for i, prompt in enumerate(prompts):
        alone = tokenizer([prompt], return_tensors="pt")
        row = model.generate(
            [[pixels]] if not i else None, alone["input_ids"], [[image.size]], **words
        )
        assert torch.equal(rows[i], row[0])
    with pytest.raises(CheckpointError, match="padding=True"):
        tokenizer(prompts, return_tensors="pt")
    # The assistant inside is the one that the rest of the library knows.
    assert model.assistant.answer("Hello.", max_new_tokens=3) is not None


def test_what_is_refused_says_what_to_write(trained: Path) -> None:
    cfg = config(trained)
    with pytest.raises(
        CheckpointError, match=r"no word 'num_vision_token'. Did you mean 'num_vision_tokens'"
    ):
        made(cfg, num_vision_token=6)
    with pytest.raises(CheckpointError, match="xgenmm_v1"):
        made(config(trained, model_family="flamingo"))
    with pytest.raises(CheckpointError, match="google"):
        made(config(trained, vision_encoder_pretrained="openai"))
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE=1"):
        made(cfg, use_local_files=True)
    model, _, tokenizer = made(cfg)
    ids = tokenizer(["<image>"], return_tensors="pt")["input_ids"]
    with pytest.raises(CheckpointError, match="no weights yet"):
        model.generate(None, ids)
    state = torch.load(cfg.ckpt_pth)["model_state_dict"]
    with pytest.raises(CheckpointError, match="strict=False"):
        model.load_state_dict(state, strict=False)
    with pytest.raises(CheckpointError, match="no weights of xGen-MM"):
        model.load_state_dict({"x": torch.zeros(1)})
    del state["lang_model.model.norm.weight"]
    with pytest.raises(CheckpointError, match=r"missing: language\.model\.norm"):
        model.load_state_dict(state)
    model.load_state_dict(torch.load(cfg.ckpt_pth)["model_state_dict"])
    with pytest.raises(SampleError, match="more marks <image> than its 0 pictures"):
        model.generate(None, ids)
    with pytest.raises(SampleError, match="more pictures than sizes"):
        model.generate([[torch.zeros(1, 3, 3, 50, 50)]], ids)
    with pytest.raises(ValueError, match="max_new_token"):
        words = tokenizer(["Hello."], return_tensors="pt")["input_ids"]
        model.generate(None, words, max_new_token=3)
    with pytest.raises(CheckpointError, match=r"no word 'trust_remote'. Did you mean"):
        AutoModelForVision2Seq.from_pretrained(case_path(HUB), trust_remote=True)
    with pytest.raises(CheckpointError, match="no added token"):
        tokenizer.eos_token = "<|stop|>"
        tokenizer.decode([1], skip_special_tokens=True)
    with pytest.raises(CheckpointError, match="takes no other weights"):
        AutoModelForVision2Seq.from_pretrained(case_path(HUB)).load_state_dict({})


def test_released_ids_are_taken_as_their_cards_write_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "xgen-mm-phi3-mini-instruct-interleave-r-v1.5"
    place = tmp_path / "Salesforce" / name
    shutil.copytree(case_path(CASE), tmp_path / "case", copy_function=shutil.copyfile)
    place.parent.mkdir()
    shutil.copytree(tmp_path / "case/checkpoint/hf_hub", place)
    shutil.copytree(tmp_path / "case/backbones", place / "backbones")
    monkeypatch.setenv("OMNIMIX_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokenizer = AutoTokenizer.from_pretrained(f"Salesforce/{name}", use_fast=False)
    assert len(tokenizer) == 463
    processor = AutoImageProcessor.from_pretrained(f"Salesforce/{name}")
    assert (processor.side, len(processor.grids)) == (50, 5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"image_aspect_ratio": "anyrez"}, "'anyrez'. Did you mean 'anyres'?"),
        ({"image_aspect_ratio": 3}, "unknown image_aspect_ratio 3"),
        ({"num_vision_tokens": "six"}, "num_vision_tokens is 'six'"),
        ({"num_vision_tokens": 0}, "num_vision_tokens is 0"),
        ({"anyres_patch_sampling": "yes"}, "anyres_patch_sampling is 'yes'. Give true or false"),
        ({"anyres_grids": [(1, 2), (2,)]}, "anyres_grids is [[1, 2], [2]]"),
        ({"anyres_grids": 7}, "anyres_grids is 7"),
        ({"lang_model_path": "no/such/folder"}, "there is no llm at 'no/such/folder'"),
        ({"clip_vision_encoder_path": None}, "clip_vision_encoder_path: NoneType was given"),
    ],
)
def test_what_is_wrong_is_said_before_the_weights_are_read(
    trained: Path, words: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read first")

    monkeypatch.setattr("omnimix.families.xgen_mm.face._loaded", read)
    cfg = config(trained)
    given = {
        "clip_vision_encoder_path": cfg.vision_encoder_path,
        "clip_vision_encoder_pretrained": "google",
        "lang_model_path": cfg.lm_path,
        "tokenizer_path": cfg.lm_path,
        "ckpt_pth": cfg.ckpt_pth,
    }
    with pytest.raises(OmnimixError, match=re.escape(said)):
        create_model_and_transforms(**(given | words))


def test_arguments_of_another_form_are_refused() -> None:
    folder = case_path(HUB)
    image_processor, tokenizer = (
        one.from_pretrained(folder) for one in (AutoImageProcessor, AutoTokenizer)
    )
    model = AutoModelForVision2Seq.from_pretrained(folder)
    ids = tokenizer(["Hi"])["input_ids"]
    picture = Image.new("RGB", (60, 60))
    calls: list[tuple[Any, tuple[Any, ...], str]] = [
        (image_processor, (None,), "images: NoneType was given"),
        (image_processor, ([picture], "anyrez"), "Did you mean 'anyres'?"),
        (process_images, ([None], image_processor, config(folder)), "images.0: NoneType was given"),
        (tokenizer, (None,), "text: NoneType was given"),
        (model.generate, (None, None), "input_ids: NoneType was given"),
        (model.generate, (None, ids[0]), "ids of torch.int64 and of the shape"),
        (model.generate, ([], ids), "vision_x: 0 entries for 1 rows of ids"),
        (model.generate, ([[picture]], ids), "vision_x: a picture of Image"),
        (model.load_state_dict, (None,), "state_dict: NoneType was given"),
    ]
    for call, given, said in calls:
        with pytest.raises(OmnimixError, match=re.escape(said)):
            call(*given)
