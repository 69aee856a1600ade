"""Measures against the numbers of the published scripts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st
from tests.cases import case_path

from omnimix.convert.verifying import verify
from omnimix.errors import SampleError
from omnimix.evaluate import (
    captions,
    grounding,
    judging,
    short_answers,
)
from omnimix.evaluate.measure import Reference
from omnimix.evaluate.short_answers import anls
from omnimix.evaluate.vqa import accuracy, contractions
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


@pytest.mark.parametrize(
    "answer, people, right",
    [
        ("yes", ["yes"] * 10, 1.0),
        ("Yes.", ["yes"] * 10, 1.0),  # the model's answer is always normalised
        ("black/white", ["black/white"] * 10, 0.0),  # the people's only where they disagree
        ("two dogs", ["two dogs"] * 9 + ["dogs"], 0.0),  # and their numbers never
        ("The Dog", ["dog"] * 3 + ["a dog"] * 7, 0.9),
        ("none", ["0"] * 2 + ["1"] * 8, 0.6),
        ("twas", ["'twas"] * 10, 1.0),
        ("3.5.", ["3.5"] * 3 + ["4"] * 7, 0.9),
        ("$1,000", ["$1000"] * 4 + ["many"] * 6, 1.0),
        ("red\tcar", ["red car"] * 10, 1.0),
        ("Yes.", ["yes"] * 9 + ["no"], 1.0),
        ("two", ["2"] * 2 + ["3"] * 8, 0.6),  # ten times two agree, less themselves
        ("the red", ["red", "blue"] + ["green"] * 8, 0.3),
        ("dont", ["don't"] * 4 + ["no"] * 6, 1.0),
        ("1,000", ["1000"] * 5 + ["many"] * 5, 1.0),
        ("left/right", ["left right"] * 5 + ["up"] * 5, 1.0),
        ("a cat", ["cat"], 1.0),
        ("", ["cat"] * 5 + ["dog"] * 5, 0.0),
    ],
)
def test_vqa_accuracy(answer: str, people: list[str], right: float) -> None:
    """Worked out by hand from the rule: mean over people of min(1, others who agree / 3)."""
    assert accuracy(answer, people) == pytest.approx(right)


def test_vizwiz_takes_answers_of_people_as_they_are() -> None:
    """As VizWiz's authors' script: only what the model says is normalised."""
    people = Reference(("coca-cola",) * 9 + ("coca cola",))
    measures = {name: MEASURES.load(name)() for name in ("vqa", "vizwiz")}
    found = {name: one.one(said("Coca-Cola"), people) for name, one in measures.items()}
    assert found == {"vqa": 1.0, "vizwiz": pytest.approx(0.3)}


def test_contractions_of_every_form() -> None:
    found = contractions()
    expected = {"couldnt've": "couldn't've", "couldn'tve": "couldn't've", "yalld've": None}
    assert {word: found.get(word) for word in expected} == expected
    assert found["yall'd've"] == found["y'alld've"] == found["y'all'dve"] == "y'all'd've"
    assert found["'ows'at"] == "'ow's'at" and found["somebody'd"] == "somebodyd"


@pytest.mark.parametrize(
    "answer, truth, right",
    [
        ("Hello", " hello ", 1.0),
        ("hallo", "hello", 0.8),
        ("abc", "xyz", 0.0),
        ("ab", "abcd", 0.5),
        ("abc", "abcdefg", 0.0),  # 3 of 7 is less than a half
        ("a  b", "a\nb", 1.0),  # white space is one blank
        (" a b ", "a", 0.6),  # but its length counts as it is written
        ("", "cat", 0.0),
    ],
)
def test_anls(answer: str, truth: str, right: float) -> None:
    assert anls(answer, truth) == pytest.approx(right)


@given(st.text("ab", max_size=6), st.text("ab", max_size=6))
def test_anls_is_symmetric_and_whole_for_equal_texts(a: str, b: str) -> None:
    assert anls(a, b) == anls(b, a) and anls(a, a) == 1.0 and 0 <= anls(a, b) <= 1


def test_iou_takes_the_first_box() -> None:
    reference = Reference(boxes=(Box(0, 0, 10, 10),), size=(20, 20))
    measure = MEASURES.load("iou")()
    answers = [Answer("", (Point(1, 1), Box(0, 0, 10, 5)), 1, True), Answer("none", (), 1, True)]
    assert measure.score(answers, [reference] * 2).each == (0.5, 0.0)
    with pytest.raises(SampleError, match="2 boxes where one is right"):
        measure.check(Reference(boxes=reference.boxes * 2))


@pytest.mark.parametrize("overlap, right", [(0.45, 0.0), (0.499, 0.0), (0.5, 1.0), (0.55, 1.0)])
def test_a_box_counts_from_half_on(overlap: float, right: float) -> None:
    reference = Reference(boxes=(Box(0, 0, 1000, 10),), size=(1000, 10))
    answer = Answer("", (Box(0, 0, 1000 * overlap, 10),), 1, True)
    assert MEASURES.load("referring")().score([answer], [reference]).value == right
    fractions = f"[0.0, 0.495, {overlap}, 0.505]"  # of the padded square
    assert grounding.is_right(fractions, Box(0, 0, 1000, 10), 1000, 10) is bool(right)
