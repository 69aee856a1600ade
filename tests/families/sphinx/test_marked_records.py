"""SPHINX-V's records: marks, noise on boxes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnimix.compose.processor import Processor
from omnimix.config import validate
from omnimix.data.ordered import RoundBatches, Rounds
from omnimix.data.sources import Source
from omnimix.errors import SampleError
from omnimix.families.sphinx.marked_records import Mdvp, MdvpSource, jittered, region_of
from omnimix.types import Box, Media, Point, Sample
from tests.cases import golden

TURNS = [
    {"from": "human", "value": "<image>\nWhat is it?"},
    {"from": "gpt", "value": "<Region 1>: roof"},
]


def written(folder: Path, records: list[dict[str, Any]], **words: Any) -> Source:
    Image.new("RGB", (60, 40)).save(folder / "a.png")
    (folder / "records.json").write_text(json.dumps(records))
    (folder / "list.yaml").write_text("META: [{path: records.json, type: image_text}]")
    return validate(Mdvp, {"kind": "mdvp", "path": "list.yaml", **words}, "data").open(folder)


def marks(sample: Sample) -> list[Any]:
    return [media.data for media in sample.media("region")]


def test_marks_and_text(tmp_path: Path) -> None:
    source = written(
        tmp_path, [{"image": "a.png", "bbox": [[1, 2, 30, 20]], "conversations": TURNS}]
    )
    sample = source[0]
    assert marks(sample) == [Box(1, 2, 31, 22)]
    assert [turn.text() for turn in sample.turns] == ["What is it?", "<Region 1>: roof"]
    first = sample.turns[0].content[0]
    assert isinstance(first, Media)
    assert first.kind == "image"


def test_points_win_over_boxes(tmp_path: Path) -> None:
    turns = [TURNS[0], {"from": "gpt", "value": "3"}]
    record = {"image": "a.png", "bbox": [[1, 2, 3, 4]], "points": [[5, 6]], "conversations": turns}
    sample = written(tmp_path, [record], noise=True)[0]
    assert marks(sample) == [Point(5, 6)]
    assert sample.turns[1].text() == "3"


def test_golden_noise() -> None:
    folder, facts, expected = golden("sphinx_v/ens5_vp")
    chance = np.random.RandomState(facts["results"]["dataset"]["np_random_seed"])
    source = MdvpSource(folder / "inputs/train.yaml", chance=chance)
    points, boxes = marks(source[0]), marks(source[1])
    assert points == [Point(112, 80), Point(200, 40), Point(20, 300)]
    # 320 x 213 pixels: 53 rows of border above.
    rows = [[round(v / 320, 3) for v in (b.x1, b.y1 + 53, b.x2, b.y2 + 53)] for b in boxes]
    wanted = expected["train.sparse_vps"][1, :2]
    assert np.abs(np.array(rows) - wanted.double().numpy()).max() < 1e-7


def test_noise_is_the_same_in_every_round_and_bounded(tmp_path: Path) -> None:
    records = [
        {"image": "a.png", "bbox": [[10, 10, 40, 16]], "conversations": TURNS} for _ in range(20)
    ]
    source = written(tmp_path, records, noise=True, seed=4)
    boxes = [marks(source[i])[0] for i in range(20)]
    assert boxes == [marks(source[i])[0] for i in range(20)]
    assert len(set(boxes)) == 20
    assert marks(written(tmp_path, records, noise=True, seed=5)[0]) != boxes[:1]
    for box in boxes:
        assert abs(box.x1 - 10) <= 5
        assert abs(box.y1 - 10) <= 2
        assert abs((box.x2 - box.x1) / 40 - 1) <= 0.15


def test_small_boxes_do_not_move() -> None:
    x, y, *_ = jittered([3, 4, 7, 7.9], np.random.RandomState(0))
    assert (x, y) == (3, 4)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"bbox": [[1, 2, 3, 4]]}, "the record has no picture"),
        ({"image": ["a.png"], "bbox": [[1, 2, 3, 4]]}, "the record has not one picture"),
        ({"image": "a.png"}, "the record has no marks"),
        ({"image": "a.png", "points": [], "bbox": [[1, 2, 3, 4]]}, "the record has no marks"),
        ({"image": "a.png", "bbox": [[1, 2, 3]]}, r"\[1, 2, 3\] is no mark"),
        ({"image": "a.png", "points": [[1, "2"]]}, "is no mark"),
        ({"image": "../a.png", "points": [[1, 2]]}, "leads upwards"),
    ],
)
def test_refused(tmp_path: Path, record: dict[str, Any], says: str) -> None:
    source = written(tmp_path, [{"conversations": TURNS, **record}])
    with pytest.raises(SampleError, match=says) as caught:
        source[0]
    assert caught.value.where == "list.yaml: records.json record 1"


def test_refused_records_are_counted(tmp_path: Path, tiny_processor: Processor) -> None:
    records = [
        {"image": "a.png", "points": [[5, 6]], "conversations": TURNS},
        {"image": "a.png", "conversations": TURNS},
        {"image": "a.png", "bbox": [[70, 5, 5, 5]], "conversations": TURNS},
    ]
    source = written(tmp_path, records)
    rounds = Rounds(source, "shuffled", batch=3, epochs=1)
    batch, dropped = RoundBatches(source, rounds, tiny_processor)[0]
    assert len(batch.ids) == 1
    assert sorted(dropped) == [
        'list.yaml: records.json record 2: the record has no marks. Give "bbox": [[x, y, w, h], ...] or '
        '"points": [[x, y], ...] in pixels.',
        "list.yaml: records.json record 3: the box at (70, 5, 75, 10) lies outside the picture of 60 x 40 "
        "pixels. Coordinates are pixels of the original picture, origin top left.",
    ]


def test_numbers_of_a_call_are_left_as_they_are() -> None:
    numbers = [1.5, 2, 30, 40]
    assert region_of(numbers) == Box(1.5, 2, 31.5, 42)
    assert numbers == [1.5, 2, 30, 40]
