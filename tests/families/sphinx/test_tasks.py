"""Plain records of each task as conversations in SPHINX's words, as the model reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from omnimix.compose import recipe
from omnimix.compose.weave import Weaver
from omnimix.config import validate
from omnimix.data.sources import Source
from omnimix.errors import RecipeError, SampleError
from omnimix.families.sphinx.tasks import TaskRecords, table
from omnimix.types import Box, Media, Point, Region, Sample
from tests.cases import case_path

WIDTH, HEIGHT = 200, 120

RECORDS: dict[str, tuple[dict[str, Any], str, str, tuple[Region, ...]]] = {
    "vqa": (
        {"question": "Is there a cat?", "answer": "yes"},
        "Is there a cat?\nAnswer the question using a single word or phrase.",
        "yes",
        (),
    ),
    "science": ({"question": "What?", "answer": "B"}, "What?", "The answer is B", ()),
    "detailed_caption": (
        {"caption": "Long."},
        "Generate a detailed description about the image.",
        "Long.",
        (),
    ),
    "short_caption": (
        {"caption": "Short."},
        "Provide a one-sentence caption for the provided image.",
        "Short.",
        (),
    ),
    "rec": (
        {"phrase": "the spoon.", "box": [20, 30, 100, 90]},
        "Please provide the bounding box coordinate of the region this sentence describes: the spoon.",
        "[0.100, 0.350, 0.500, 0.650]",
        (Box(20, 30, 100, 90),),
    ),
    "relation": (
        {"subject": "people", "relation": "on", "object": "car", "box": [20, 30, 100, 90]},
        "Please provide the bounding box coordinate of the region this sentence describes: people on car.",
        "[0.100, 0.350, 0.500, 0.650]",
        (Box(20, 30, 100, 90),),
    ),
    "reg": (
        {"phrase": "a spoon", "box": [20, 30, 100, 90]},
        "Please provide a short description of the region [0.100, 0.350, 0.500, 0.650].",
        "a spoon",
        (Box(20, 30, 100, 90),),
    ),
    "grounded_caption": (
        {
            "caption": "A <p>cat</p> near a <p>cup</p>.",
            "boxes": [[0, 0, 50, 60], [[20, 30, 100, 90]]],
        },
        "Describe the image concisely. Include the bounding box for each mentioned object.",
        "A <p>cat</p>[0.000, 0.200, 0.250, 0.500] near a <p>cup</p>[0.100, 0.350, 0.500, 0.650].",
        (Box(0, 0, 50, 60), Box(20, 30, 100, 90)),
    ),
    "det": (
        {"category": "people", "boxes": [[20, 30, 100, 90]]},
        "Detect all people shown in the image.",
        "[0.100, 0.350, 0.500, 0.650]",
        (Box(20, 30, 100, 90),),
    ),
    "pose": (
        {
            "box": [20, 30, 100, 90],
            "points": [
                {"name": "nose", "point": [60, 40]},
                {"name": "left eye", "point": [65, 35]},
            ],
        },
        "Detect the key points of the person in the region [0.100, 0.350, 0.500, 0.650].",
        "<p>nose</p>[0.300, 0.400], <p>left eye</p>[0.325, 0.375]",
        (Box(20, 30, 100, 90), Point(60, 40), Point(65, 35)),
    ),
    "ocr": (
        {"texts": [{"text": "STOP", "box": [20, 30, 100, 90]}]},
        "Please detect all texts and provide their bounding box coordinate.",
        "<p>STOP</p>[0.100, 0.350, 0.500, 0.650]",
        (Box(20, 30, 100, 90),),
    ),
    "chart": ({"table": "a | 1"}, "Convert this chart to a table.", "a | 1", ()),
    "t2i": (
        {"request": "a cat."},
        "Write a detailed prompt for generating an image of: a cat.",
        "A ginger cat, oil painting",
        (),
    ),
}
RECORDS["t2i"][0]["prompt"] = "A ginger cat, oil painting"
"""Of each task a record, the question, the answer, and its regions in order."""


def written(folder: Path, task: str, records: list[Any], **words: Any) -> Source:
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "a.png")
    (folder / "r.json").write_text(json.dumps(records))
    data = {"kind": "tasks", "path": "r.json", "task": task, **words}
    return validate(TaskRecords, data, "data").open(folder)


def shown(sample: Sample) -> str:
    """The text that SPHINX reads and writes, without its template's words."""
    found = recipe.load("sphinx")
    words = {"kind": "sentencepiece", "path": "tokenizer.model"}
    found = recipe.parse({**found.dump(), "tokenizer": words}, "sphinx")
    assert found.tokenizer is not None
    place = case_path("sphinx/ens_1shard/checkpoint")
    tokenizer = found.tokenizer.load([place])
    woven = Weaver(found, tokenizer, {"image": 3})(sample)
    return tokenizer.decode([int(i) for i in woven.ids[woven.owner == 0]])


