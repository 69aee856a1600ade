"""Every benchmark from a miniature of its official files to its score, without a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.evaluate.layouts import MAKERS
from typer.testing import CliRunner

from omnimix.cli.main import app
from omnimix.evaluate.answers import run
from omnimix.evaluate.benchmark import Official, table
from omnimix.generate.answers import Answer
from omnimix.types import Sample


@dataclass
class Seen:
    size: tuple[int, int]


@dataclass
class Asked:
    sample: Sample
    pictures: list[Seen]


class Says:
    """Stands in for a model: opens the pictures and says what it is told."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers, self.asked = list(answers), []

    def identity(self) -> dict[str, Any]:
        return {"model": "says"}

    def weave(self, sample: Sample, options: Any) -> Asked:
        seen = []
        for media in sample.media("image"):
            data = media.data
            from io import BytesIO

            with Image.open(BytesIO(data) if isinstance(data, bytes) else data) as picture:
                seen.append(Seen(picture.size))
        self.asked.append(sample.turns[-1])
        return Asked(sample, seen)

    def write_many(
        self, woven: Sequence[Asked], batch: int = 0, options: Any = None
    ) -> list[Answer]:
        return [Answer(self.answers.pop(0), (), 1, True) for _ in woven]


BOX = "[0.0, 0.0, 0.5, 0.5]"
EXPECTED: dict[str, tuple[list[str], float, int, int, str]] = {
    # what is answered; score; answers scored; rows that fail; a part of the first question
    # (nocaps: as pycocoevalcap 1.2 gives it)
    "vqav2": (
        ["2", "yes", "red car"],
        1.0,
        3,
        2,
        "What 0?\nAnswer the question using a single word or phrase.",
    ),
    "okvqa": (["Two.", "no", ""], 1 / 3, 3, 2, "What 0?"),
    "gqa": (["Yes", "right"], 0.5, 2, 1, "Is it red?"),
    "vizwiz": (["basil", "mint"], 0.5, 2, 1, "respond with 'Unanswerable'"),
    "textvqa": (["Nokia", "dakota"], 1.0, 2, 0, "Which brand?"),
    "textvqa-ocr": (["Nokia", ""], 0.5, 2, 0, "Reference OCR token: ['NOKIA', '2']"),
    "ocrvqa": (["ann", "1998"], 0.5, 2, 1, "Who wrote it?"),
    "docvqa": (["1/8/93", "never"], 1.0, 1, 1, "Which date?"),
    "infovqa": (["january 9", "never"], 8 / 9, 1, 1, "Which date?"),
    "chartqa": (["104", "No", "106"], 1 / 3, 3, 0, "How many?"),
    "tallyqa": (["There are two cats.", "12"], 1.0, 2, 0, "How many cats?"),
    "tallyqa-letters": (["C", "D"], 0.5, 2, 0, "How many cats?\nA. 0\nB. 1\nC. 2"),
    "ocrbench": (["It says Centre", "x^2"], 1.0, 2, 0, "what is written?"),
    "mathvista": (["1.2", "three"], 0.5, 2, 0, "Question: How long?"),
    "vsr": (["True", "True"], 0.5, 2, 1, 'Respond with "True" or "False" directly.'),
    "pope": (
        ["Yes, a cat", "No", "yes", "yes", "no", "There is not"],
        2 / 3,
        6,
        0,
        "Is there a cat?",
    ),
    "mme": (["yes", "no"] * 2 + ["Yes", "Yes"] + ["Yes", "maybe"], 250.0, 8, 1, "Is it red?"),
    "nocaps": (
        ["a red cat on a mat", "a bird"],
        2.7090294859973745,
        2,
        0,
        "Provide a short image description.",
    ),
    "mm-vet": (["-1 and -5", "x"], 0.0, 2, 0, "What is x?"),
    "ai2d": (["B"], 1.0, 1, 1, "A. frog\nB. bird\nC. fish\nD. {x}"),
    "scienceqa": (["C."], 1.0, 1, 1, "Look.\nWhich?\nA. a"),
    "mmmu": (["(B)"], 1.0, 1, 0, " or "),
    "mmbench": (["A", "A", "horse"], 0.5, 3, 0, "See.\nWhich?\nA. cat\nB. dog\nAnswer"),
    "seed": (["C. 3"], 1.0, 1, 0, "C. 3\nD. 4"),
    "q-bench": (["Low"], 1.0, 1, 1, "A. High\nB. Low"),
    "realworldqa": (["A", "A"], 0.5, 2, 0, "Which way?"),
    "refcoco": ([BOX, "[0.5, 0.5, 1, 1]"], 0.5, 2, 0, 'describes: "left cat"'),
    "refcoco+": ([BOX, ""], 0.5, 2, 0, 'describes: "left cat"'),
    "refcocog": ([BOX, BOX], 1.0, 2, 0, 'describes: "left cat"'),
    "ocid-ref": (["[0.1, 0.1, 0.4, 0.4]", "[0.5, 0.5, 1, 1]"], 0.5, 2, 1, 'describes: "the box"'),
    "mdvp-bench": (["A cat.", "A dog."], 0.5, 2, 0, "Please name <Region 1>."),
    "lvis-regions": (["<Region 1>: black cat", "<Region 1>: cat"], 0.75, 2, 0, "Please name"),
    "paco-regions": (["<Region 1>: mug handle", "<Region 1>: mug"], 0.75, 2, 0, "Please name"),
    "regional-ocr": (["Region 1: stop\n", "Region 1: go\n"], 0.5, 2, 0, "Please name"),
    "refcocog-captions": (["<Region 1>: a cat", "a dog"], 0.0, 2, 0, "Please name <Region 1>."),
    "osprey-80": (["Region 1: A grey cat.", "?"], 0.5, 2, 0, "Please name <Region 1>."),
    "ferret-reasoning": (["A cat.", "Snow."], 0.5, 2, 1, "What is "),
    "ferret-description": (["A cat.", "Snow."], 0.5, 2, 1, "What is "),
}

