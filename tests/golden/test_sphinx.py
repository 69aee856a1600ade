"""Every public case of SPHINX through `omnimix verify`, the reference's face, and changed cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from omnimix.cli.main import app
from omnimix.convert.layouts import convert
from omnimix.convert.verifying import verify
from omnimix.errors import CheckpointError, ContextError, SampleError
from omnimix.families.sphinx.face import SphinxModel, asked, shown
from omnimix.types import Sample, Turn
from tests.cases import case_path

COMMON = {
    *("folder", "pixels", "prompt", "ids", "features", "embeddings", "states", "logits", "stops"),
    *("greedy ids", "text", "stream", "scores", "top-p", "quantized"),
}
STAGES = {
    "ens_1shard": COMMON | {"connector tokens", "mix"},
    "ens5_2shard": COMMON
    | {
        *("records", "labels", "what learns", "groups", "loss", "gradients", "weights", "rates"),
        "batches",
    },
}
ONE = "sphinx/ens_1shard"


@pytest.mark.parametrize("case", STAGES)
def test_every_public_case_agrees(case: str) -> None:
    report = verify(case_path(f"sphinx/{case}"), stop=False)
    assert report.passed, report.failed
    assert report.unread == []
    assert {line.stage for line in report.lines()} == STAGES[case]


# --- the doors ---


@pytest.fixture(scope="module")
def model() -> SphinxModel:
    return SphinxModel.from_pretrained(case_path(ONE) / "checkpoint", max_seq_len=1024)


def test_both_spellings_answer(model: SphinxModel) -> None:
    picture = case_path(ONE) / "inputs/cat.png"
    qas = [["Detect all people shown in the image.", None]]
    for ask in (model.generate_response, model.generate_reponse):
        assert ask(qas, picture, max_gen_len=32, temperature=0.0) == "no people"
    again = [[*qas[0][:1], "no people"], ["What's in the image?", None]]
    found = model.generate_response(again, picture, max_gen_len=32, temperature=0.0)
    assert found == "A ginger cat."


def test_the_same_seed_gives_the_same_answer(model: SphinxModel) -> None:
    qas = [["Tell me a story.", None]]
    words: dict[str, Any] = {"max_gen_len": 12, "temperature": 3.0, "top_p": 1.0}
    once, twice, other = (model.generate_response(qas, **words, seed=seed) for seed in (1, 1, 2))
    assert once == twice != other


def test_a_long_prompt_loses_its_beginning(model: SphinxModel) -> None:
    picture = str(case_path(ONE) / "inputs/cat.png")
    sample = asked([["cat " * 1200, None]], picture)
    woven = model.weave(sample, model.options(100))
    whole = model.processor.weave.tokenizer.encode(
        model.processor.recipe.template.text(sample, True)
    )
    text = woven.ids[woven.owner == 0].tolist()
    assert len(woven) == 1024 - 100 and len(text) == 1024 - 100 - 291
    assert text == whole[0][-len(text) :]  # the begin token is gone too
    assert woven.owner[0] == 0 and set(woven.owner[1:292].tolist()) == {1}
    assert model.generate_response([["cat " * 1200, None]], picture, 3, 0.0)


def test_no_room_for_the_question_is_refused(model: SphinxModel) -> None:
    picture = case_path(ONE) / "inputs/cat.png"
    with pytest.raises(
        ContextError, match="291 places of the picture and 1000 of the answer leave"
    ):
        model.generate_response([["What?", None]], picture, max_gen_len=1000)
    assert model.room(asked([["What?", None]]), 1000) == 24  # without a picture there is room


@pytest.mark.parametrize(
    ("qas", "message"),
    [
        ([], "there is no question"),
        ([["What?", "That."]], "pair 1 of 1 has an answer"),
        ([["What?", None], ["And?", None]], "pair 1 of 2 has no answer"),
    ],
)
def test_questions_without_sense_are_refused(qas: list[list[str]], message: str) -> None:
    with pytest.raises(SampleError, match=message):
        asked(qas)


def test_a_page_never_shows_the_end_signal() -> None:
    texts = ["no", "no pe", "no people", "no people\n", "no people\n##", "no people\n###", "never"]
    raw = ({"text": text, "end_of_content": False} for text in texts)
    assert [part["text"] for part in shown(raw)] == [
        "n",
        "no pe",
        "no peo",
        "no peopl",
        "no people\n",
    ]


def test_the_greedy_answer_at_the_command_line() -> None:
    folder = case_path(ONE)
    words = ["--image", str(folder / "inputs/cat.png"), "--ask", "What's in the image?"]
    result = CliRunner().invoke(app, ["chat", str(folder / "checkpoint"), *words])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("no people")  # as the golden batch says


def test_there_and_back_again(tmp_path: Path) -> None:
    source = case_path("sphinx/ens5_2shard/checkpoint")
    for checks in (
        convert(source, tmp_path / "native"),
        convert(tmp_path / "native", tmp_path / "four", "sphinx", shards=4),
    ):
        assert all(check.passed and check.difference == 0 for check in checks)
    assert verify(tmp_path / "four").passed
    files = {path.name for path in (tmp_path / "four").iterdir()}
    assert files >= {f"consolidated.{i:02d}-of-04.model.pth" for i in range(4)}
    assert files >= {"tokenizer.model", "config.json", "meta.json"}
    theirs = json.loads((source / "config.json").read_text(encoding="utf-8"))
    assert json.loads((tmp_path / "four/config.json").read_text(encoding="utf-8")) == theirs


# --- changed cases: a difference is found, and named ---


def copied(tmp_path: Path, case: str) -> Path:
    """A case under another name; what tests change is copied, the rest linked."""
    source = case_path(f"sphinx/{case}")
    out = tmp_path / "moved"
    out.mkdir()
    for path in source.iterdir():
        if path.is_dir():
            (out / path.name).symlink_to(path)
        else:
            (out / path.name).write_bytes(path.read_bytes())
    return out


def change_tensor(out: Path, name: str, change: Callable[[Tensor], Tensor]) -> None:
    tensors = load_file(out / "expected.safetensors")
    tensors[name] = change(tensors[name].clone()).contiguous()
    save_file(tensors, out / "expected.safetensors")


@pytest.mark.parametrize(
    ("case", "name", "stage"),
    [
        ("ens_1shard", "pre.u8.cat.png", "pixels"),
        ("ens5_2shard", "pre.thumb224_half_s2", "pixels"),
        ("ens_1shard", "feat.qformer", "features"),
        ("ens_1shard", "feat.ens", "features"),
        ("ens5_2shard", "alt.clip_quickgelu_view0", "features"),
        ("ens_1shard", "visual_tokens", "connector tokens"),
        ("ens_1shard", "hidden_last_text", "states"),
        ("ens_1shard", "gen.2.step_logits", "logits"),
        ("ens_1shard", "mix.logits_beta0.5", "mix"),
        ("ens5_2shard", "train.finetune.grad.llma.start_img", "gradients"),
        ("ens5_2shard", "train.finetune.after.llma.layers.1.attention.wo.weight", "weights"),
    ],
)
def test_a_changed_number_is_found_in_its_stage(
    case: str, name: str, stage: str, tmp_path: Path
) -> None:
    out = copied(tmp_path, case)

    def changed(tensor: Tensor) -> Tensor:
        flat = tensor.view(-1)
        flat[-1] = 255 - flat[-1] if tensor.dtype == torch.uint8 else flat[-1] + 1
        return tensor

    change_tensor(out, name, changed)
    report = verify(out)
    assert report.failed is not None and report.failed.stage == stage
    assert [line.stage for line in report.lines() if not line.passed] == [stage]


@pytest.mark.parametrize(
    ("case", "section", "change", "stage"),
    [
        ("ens5_2shard", "sampler", lambda facts: facts["epochs"]["0"].reverse(), "batches"),
        (
            "ens5_2shard",
            "lr_schedule",
            lambda facts: facts["points"].update({"0.5": 1e-5}),
            "rates",
        ),
        ("ens_1shard", "quant", lambda facts: facts["quantised_linear_modules"].pop(), "quantized"),
        ("ens_1shard", "score", lambda facts: facts["log_likelihood"].reverse(), "scores"),
        ("ens_1shard", "stream", lambda facts: facts["shown"].pop(0), "stream"),
    ],
)
def test_a_changed_word_is_found_in_its_stage(
    case: str, section: str, change: Callable[[dict[str, Any]], Any], stage: str, tmp_path: Path
) -> None:
    out = copied(tmp_path, case)
    facts = json.loads((out / "case.json").read_text(encoding="utf-8"))
    change(facts["results"][section])
    (out / "case.json").write_text(json.dumps(facts), encoding="utf-8")
    report = verify(out)
    assert report.failed is not None and report.failed.stage == stage


def test_a_layout_without_shards_refuses_the_word(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the layout prismatic has no word 'shards'"):
        convert(case_path(ONE) / "checkpoint", tmp_path / "out", "prismatic", shards=2)


def test_the_unknown_token_is_never_learned(model: SphinxModel) -> None:
    style = model.processor.recipe.template
    assert style.unlearned == (0,)
    sample = asked([["What?", None]])
    sample = Sample((*sample.turns, Turn("assistant", ("a cat",))), "record")
    plain = model.processor.weave(sample)
    cat = model.processor.tokenizer.encode("a cat")[0][-1]
    assert cat in plain.labels.tolist()
    # The tokenizer spells letters it does not know in bytes, so another id stands in for the unknown token.
    other = model.processor.with_template(style.model_copy(update={"unlearned": (0, cat)}))
    woven = other.weave(sample)
    assert woven.ids.tolist() == plain.ids.tolist()
    assert cat not in woven.labels.tolist() and woven.targets == plain.targets - 1
