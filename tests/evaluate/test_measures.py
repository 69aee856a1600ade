"""Measures against the numbers of the published scripts."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from tests.cases import case_path

from omnimix.evaluate import (
    captions,
    grounding,
    judging,
    short_answers,
)
from omnimix.types import Box


def metrics(family: str) -> dict[str, Any]:
    path = case_path(f"{family}/metrics/metrics.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_rec_accuracy() -> None:
    facts = metrics("sphinx")["rec_iou"]
    rows = []
    for row in facts["input"]:
        size = {k: int(v) for k, v in re.findall(r"(height|width)(\d+)", row["question_id"])}
        rows.append((row["answer"], Box(*row["gt_answers"]), size["width"], size["height"]))
    assert grounding.accuracy(rows) == facts["expected"]["accuracy_at_0_5"]
    assert [grounding.is_right(*row) for row in rows] == [True, False, True, False]
    assert grounding.accuracy([]) == 0


@pytest.mark.parametrize(
    ("answer", "box"),
    [
        ("[0.1, 0.2, 0.3, 0.4] and [0.5, 0.5, 0.6, 0.6]", (0.1, 0.2, 0.3, 0.4)),
        ("0.1,0.2,0.3,0.4]", (0.1, 0.2, 0.3, 0.4)),
        ("[a, 0.2, 0.3, 0.4]", (0, 0, 0, 0)),
        ("[0.1, 0.2, 0.3]", (0, 0, 0, 0)),
        ("", (0, 0, 0, 0)),
    ],
)
def test_answered_box(answer: str, box: tuple[float, ...]) -> None:
    assert grounding.answered_box(answer) == Box(*box)


def test_relaxed_accuracy() -> None:
    facts = metrics("sphinx")["relaxed_accuracy"]
    assert [short_answers.relaxed(*row) for row in facts["input"]] == facts["expected"]


def test_yes_no() -> None:
    facts = metrics("sphinx")["yes_no_parse"]
    assert [short_answers.yes_no(text) for text in facts["input"]] == facts["expected"]


def test_cider() -> None:
    facts = metrics("sphinx_v")["region_caption"]
    given = {item: texts[0] for item, texts in facts["predictions"].items()}
    for side in ("references", "predictions"):
        for item, texts in facts[side].items():
            found = [" ".join(captions.words(text)) for text in texts]
            assert found == facts[f"tokenized_{side}"][item]
    score, each = captions.cider(given, facts["references"])
    assert score == pytest.approx(facts["expected"]["CIDEr"], abs=1e-6)
    for item, wanted in facts["expected"]["per_item"].items():
        assert each[item] == pytest.approx(wanted["CIDEr"], abs=1e-6)
    assert captions.cider({"1": given["1"]}, facts["references"])[0] == 0


def test_contractions_are_split() -> None:
    assert captions.words("It isn't the dog's.") == ["it", "is", "n't", "the", "dog", "'s"]


def test_judged() -> None:
    facts = metrics("sphinx_v")["gpt_judge"]
    found = [judging.marks(review) for review in facts["reviews"]]
    assert [list(row) for row in found] == facts["parsed"]
    scores = judging.summary(found, facts["categories"])
    assert scores == pytest.approx(facts["expected"], abs=0.005)
