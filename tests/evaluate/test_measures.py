"""Measures against the numbers of the published scripts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.cases import case_path

from omnimix.convert.verifying import verify
from omnimix.errors import SampleError
from omnimix.evaluate import (
    captions,
    grounding,
    judging,
    marked_regions,
    named_boxes,
    short_answers,
)
from omnimix.evaluate.measure import Reference
from omnimix.generate.answers import Answer
from omnimix.registry import MEASURES
from omnimix.types import Box, Point, Region


def metrics(family: str) -> dict[str, Any]:
    path = case_path(f"{family}/metrics/metrics.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def said(text: str, *regions: Region) -> Answer:
    return Answer(text, regions, 1, True)


@pytest.mark.parametrize("family", ["sphinx", "sphinx_v"])
def test_the_numbers_of_the_published_scripts(family: str) -> None:
    report = verify(case_path(f"{family}/metrics"), stop=False)
    assert report.passed, report.failed


def test_boxes_count_as_the_model_writes_them_else_as_the_published_script_reads_them() -> None:
    true = Reference(boxes=(Box(10, 10, 30, 30),), size=(100, 50))
    measure = grounding.Referring()
    rows = [
        (said("here", Box(10, 10, 30, 30)), 1),
        (said("[0.1, 0.35, 0.3, 0.55]", Box(50, 10, 80, 30)), 0),
        (said("[0.1, 0.35, 0.3, 0.55]"), 1),
        (said("0.1, 0.35, 0.3, 0.55]"), 1),
        (said("there", Point(20, 20)), 0),
    ]
    score = measure.score([answer for answer, _ in rows], [true] * len(rows))
    assert score.each == tuple(right for _, right in rows) and score.value == 0.6
    with pytest.raises(SampleError, match=r"r7: the record has 0 boxes where one is right"):
        measure.score([rows[0][0]], [Reference(("a cup",), name="r7")])


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


@pytest.mark.parametrize(
    ("row", "answer", "references", "right"),
    [
        ("exact", " A Cup", ("a cup", "a mug"), 1),
        ("exact", "a cups", ("a cup",), 0),
        ("relaxed", "10.4", ("10",), 1),
        ("relaxed", "10.6", ("10", "10.5"), 1),
        ("relaxed", "10.6", ("10",), 0),
        ("yes_no", "Yes, it is", ("yes",), 1),
        ("yes_no", "NO", ("no",), 1),
        ("yes_no", "perhaps", ("other",), 0),
    ],
)
def test_short_answers(row: str, answer: str, references: tuple[str, ...], right: int) -> None:
    measure = MEASURES.load(row)()
    assert measure.score([said(answer)], [Reference(references)]).value == right
    assert measure.score([], []).value == 0


@pytest.mark.parametrize(
    ("text", "found"), [("yes", "yes"), ("Yes", "yes"), ("No.", "no"), ("it is yes", "other")]
)
def test_yes_and_no(text: str, found: str) -> None:
    assert short_answers.yes_no(text) == found


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


def test_a_single_caption_scores_nothing() -> None:
    assert captions.Cider().score([said("a cup")], [Reference(("a cup",))]).value == 0


def test_contractions_are_split() -> None:
    assert captions.words("It isn't the dog's.") == ["it", "is", "n't", "the", "dog", "'s"]


@pytest.mark.parametrize(
    ("review", "found"),
    [
        ("8 7\nfine", (8, 7)),
        ("9,6", (9, 6)),
        ("8, 9", judging.UNREADABLE),
        ("8  9", judging.UNREADABLE),
        ("8 7 ", judging.UNREADABLE),
        ("8 7 6", judging.UNREADABLE),
        ("", judging.UNREADABLE),
    ],
)
def test_marks_are_read_as_the_published_script_reads_them(
    review: str, found: tuple[float, float]
) -> None:
    assert judging.marks(review) == found


def test_a_judge_is_summed_up_by_group() -> None:
    answers = [said("8 4"), said("10 10"), said("nonsense")]
    references = [Reference(group=group) for group in ("a", "b", "a")]
    score = judging.Judged().score(answers, references)
    assert dict(score.groups) == {"a": pytest.approx(100 * 1.5 / 3.5), "b": 100}
    assert score.value == pytest.approx(100 * (13 / 3) / (17 / 3), abs=0.02)