for name in ("vqav2-test", "vizwiz-test", "textvqa-test", "docvqa-test"):
    EXPECTED[name] = (["blue"], 0.0, 1, 0, "What?")


def test_every_row_of_the_table_has_a_miniature() -> None:
    assert MAKERS.keys() == EXPECTED.keys() == table().keys()


@pytest.mark.parametrize("name", MAKERS)
def test_official_files_become_a_score(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)  # Java takes seconds to start
    MAKERS[name](tmp_path / "files")
    answers, score, n, failed, asked = EXPECTED[name]
    says = Says(answers)
    found = run(says, name, tmp_path / "files", tmp_path / "answers.jsonl", batch_size=3)  # type: ignore[arg-type]
    assert asked in says.asked[0].text()
    assert (len(found.items), len(found.failed)) == (n, failed), found.failed
    assert found.score.value == pytest.approx(score, abs=1e-9)
    data = found.to_dict()
    assert data["n"] == n and data["pinned"]["prompt"].startswith("default@")


def test_pictures_stand_where_the_text_names_them(tmp_path: Path) -> None:
    MAKERS["mmmu"](tmp_path)
    sample = Official(table()["mmmu"], tmp_path)[0]
    kinds = [part if isinstance(part, str) else part.kind for part in sample.turns[0].content]
    assert kinds[:3] == ["image", " or ", "image"] and kinds[3].startswith("?\nA. one\nB. two's")
    assert sample.turns[0].content[0] is not sample.turns[0].content[2]


def test_marks_lie_on_the_picture(tmp_path: Path) -> None:
    MAKERS["mdvp-bench"](tmp_path)
    records = Official(table()["mdvp-bench"], tmp_path)
    box, point = (records[i].media("region")[0].data for i in (0, 1))
    assert (box.x1, box.y1, box.x2, box.y2) == (8, 6, 28, 26) and (point.x, point.y) == (10, 10)
    MAKERS["ferret-reasoning"](tmp_path / "ferret")
    asked = Official(table()["ferret-reasoning"], tmp_path / "ferret")[0].turns[0]
    picture, before, region, after = asked.content
    assert (before, after) == ("What is ", "?") and picture.kind == "image"  # type: ignore[union-attr]
    assert region.data.bounds() == (8, 6, 40, 30)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("vqav2-test", {"question_id": 5, "answer": "blue"}),
        ("vizwiz-test", {"image": "7.jpg", "answer": "blue"}),
        ("textvqa-test", {"question_id": 5, "answer": "blue"}),
        ("docvqa-test", {"questionId": 5, "answer": "blue"}),
    ],
)
def test_answers_for_an_official_server(name: str, line: dict[str, Any], tmp_path: Path) -> None:
    MAKERS[name](tmp_path / "files")
    out = tmp_path / "answers.jsonl"
    found = run(Says(["blue"]), name, tmp_path / "files", out)  # type: ignore[arg-type]
    assert found.to_dict()["score"] is None and "its server alone" in found.skipped
    words = ["score", str(out), "--export", str(tmp_path / "sent.json")]
    assert CliRunner().invoke(app, words).exit_code == 1  # there is no score
    assert json.loads((tmp_path / "sent.json").read_text()) == [line]