def test_every_task_has_a_record_here() -> None:
    assert set(RECORDS) == set(table("sphinx"))


@pytest.mark.parametrize("task", RECORDS)
def test_a_record_is_asked_and_answered(task: str, tmp_path: Path) -> None:
    record, question, answer, regions = RECORDS[task]
    source = written(tmp_path, task, [{"image": "a.png", **record}])
    sample = source[0]
    assert tuple(media.data for media in sample.media("region")) == regions
    assert len(sample.media("image")) == (task != "t2i")
    if regions:
        # The model's coordinates are written while weaving, with the picture's own frame.
        text = shown(sample)
        assert f" Human: {question}\n### Assistant: {answer}\n###" in text
    else:
        assert [turn.text() for turn in sample.turns] == [question, answer]


def test_fields_may_have_other_names_and_boxes_a_size(tmp_path: Path) -> None:
    record = {"image": "a.png", "sentence": "cup", "bbox": [20, 30, 80, 60], "id": 7}
    words = {"rename": {"phrase": "sentence", "box": "bbox"}, "boxes": "xywh"}
    sample = written(tmp_path, "rec", [record], **words)[0]
    assert sample.media("region")[0].data == Box(20, 30, 100, 90)
    assert sample.id == "7"
    assert sample.meta == {"task": "rec"}


def test_several_boxes_stand_side_by_side(tmp_path: Path) -> None:
    record = {"image": "a.png", "category": "cups", "boxes": [[0, 0, 10, 10], [20, 30, 100, 90]]}
    answer = written(tmp_path, "det", [record])[0].turns[1]
    assert all(isinstance(part, Media) for part in answer.content)
    assert len(answer.content) == 2


@pytest.mark.parametrize(
    ("task", "record", "says"),
    [
        ("rec", {"phrase": "x", "box": [1, 2, 3, 4]}, "the record has no picture"),
        ("rec", {"image": "a.png", "phrase": "x"}, "the record has no 'box'"),
        ("rec", {"image": "a.png", "phrase": "x", "box": [1, 2, 3]}, "no region"),
        ("rec", {"image": "../a.png", "phrase": "x", "box": [1, 2, 3, 4]}, "lies outside"),
        ("ocr", {"image": "a.png", "texts": ["STOP"]}, "no list of tables"),
        ("ocr", {"image": "a.png", "texts": [{"text": "STOP"}]}, "the record has no 'box'"),
        ("grounded_caption", {"image": "a.png", "caption": "<p>a</p>", "boxes": []}, "1 <p>names"),
        ("rec", "text", "a record is a table of words"),
    ],
)
def test_refused(task: str, record: Any, says: str, tmp_path: Path) -> None:
    source = written(tmp_path, task, [record])
    with pytest.raises(SampleError, match=says) as caught:
        source[0]
    assert caught.value.where == "r.json: record 1"


def test_unknown_names_are_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="Did you mean 'rec'"):
        written(tmp_path, "recc", [{}])
    with pytest.raises(RecipeError, match="Did you mean 'sphinx'"):
        written(tmp_path, "rec", [{}], table="sphynx")
