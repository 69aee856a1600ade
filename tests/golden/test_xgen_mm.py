"""Every public case of xGen-MM through `omnimix verify`, and cases that must be told apart from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omnimix_golden import comparisons
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

import omnimix
from omnimix.cli.main import app
from omnimix.convert.layouts import convert
from omnimix.convert.verifying import verify
from omnimix.prompts.questions import interleaved
from tests.cases import case_path

CASES = ("anyres_single", "data_mixing", "interleave_multi")

STAGES = {
    "anyres_single": {
        *("prompt", "ids", "pixels", "features", "connector tokens", "embeddings", "logits"),
        *("greedy ids", "labels", "loss", "gradients", "weights", "groups", "rates", "batches"),
        *("tiles", "text", "what learns"),
    },
    "interleave_multi": {
        *("prompt", "ids", "pixels", "features", "connector tokens", "embeddings", "logits"),
        *("greedy ids", "labels", "loss", "gradients", "tiles", "text", "what learns"),
    },
    "data_mixing": {"mixing", "lengths", "length groups", "shuffled", "paths", "marks"},
}


@pytest.mark.parametrize("case", CASES)
def test_every_public_case_agrees(case: str) -> None:
    report = verify(case_path(f"xgen_mm/{case}"), stop=False)
    failed = report.failed
    assert report.passed, failed
    assert report.unread == []
    assert {line.stage for line in report.lines()} == STAGES[case]


# --- the doors ---


def expected_text(case: str, name: str) -> str:
    facts = json.loads((case_path(f"xgen_mm/{case}") / "case.json").read_text("utf-8"))
    return str(facts["generate"][name]["text_skip_special"][0])


def test_the_greedy_answer_at_the_command_line() -> None:
    folder = case_path("xgen_mm/anyres_single")
    asked = [
        "--image",
        str(folder / "inputs/cat.png"),
        "--ask",
        "\nDescribe the picture in detail.",
    ]
    wanted = expected_text("anyres_single", "cat")
    for place in ("hf_hub", "train_fsdp"):
        result = CliRunner().invoke(app, ["chat", str(folder / "checkpoint" / place), *asked])
        assert result.exit_code == 0, result.output
        assert result.output.startswith(wanted)


def test_pictures_between_the_words_from_python() -> None:
    folder = case_path("xgen_mm/interleave_multi")
    model = omnimix.load(folder / "checkpoint/hf_hub")
    request = json.loads((folder / "inputs/request.json").read_text(encoding="utf-8"))
    for asked in request["generate"]:
        files = [folder / "inputs" / name for name in asked["images"][0]]
        turn = interleaved(asked["prompts"][0], files)
        found = model.reply([turn], max_new_tokens=asked["max_new_tokens"]).text
        wanted = expected_text("interleave_multi", asked["name"])
        assert found == wanted.replace("<unk>", "").strip()


def test_there_and_back_again(tmp_path: Path) -> None:
    source = case_path("xgen_mm/interleave_multi/checkpoint/hf_hub")
    for checks in (
        convert(source, tmp_path / "native"),
        convert(tmp_path / "native", tmp_path / "hub", "xgen_mm"),
    ):
        assert all(check.passed and check.difference == 0 for check in checks)
    assert verify(tmp_path / "hub").passed
    theirs = sorted(path.name for path in source.glob("*.json"))
    ours = {path.name for path in (tmp_path / "hub").glob("*.json")}
    assert ours >= set(theirs) - {"tokenizer.json", "model.safetensors.index.json"}


# --- changed cases: a difference is found, and named ---


def copied(tmp_path: Path, case: str, into: str = "moved") -> Path:
    """A case under another name; big files are linked, what tests change is copied."""
    source = case_path(f"xgen_mm/{case}")
    out = tmp_path / into
    out.mkdir()
    for path in source.iterdir():
        if path.is_dir() and path.name != "inputs":
            (out / path.name).symlink_to(path)
        elif path.is_dir():
            shutil.copytree(path, out / path.name, copy_function=shutil.copyfile)
        elif path.name != comparisons.FILE:  # tests take comparisons away
            shutil.copyfile(path, out / path.name)
    for path in out.rglob("inputs"):
        path.chmod(0o755)
    return out


def change_tensor(out: Path, name: str, change: Callable[[Tensor], Tensor]) -> None:
    tensors = load_file(out / "expected.safetensors")
    tensors[name] = change(tensors[name].clone()).contiguous()
    save_file(tensors, out / "expected.safetensors")


def change_facts(out: Path, change: Callable[[dict[str, Any]], None]) -> None:
    facts = json.loads((out / "case.json").read_text(encoding="utf-8"))
    change(facts)
    (out / "case.json").write_text(json.dumps(facts), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("pre/page.png/pixel_values", "pixels"),
        ("vis/moon.png/mask", "features"),
        ("vis/moon.png/tokens", "connector tokens"),
        ("gen/two_images/input_ids", "ids"),
        ("gen/two_images/spliced_embeds", "embeddings"),
        ("gen/two_images/step_logits", "logits"),
        ("gen/three_images_text_between/generated_ids", "greedy ids"),
        ("sft/text_only/labels", "labels"),
        ("batch/one_multi/loss", "loss"),
        ("batch/one_multi/grad/vision_tokenizer.latents", "gradients"),
        ("hubbase/pixel_values", "pixels"),
    ],
)
def test_a_changed_number_is_found_in_its_stage(name: str, stage: str, tmp_path: Path) -> None:
    out = copied(tmp_path, "interleave_multi")

    def changed(tensor: Tensor) -> Tensor:
        flat = tensor.view(-1)
        flat[-1] = 1 - flat[-1] if tensor.dtype == torch.uint8 else flat[-1] + 1
        return tensor

    change_tensor(out, name, changed)
    report = verify(out)
    assert report.failed is not None and report.failed.stage == stage
    assert [line.stage for line in report.lines() if not line.passed] == [stage]


def test_a_changed_order_is_found(tmp_path: Path) -> None:
    out = copied(tmp_path, "data_mixing")
    change_facts(out, lambda facts: facts["mixed_order"].reverse())
    report = verify(out)
    assert report.failed is not None and report.failed.stage == "mixing"


# --- a case that has never been seen: pad mode, several prompts at once ---


def squared(path: Path, side: int) -> Tensor:
    """Pad mode written out: grey square, picture in the middle, bicubic, -1 to 1."""
    picture = Image.open(path).convert("RGB")
    wide = max(picture.size)
    canvas = Image.new("RGB", (wide, wide), (127, 127, 127))
    canvas.paste(picture, ((wide - picture.width) // 2, (wide - picture.height) // 2))
    small = canvas.resize((side, side), Image.Resampling.BICUBIC)
    raw = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
    return (raw.reshape(side, side, 3).permute(2, 0, 1).contiguous().float() / 255 - 0.5) / 0.5


def test_pad_mode_and_prompts_side_by_side(tmp_path: Path) -> None:
    out = copied(tmp_path, "interleave_multi")
    side = 50
    names = ["temple.png", "page.png"]
    pixels = {name: squared(out / "inputs" / name, side) for name in [*names, "hubble.jpg"]}
    batch = torch.zeros(2, 2, 1, 3, side, side)
    batch[0, 0, 0], batch[0, 1, 0] = pixels["temple.png"], pixels["page.png"]
    tensors = {f"pre/{name}/pixel_values": pixels[name] for name in names}
    tensors["batch/two/pixel_values"] = batch
    tensors["gen/pair/generated_ids"] = torch.zeros(2, 1, dtype=torch.int64)
    save_file(tensors, out / "expected.safetensors")
    facts = json.loads((out / "case.json").read_text(encoding="utf-8"))
    keep = ("family", "case", "config", "tolerance", "trainable", "tensor_names")
    facts = {word: facts[word] for word in keep}
    facts["config"] |= {"image_aspect_ratio": "pad", "anyres_patch_sampling": False}
    facts["images"] = {name: {"n_tiles_with_base": 1} for name in names}
    facts |= {"generate": {"pair": {}}, "batches": {"two": {}}}
    (out / "case.json").write_text(json.dumps(facts), encoding="utf-8")
    record = {
        "id": "x",
        "image": [f"photos/{name}" for name in names],
        "conversations": [
            {"from": "human", "value": "<image> and <image>?"},
            {"from": "gpt", "value": "Two."},
        ],
    }
    text = {"id": "y", "conversations": record["conversations"][1:]}
    text["conversations"] = [{"from": "human", "value": "Hi."}, *text["conversations"]]
    (out / "inputs/two.json").write_text(json.dumps([record, text]), encoding="utf-8")
    request = {
        "images": names,
        "generate": [
            {
                "name": "pair",
                "prompts": ["<image>\nWhat?", "No picture."],
                "images": [["temple.png"], []],
                "max_new_tokens": 1,
            }
        ],
        "batches": [{"name": "two", "json": "inputs/two.json", "ids": ["x", "y"]}],
    }
    (out / "inputs/request.json").write_text(json.dumps(request), encoding="utf-8")
    report = verify(out, stop=False)
    stages = {line.stage: line for line in report.lines()}
    assert stages["pixels"].passed and stages["pixels"].compared == 3
    assert stages["tiles"].passed
    assert report.failed is not None and report.failed.stage == "greedy ids"  # zeros were made up
    assert report.unread == []


# --- kinds that the public cases do not hold ---


def case_with(tmp_path: Path, keep: tuple[str, ...]) -> tuple[Path, dict[str, Tensor]]:
    """A copy of the any-res case that says nothing but these words, and its golden tensors."""
    out = copied(tmp_path, "anyres_single")
    always = ("family", "case", "config", "tolerance")
    change_facts(out, lambda facts: [facts.pop(w) for w in {*facts} - {*keep, *always}])
    return out, load_file(out / "expected.safetensors")


def with_limit(out: Path, most: int) -> None:
    """The tokenizer says a smaller limit than the trainer's own."""
    source = (out / "checkpoint").resolve()
    (out / "checkpoint").unlink()
    shutil.copytree(source, out / "checkpoint", copy_function=shutil.copyfile)
    path = out / "checkpoint/hf_hub/tokenizer_config.json"
    words = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**words, "model_max_length": most}), encoding="utf-8")


