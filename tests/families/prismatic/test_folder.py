"""Prismatic run folders: recognised by what is inside, opened strictly, refused in plain words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import omnimix
from omnimix.checkpoints import base, reading
from omnimix.cli.main import app
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.convert import certificate
from omnimix.errors import CheckpointError
from omnimix.families.prismatic import folder as prismatic, recipe as prismatic_recipe
from omnimix.families.prismatic.prompted import Prompted
from omnimix.generate import folder as folders
from omnimix.generate.assistant import Assistant
from tests.cases import case_path


@pytest.fixture(scope="module")
def case() -> Path:
    return case_path("prismatic/clip_mlp_vicuna")


@pytest.fixture(scope="module")
def assistant(case: Path) -> Assistant:
    return omnimix.load(case / "checkpoint")


@pytest.fixture
def prompted(assistant: Assistant) -> Prompted:
    return Prompted(assistant)


@pytest.fixture
def run(case: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the case that may be damaged, under a name that says nothing."""
    place = tmp_path / "x"
    shutil.copytree(case, place, copy_function=shutil.copyfile)
    for path in [place, *place.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    yield place


def rewritten(path: Path, **words: Any) -> None:
    data = json.loads(path.read_text())
    data["model"] |= words
    path.write_text(json.dumps(data))


def test_layouts_are_recognised_by_what_is_inside(run: Path) -> None:
    for place in (run / "checkpoint", run / "checkpoint/checkpoints/latest-checkpoint.pt"):
        found = base.recognise(place)
        assert found is not None and found[0].name == "prismatic", place
    assert base.recognise(run / "inputs") is None and base.recognise(run) is None
    assert base.open_release(run / "checkpoint_align").layout.kind == "align run"
    assert base.open_release(run / "checkpoint").layout.kind == "finetuned run"


def test_a_step_file_stands_in_for_the_latest(run: Path) -> None:
    folder = run / "checkpoint" / "checkpoints"
    for step in (4, 12):
        shutil.copy(
            folder / "latest-checkpoint.pt", folder / f"step-{step:06d}-epoch-00-loss=1.0.pt"
        )
    (folder / "latest-checkpoint.pt").unlink()
    found = base.recognise(run / "checkpoint")
    assert found is not None and found[1].files[0].name.startswith("step-000012")


def test_every_key_is_accounted_for(case: Path) -> None:
    _, _, report = reading.load(base.open_release(case / "checkpoint"))
    assert report.used > 60
    assert report.unused and all("block" in reason for reason in report.unused.values())


def test_weights_stay_in_the_mapped_file(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is copied that is not changed, so loading takes hardly more memory than the model."""
    release = base.open_release(case / "checkpoint")
    tensors, report = reading.native_tensors(release)
    monkeypatch.setattr(reading, "native_tensors", lambda _: (dict(tensors), report))
    model, _, _ = reading.load(release)
    parameters = dict(model.named_parameters())
    assert [n for n, p in parameters.items() if p.data_ptr() != tensors[n].data_ptr()] == []


def test_an_align_run_has_its_own_projector_and_the_base_language_model(case: Path) -> None:
    model, _, report = reading.load(base.open_release(case / "checkpoint_align"))
    assert any("align run" in note for note in report.notes)
    stored = load_file(case / "backbones" / "llm" / "model.safetensors")
    rows = len(stored["lm_head.weight"])
    state = model.state_dict()
    assert torch.equal(state["language.lm_head.weight"][:rows], stored["lm_head.weight"].float())
    file = case / "checkpoint_align" / "checkpoints" / "latest-checkpoint.pt"
    own = reading.tensors_of(file)["model.projector.projector.0.weight"]
    assert torch.equal(state["image.branches.0.connector.0.weight"], own)


@pytest.mark.parametrize(
    ("word", "value", "said"),
    [
        ("vision_backbone_id", "clip-vit-l-335px", "did you mean 'clip-vit-l-336px'"),
        ("llm_backbone_id", "vicuna", "unknown llm_backbone_id 'vicuna'"),
        ("image_resize_strategy", "squash", "unknown image_resize_strategy"),
        ("arch_specifier", "resampler", "unknown architecture 'resampler'"),
    ],
)
def test_unknown_ids_are_named(run: Path, word: str, value: str, said: str) -> None:
    rewritten(run / "checkpoint" / "config.json", **{word: value})
    with pytest.raises(CheckpointError, match="(?i)" + said):
        base.open_release(run / "checkpoint")


def test_a_truncated_checkpoint(run: Path) -> None:
    file = run / "checkpoint" / "checkpoints" / "latest-checkpoint.pt"
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match="truncated or no file of weights"):
        base.open_release(run / "checkpoint")


def test_a_truncated_part(run: Path) -> None:
    file = run / "backbones" / "vision" / "clip.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated or no file of weights"):
        reading.load(base.open_release(run / "checkpoint"))


def test_a_pickle_with_more_than_tensors_is_not_opened(run: Path) -> None:
    file = run / "checkpoint" / "checkpoints" / "latest-checkpoint.pt"
    torch.save({"model": {"projector": {"projector.0.weight": Path("x")}}}, file)
    with pytest.raises(CheckpointError, match="not opened, since that would run code"):
        base.open_release(run / "checkpoint")


def test_missing_and_unexpected_keys_stand_in_one_sentence(run: Path) -> None:
    file = run / "backbones" / "vision" / "clip.safetensors"
    tensors = load_file(file)
    tensors["rope.bands"] = tensors.pop("cls_token").clone()
    save_file(tensors, file)
    with pytest.raises(CheckpointError) as caught:
        reading.load(base.open_release(run / "checkpoint"))
    text = str(caught.value)
    assert "1 weights are missing: image.branches.0.encoders.0.trunk.cls_token" in text
    assert "1 keys are unexpected: image.branches.0.encoders.0.trunk.rope.bands" in text
    assert "config.json" in text  # what the folder looked like


def test_missing_parts(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.rmtree(run / "backbones" / "llm")
    (run / "parts.json").unlink()
    with pytest.raises(CheckpointError, match=r"lmsys/vicuna-7b-v1\.5.*--part llm=FOLDER"):
        base.open_release(run / "checkpoint")


def test_a_missing_tokenizer(run: Path) -> None:
    (run / "backbones" / "llm" / "tokenizer.model").unlink()
    with pytest.raises(
        omnimix.OmnimixError, match=r"the tokenizer 'tokenizer\.json' was not found"
    ):
        base.open_release(run / "checkpoint")


def test_a_run_without_a_checkpoint(run: Path) -> None:
    (run / "checkpoint" / "checkpoints" / "latest-checkpoint.pt").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint in the run folder"):
        base.recognise(run / "checkpoint")


def test_another_family_is_no_prismatic_one() -> None:
    folder = case_path("sphinx")
    with pytest.raises(CheckpointError, match="no checkpoint of prismatic: the folder holds"):
        base.open_release(folder / "ens_1shard", family="prismatic")
    with pytest.raises(CheckpointError, match="no model"):
        folders.find(folder / "metrics")


def test_parts_may_be_named(run: Path, tmp_path: Path, case: Path) -> None:
    (run / "parts.json").unlink()
    parts = {"llm": run / "backbones/llm", "vision": run / "backbones/vision/clip.safetensors"}
    args = {"vision": {"embed_dim": 32, "depth": 4, "num_heads": 2}}
    found = omnimix.load(run / "checkpoint", parts=parts, image_size=84, vision=args)
    assert found.processor.recipe == base.open_release(case / "checkpoint").recipe


def test_a_builder_writes_the_prompts_that_generate_takes(prompted: Prompted, case: Path) -> None:
    facts = json.loads((case / "case.json").read_text())
    for request in facts["requests"]:
        builder = prompted.prompt_builder(request["system_prompt"])
        for i, turn in enumerate(request["turns"]):
            builder.add_turn(("human", "gpt")[i % 2], turn)
        assert builder.get_prompt() == request["prompt"]
        image = case / "inputs" / request["image"]
        text = prompted.generate(image, builder.get_prompt(), max_new_tokens=14, min_length=1)
        assert text == request["generated_text"]
        for words, expected in request["string_probabilities"].items():
            (shares,) = prompted.generate_batch(
                [image], [request["prompt"]], return_string_probabilities=words.split("|")
            )
            assert shares == pytest.approx(expected, abs=1e-5)


def test_faces_refuse_what_cannot_be(prompted: Prompted) -> None:
    with pytest.raises(omnimix.OmnimixError, match="1 pictures for 2 prompts"):
        prompted.generate_batch([None], ["a", "b"])
    with pytest.raises(omnimix.OmnimixError, match="tokens of this model, not one"):
        prompted.generate_batch([None], ["a"], return_string_probabilities=["giraffes and more"])


def test_chat_and_show_open_a_run(case: Path) -> None:
    facts = json.loads((case / "case.json").read_text())["requests"][0]
    words = ["--image", str(case / "inputs" / facts["image"]), "--ask", facts["turns"][0]]
    run = CliRunner()
    place = str(case / "checkpoint")
    result = run.invoke(app, ["chat", place, *words, "--max-new-tokens", "14", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["answer"] == facts["generated_text"]
    result = run.invoke(app, ["show", place])
    assert result.exit_code == 0 and "tiny-clip+7b" in result.stdout
    result = run.invoke(app, ["chat", str(case / "inputs"), "--ask", "x"])
    assert result.exit_code == 2 and "released checkpoint" in result.stderr


SHRUNK = {"embed_dim": 16, "depth": 3, "num_heads": 2}
BASES: dict[str, dict[str, Any]] = {
    "llama2-7b-chat": {"model_type": "llama"},
    "mistral-v0.1-7b-instruct": {"model_type": "mistral", "num_key_value_heads": 1},
    "phi-2-3b": {"model_type": "phi", "partial_rotary_factor": 0.5},
}


@pytest.mark.parametrize(
    ("vision", "llm", "arch", "strategy"),
    [
        ("dinoclip-vit-l-336px", "phi-2-3b", "linear", "resize-crop"),
        ("in1k-vit-l", "mistral-v0.1-7b-instruct", "no-align+gelu-mlp", "letterbox"),
        ("clip-vit-b", "llama2-7b-chat", "fused-gelu-mlp", "resize-naive"),
    ],
)
def test_other_ids_are_written_and_opened(
    vision: str, llm: str, arch: str, strategy: str, tmp_path: Path
) -> None:
    """Random stand-ins of ids without a golden case go there and back with equal logits."""
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    base_config = {**BASES[llm], **size, "num_attention_heads": 2, "rope_theta": 5000.0}
    tokens = case_path("prismatic/text_and_data/tokenizers")
    folder = tokens / ("phi-2" if llm.startswith("phi") else "llama2")
    known = prismatic_recipe.LLMS[llm]
    words = prismatic_recipe.Words(
        "standin",
        vision,
        llm,
        arch,
        strategy,
        300,
        llm=base_config,
        tokens=prismatic_recipe.tokenizer(known, False).load([folder]).size,
        tidy=False,
        patches=(64 // (16 if vision in ("clip-vit-b", "in1k-vit-l") else 14)) ** 2,
        image_size=64,
        vision=dict.fromkeys(prismatic_recipe.VISION[vision][1], SHRUNK),
    )
    recipe = prismatic_recipe.recipe(words)
    assert recipe.language.hf_config().rope_parameters["rope_theta"] == 5000.0
    torch.manual_seed(0)
    model = MultimodalLM.from_recipe(recipe).eval()
    processor = Processor.from_recipe(recipe, folder)
    wanted = certificate.probe(model, processor)
    prismatic.Prismatic().write(model, processor, tmp_path)
    again, other, _ = reading.load(base.open_release(tmp_path))
    assert other.recipe == recipe
    found = certificate.answers(again, other, wanted["picture"].numpy())
    assert all(check.passed for check in certificate.compare(found, wanted))
    first = wanted["ids"][0]
    assert (
        first == processor.weave.tokenizer.encode("<|endoftext|>" if "phi" in llm else "<s>")[0][0]
    )
    assert (wanted["owner"][1:] == 1).sum() == model.tokens_per_tile["image"]
