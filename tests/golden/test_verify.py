"""The check itself: it finds what differs, names the first stage, and works on cases it never saw."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omnimix_golden import comparisons
from omnimix_golden.prismatic.reading import PrismaticReading
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from omnimix.cli.main import app
from omnimix.convert.report import Check, Verdict, close, number, same
from omnimix.convert.verifying import verify
from omnimix.errors import CheckpointError, OmnimixError
from tests.cases import case_path


def copied(case: str, place: Path, listed: bool = False) -> Path:
    """A case that may be written to; the list of its comparisons is left out where a test takes some away."""
    shutil.copytree(case_path(case), place, copy_function=shutil.copyfile)
    if not listed:
        (place / comparisons.FILE).unlink()
    for path in [place, *place.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return place


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A copy of a case without a checkpoint and without tensors."""
    return copied("prismatic/text_and_data", tmp_path / "texts")


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A copy of the smallest case with a checkpoint, without its training and under another name."""
    place = copied("prismatic/clip_mlp_vicuna", tmp_path / "anything")
    edit(place, training=None, trainable_parameters_per_stage=None)
    for file in place.glob("expected_train_*"):
        file.unlink()
    return place


def edit(folder: Path, **words: Any) -> None:
    facts = json.loads((folder / "case.json").read_text())
    facts |= words
    kept = {word: value for word, value in facts.items() if value is not None}
    (folder / "case.json").write_text(json.dumps(kept))


def keep(folder: Path, wanted: Callable[[str], bool]) -> None:
    """Take golden tensors out."""
    file = folder / "expected.safetensors"
    save_file({name: t for name, t in load_file(file).items() if wanted(name)}, file)


def spoil(folder: Path, name: str, by: float) -> None:
    file = folder / "expected.safetensors"
    tensors = load_file(file)
    tensors[name] = tensors[name] + by
    save_file(tensors, file)


def test_the_first_stage_that_differs_is_named(case: Path) -> None:
    spoil(case, "req1/features/projected", 1e-3)
    spoil(case, "req0/logits_last", 1.0)
    report = verify(case)
    assert report.failed is not None
    assert (report.failed.stage, report.failed.what) == ("connector tokens", "req1 projected")
    assert report.failed.difference == pytest.approx(1e-3, rel=0.01)
    stages = [line.stage for line in report.lines()]
    assert stages[-1] == "connector tokens" and "logits" not in stages
    whole = verify(case, stop=False)
    assert {line.stage for line in whole.lines() if not line.passed} == {
        "connector tokens",
        "logits",
    }
    result = CliRunner().invoke(app, ["verify", str(case)])
    assert result.exit_code == 1
    assert "differs at the stage 'connector tokens', req1 projected" in result.stdout


def test_a_case_may_lack_stages(case: Path) -> None:
    edit(case, batch=None, string_token_ids=None, generation=None)
    keep(case, lambda name: not name.startswith("batch/"))
    report = verify(case)
    assert report.passed and not report.unread
    assert "gradients" not in {line.stage for line in report.lines()}
    result = CliRunner().invoke(app, ["verify", str(case), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["passed"] is True


def test_a_case_without_golden_tensors_says_so(texts: Path) -> None:
    assert not any("no golden tensors" in note for note in verify(texts).notes)
    for file in texts.glob("expected*.safetensors"):
        file.unlink()
    assert any("no golden tensors" in note for note in verify(texts).notes)


def test_golden_tensors_that_no_section_looks_at_fail_a_case(
    texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = {"new.logits": torch.ones(2), "new.ids": torch.ones(2)}
    save_file(new, texts / "expected_more.safetensors")
    report = verify(texts)
    assert report.failed is not None and report.failed.stage == "unread"
    assert report.unread == ["expected_more: new.ids", "expected_more: new.logits"]
    result = CliRunner().invoke(app, ["verify", str(texts)])
    assert result.exit_code == 1
    assert "at the stage 'unread', expected_more: new.ids: no section looks at it" in result.stdout
    reasons = {"expected_more: new.*": "they are made up"}
    monkeypatch.setattr(PrismaticReading, "unread", reasons)
    report = verify(texts)
    assert report.passed
    assert "2 golden tensors are deliberately unread: they are made up" in report.notes


def spoilt(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Check | None:
    """The first check that fails once the golden tensors are changed like this."""
    file = folder / "expected.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    return verify(folder).failed


def test_a_golden_tensor_that_is_taken_out_fails_a_case(tmp_path: Path) -> None:
    folder = copied("prismatic/preprocess", tmp_path / "case", listed=True)
    gone = "clip-vit-b/letterbox/cat_309x170.png/pixel_values"
    failed = spoilt(folder, lambda tensors: tensors.pop(gone))
    assert failed is not None and failed.stopped and failed.stage == "missing"
    assert failed.what.startswith("pixels: ") and gone in failed.what
    assert CliRunner().invoke(app, ["verify", str(folder)]).exit_code == 1


def test_golden_logits_that_are_cut_short_fail_a_case(tmp_path: Path) -> None:
    def shorter(tensors: dict[str, torch.Tensor]) -> None:
        tensors["gen.3.step_logits"] = tensors["gen.3.step_logits"][:2].clone()

    listed = copied("sphinx/ens_1shard", tmp_path / "listed", listed=True)
    stated = json.loads((listed / "case.json").read_text())["tensors"]
    stated["gen.3.step_logits"]["shape"] = [2, 640]
    edit(listed, tensors=stated)
    failed = spoilt(listed, shorter)
    assert failed is not None and (failed.stage, failed.what) == ("missing", "logits: request 4")
    failed = spoilt(copied("sphinx/ens_1shard", tmp_path / "stated"), shorter)
    assert failed is not None and (failed.stage, failed.what) == ("missing", "gen.3.step_logits")
    assert failed.note == "the golden tensor has the shape [2, 640], not [16, 640]"


def test_a_word_that_is_taken_out_of_a_case_fails_it(tmp_path: Path) -> None:
    folder = copied("sphinx/metrics", tmp_path / "case", listed=True)
    facts = json.loads((folder / "metrics.json").read_text())
    del facts["rec_iou"]
    (folder / "metrics.json").write_text(json.dumps(facts))
    failed = verify(folder).failed
    assert failed is not None and (failed.stage, failed.what) == ("missing", "rec_iou: all rows")
    (folder / comparisons.FILE).unlink()
    report = verify(folder)
    assert report.passed and any("would not be noticed" in note for note in report.notes)


def test_the_list_of_a_case_is_what_it_compares(texts: Path) -> None:
    listed = (case_path("prismatic/text_and_data") / comparisons.FILE).read_text()
    assert comparisons.write(texts).read_text() == listed
    (texts / comparisons.FILE).write_text("[1]")
    with pytest.raises(CheckpointError, match=r"comparisons\.json cannot be read"):
        verify(texts)
    edit(texts, collator=7)
    (texts / comparisons.FILE).unlink()
    with pytest.raises(OmnimixError, match="the case does not agree: collator"):
        comparisons.write(texts)


def test_every_case_lists_its_comparisons() -> None:
    folders = {file.parent for file in case_path().glob("*/*/*.json")}
    cases = [
        one for one in folders if {"case.json", "metrics.json"} & {f.name for f in one.iterdir()}
    ]
    assert len(cases) >= 15 and all(map(comparisons.stated, cases))


def test_an_error_inside_a_stage_does_not_end_the_others(texts: Path) -> None:
    facts = json.loads((texts / "case.json").read_text())
    facts["collator"] = 7
    del facts["prompts"][0]["turns"]
    facts["learning_rates"] = [0.1]
    (texts / "case.json").write_text(json.dumps(facts))
    report = verify(texts, stop=False)
    wrong = {line.stage: line.worst for line in report.lines() if not line.passed}
    assert list(wrong) == ["collator", "unread"] and wrong["collator"].stopped
    assert "order shuffled" in {line.stage for line in report.lines()}
    assert "no section reads these words of case.json: learning_rates" in report.notes
    assert any("'prompts' was compared in part only" in note for note in report.notes)
    assert verify(texts).lines()[-1].stage == "collator"
    result = CliRunner().invoke(app, ["verify", "--all", str(texts)])
    assert result.exit_code == 1 and "STOPPED" in result.stdout
    assert "stopped at the stage 'collator'" in result.stdout
    data = json.loads(CliRunner().invoke(app, ["verify", "--all", "--json", str(texts)]).stdout)
    assert [row["stage"] for row in data["stages"] if row["stopped"]] == ["collator", "unread"]


def test_a_conversation_that_has_its_answer_is_not_opened_for_one(case: Path) -> None:
    first = json.loads((case / "case.json").read_text())["requests"][0]
    asked = {word: first[word] for word in ("image", "system_prompt") if word in first}
    asked["turns"] = [*first["turns"], "A cup."]
    prompt = first["prompt"].rstrip() + " A cup.</s>"
    edit(case, requests=[{**asked, "prompt": prompt, "input_ids": []}], batch=None)
    keep(case, lambda name: False)
    checks = {check.stage: check for check in verify(case, stop=False).checks}
    assert checks["prompt"].passed, checks["prompt"].note
    assert not any(check.stopped for check in checks.values())


@pytest.mark.parametrize("family", ["sphinx", "sphinx_v"])
def test_folders_with_the_numbers_of_evaluation_scripts(family: str, tmp_path: Path) -> None:
    folder = case_path(f"{family}/metrics")
    report = verify(folder)
    assert report.passed and report.name == f"{family}/metrics"
    facts = json.loads((folder / "metrics.json").read_text())
    assert {line.stage for line in report.lines()} == set(facts)
    (tmp_path / "metrics.json").write_text(json.dumps({"meteor": {"expected": 1}, **facts}))
    failed = verify(tmp_path).failed
    assert failed is not None and failed.stopped and failed.stage == "meteor"
    assert [line.stage for line in verify(tmp_path, stop=False).lines()] == ["meteor", *facts]


def test_a_word_that_is_not_stated_is_said_and_the_rest_compared(case: Path) -> None:
    facts = json.loads((case / "case.json").read_text())
    requests = facts["requests"]
    del requests[1]["prompt"]
    edit(case, requests=requests, string_token_ids={"Yes": 1})
    report = verify(case, stop=False)
    assert [line.stage for line in report.lines() if not line.passed] == [
        "vocabulary",
        "unread",
    ]
    assert any("'requests' was compared in part only" in note for note in report.notes)
    assert "loss" in {line.stage for line in report.lines()}


def test_a_wrong_preview_is_found(texts: Path) -> None:
    prompts = json.loads((texts / "case.json").read_text())["prompts"]
    stated = [t for facts in prompts for t in facts["turns"] if t.get("potential_prompt_before")]
    assert stated, "the public prompts state previews"
    stated[0]["potential_prompt_before"] += "?"
    edit(texts, prompts=prompts)
    failed = verify(texts).failed
    assert failed is not None and failed.stage == "prompt" and "preview" in failed.what


def test_a_case_with_nothing_to_compare_does_not_pass(case: Path) -> None:
    facts = json.loads((case / "case.json").read_text())
    (case / "case.json").write_text(json.dumps({"family": facts["family"], "tolerance": 1e-5}))
    assert not verify(case).passed
    result = CliRunner().invoke(app, ["verify", str(case)])
    assert result.exit_code == 1 and "there was nothing to compare" in result.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "case.json cannot be read"),
        ("[]", "holds no table of words"),
        ("{}", "names no family"),
        ('{"family": "flamingo"}', "cases of the family 'flamingo' cannot be read"),
    ],
)
def test_broken_cases(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "case.json").write_text(text)
    with pytest.raises(CheckpointError, match=said):
        verify(tmp_path)
    result = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert result.exit_code == 2


def test_folders_without_golden_numbers(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no golden numbers"):
        verify(tmp_path)
    with pytest.raises(CheckpointError, match="there is no such folder"):
        verify(tmp_path / "nowhere")


def test_damaged_golden_tensors(case: Path) -> None:
    file = case / "expected.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="the golden tensors are damaged"):
        verify(case)


def test_comparisons() -> None:
    one = torch.ones(2, 2)
    assert close("s", "w", one, one + 1e-7, 1e-6).passed
    assert not close("s", "w", one, one + 1e-5, 1e-6).passed
    assert "shape [2, 2] instead of [2]" in close("s", "w", one, one[0], 1.0).note
    assert not close("s", "w", one * float("nan"), one, 1e9).passed
    assert not close("s", "w", None, one, 1e9).passed
    assert not number("s", "w", float("nan"), 1.0, 1e9).passed
    found = same("ids", "w", [1, 2, 3], torch.tensor([1, 5, 3, 4]))
    assert found.difference == 2 and found.note.startswith("from place 1")
    assert same("text", "w", "abc", "abc").passed


def test_the_worst_of_a_stage_is_shown() -> None:
    report = Verdict("r", [Check("a", "x", 1e-6, 1e-5), Check("a", "y", 1e-7, 1e-8)])
    assert report.failed is not None and report.failed.what == "y"
    assert [line.compared for line in report.lines()] == [2]
    assert not Verdict("empty").passed