def test_records_that_are_too_long_are_cut_on_the_right(tmp_path: Path) -> None:
    """The reference's own ids and labels, cut by hand: in the words, and before a picture."""
    out, golden = case_with(tmp_path, ("sft", "batches"))
    most = 100
    with_limit(out, most)
    change_facts(out, lambda facts: [x.pop("n_tokens") for x in facts["sft"].values()])
    change_facts(out, lambda facts: [x.pop("n_supervised") for x in facts["sft"].values()])
    cut = {k: v[:most] for k, v in golden.items() if k.startswith("sft/")}
    name = "batch/image_and_text"
    for word in ("input_ids", "text_attention_mask", "collated_labels"):
        cut[f"{name}/{word}"] = golden[f"{name}/{word}"][:, :most]
    save_file({k: v.contiguous() for k, v in cut.items()}, out / "expected.safetensors")
    keep_batch(out, ["a0", "a2"])
    report = verify(out, stop=False)
    assert report.passed and report.unread == [], report.failed
    assert {line.stage for line in report.lines()} >= {"ids", "labels"}


def keep_batch(out: Path, ids: list[str]) -> None:
    path = out / "inputs/request.json"
    request = json.loads(path.read_text(encoding="utf-8"))
    request["batches"] = [{**request["batches"][0], "ids": ids}]
    path.write_text(json.dumps(request), encoding="utf-8")
    change_facts(out, lambda facts: facts.update(batches={"image_and_text": {}}))


