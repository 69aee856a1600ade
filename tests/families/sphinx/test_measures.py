"""Measures of the family's own scripts against their numbers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from omnimix.evaluate.measure import Reference
from omnimix.families.sphinx import marked_regions, named_boxes
from omnimix.generate.answers import Answer
from omnimix.registry import MEASURES
from tests.cases import case_path


def metrics(family: str) -> dict[str, Any]:
    path = case_path(f"{family}/metrics/metrics.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


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


def test_rows_of_measures() -> None:
    truth = Reference(("<Region 1>: left arm\n<Region 2>: suit",))
    said = Answer("<Region 1>: arm\n<Region 2>: suit", (), 0, True)
    assert MEASURES.load("region_labels")().score([said], [truth]).value == 0.75
    read = Answer("Region 1: EXIT\nRegion 2: way", (), 0, True)
    wanted = Reference(("Region 1: exit\nRegion 2: ways",))
    assert MEASURES.load("region_texts")().score([read], [wanted]).value == 0.5
    assert MEASURES.load("region_texts")().score([], []).value == 0
