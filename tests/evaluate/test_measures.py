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
    marked_regions,
    named_boxes,
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


def test_boxes_of_the_demo() -> None:
    for facts in metrics("sphinx")["demo_boxes"]:
        objects, markdown = named_boxes.read(facts["text"])
        found = [
            {"name": o.name, "coords": [list(c) for c in o.coords], "color": o.colour}
            for o in objects
        ]
        assert found == facts["objects"]
        assert markdown == facts["markdown"]
        for size, wanted in facts["pixel_boxes_xyxy"].items():
            width, height = map(int, size.split("x"))
            found_boxes = [list(box) for box in named_boxes.pixel_boxes(objects, width, height)]
            assert found_boxes == wanted


def test_colours_go_round() -> None:
    objects, _ = named_boxes.read("".join(f"<p>{i}</p>[0.1, 0.2]" for i in range(7)) + "[0.5, 0.5]")
    assert [o.colour for o in objects] == [*named_boxes.COLOURS, "red", "blue", "green"]
    assert [o.name for o in objects] == [*map(str, range(6, -1, -1)), ""]


def test_labels_of_regions() -> None:
    facts = metrics("sphinx_v")["roc"]
    rows = [(row["prediction"], row["answer"]) for row in facts["input"]]
    vectors = facts["stub_embeddings"]

    def similar(ours: str, theirs: str) -> float:
        return marked_regions.cosine(vectors[ours], vectors[theirs])

    assert marked_regions.classification(rows) == pytest.approx(facts["expected"]["mean_siou"])
    mean = marked_regions.classification(rows, similar)
    assert mean == pytest.approx(facts["expected"]["mean_cosine"], abs=5e-5)
    for (prediction, truth), item in zip(rows, facts["expected"]["per_item"], strict=True):
        ours, theirs = marked_regions.labels(prediction), marked_regions.labels(truth)
        assert ours == item["pred"]
        assert theirs == item["gt"]
        found = [
            marked_regions.word_overlap(a, marked_regions.true_label(b))
            for a, b in zip(ours, theirs, strict=False)
        ]
        assert found == pytest.approx(item["siou"])


def test_texts_of_regions() -> None:
    facts = metrics("sphinx_v")["regional_ocr"]
    rows = [(row["answer"], row["annotation"]) for row in facts["input"]]
    assert marked_regions.reading(rows) == facts["expected"]["accuracy"]
    for (answer, truth), pred, gt in zip(
        rows, facts["expected"]["pred"], facts["expected"]["gt"], strict=True
    ):
        assert marked_regions.texts(answer) == pred
        assert marked_regions.labels(truth) == gt
    assert marked_regions.texts("Region 1: a\nRegion 2: b") == ["a"]
    assert marked_regions.reading([("Region 1: a\n", "Region 1: a\nRegion 2: b")]) == 0.5


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