@pytest.mark.parametrize("wrong", [False, True])
def test_the_records_of_a_batch_come_in_the_order_of_the_case(wrong: bool, tmp_path: Path) -> None:
    """Rows turned round, and all logits of a batch compared."""
    out, golden = case_with(tmp_path, ("batches",))
    name = "batch/image_and_text"
    turned = {
        f"{name}/{word}": golden[f"{name}/{word}"].flip(0)
        for word in ("input_ids", "collated_labels", "spliced_mask", "spliced_embeds")
    }
    logits = torch.zeros(2, golden[f"{name}/spliced_mask"].shape[1], 495)
    index = golden[f"{name}/logit_index"]
    logits[index[:, 0], index[:, 1]] = golden[f"{name}/logits_at_index"]
    turned[f"{name}/logit_index"] = torch.stack([1 - index[:, 0], index[:, 1]], dim=1)
    turned[f"{name}/logits_at_index"] = golden[f"{name}/logits_at_index"]
    keep_batch(out, ["a2", "a0"])
    save_file({k: v.contiguous() for k, v in turned.items()}, out / "expected.safetensors")
    assert verify(out, stop=False).passed
    if wrong:
        turned[f"{name}/logits"] = logits.flip(0) + 1
        save_file({k: v.contiguous() for k, v in turned.items()}, out / "expected.safetensors")
        report = verify(out, stop=False)
        assert report.failed is not None and report.failed.stage == "logits"


def test_a_conversation_that_ends_with_an_answer_is_not_opened_for_another(tmp_path: Path) -> None:
    """A made-up prompt of several turns; its ids are those of the training conversation."""
    out, golden = case_with(tmp_path, ())
    request = json.loads((out / "inputs/request.json").read_text(encoding="utf-8"))
    turns = [turn["value"] for turn in request["sft_conversations"]["two_turns_image"]]
    prompt = (
        f"{turns[0]}<|end|>\n<|assistant|>\n{turns[1]}<|end|>\n<|user|>\n"
        f"{turns[2]}<|end|>\n<|assistant|>\n{turns[3]}<|end|>\n"
    )
    asked = {"name": "told", "prompts": [prompt], "images": [["cat.png"]]}
    (out / "inputs/request.json").write_text(json.dumps({**request, "generate": [asked]}))
    change_facts(out, lambda facts: facts.update(generate={"told": {}}))
    ids = golden["sft/two_turns_image/input_ids"][None]
    save_file({"gen/told/input_ids": ids}, out / "expected.safetensors")
    report = verify(out, stop=False)
    assert report.passed and report.unread == [], report.failed
