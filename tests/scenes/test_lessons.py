"""Lessons: dense answers that are true to the picture, and asked only where they are named."""

from __future__ import annotations

import numpy as np
import pytest

from omnimix.types import Box, Media, Point, Region, Sample
from omnimix_scenes import Scene, Scenes, draw, is_heldout_word
from omnimix_scenes.ask_lessons import LESSONS, letter_boxes
from omnimix_scenes.fonts import font
from omnimix_scenes.vocab import TASKS


def lessons(name: str, count: int) -> list[tuple[Scene, Sample]]:
    scenes = Scenes(9, questions=12, tasks=[name])
    return [(scenes.scene(index), scenes[index]) for index in range(count)]


def exchanges(sample: Sample) -> list[tuple[Region | None, str, list[Box]]]:
    """What was pointed at, the answer's words and its boxes, for each question."""
    found = []
    for asked, answered in zip(sample.turns[::2], sample.turns[1::2], strict=True):
        regions = [p.data for p in asked.content if isinstance(p, Media) and p.kind == "region"]
        boxes = [p.data for p in answered.content if isinstance(p, Media)]
        found.append((regions[0] if regions else None, answered.text(), boxes))
    return found


def middle(region: Region) -> tuple[float, float]:
    x1, y1, x2, y2 = region.bounds()
    return (x1 + x2) / 2, (y1 + y2) / 2


def inside(x: float, y: float, box: Box) -> bool:
    return box.x1 <= x <= box.x2 and box.y1 <= y <= box.y2


def test_they_are_asked_only_where_they_are_named() -> None:
    plain = Scenes(9)
    asked = {task for index in range(200) for task in plain[index].meta["tasks"]}
    assert asked == set(TASKS)
    dense = Scenes(9, questions=12, tasks=[*LESSONS, "read"])
    asked = {task for index in range(60) for task in dense[index].meta["tasks"]}
    assert asked == {*LESSONS, "read"}
    assert max(len(dense[index].turns) for index in range(60)) > 2 * 6


def test_a_tag_names_the_thing_under_the_region() -> None:
    for scene, sample in lessons("tag", 30):
        found = exchanges(sample)
        assert len(found) <= 3 * len(scene.things)  # a point, a box and a stroke for each
        for region, answer, _ in found:
            assert region is not None
            under = [thing for thing in scene.things if inside(*middle(region), thing.box)]
            assert answer in {thing.phrase for thing in under}


def test_an_outline_is_the_box_of_what_lies_there() -> None:
    for scene, sample in lessons("outline", 30):
        boxes = [item.box for item in (*scene.things, *scene.words)]
        for region, _, answer in exchanges(sample):
            assert region is not None and len(answer) == 1 and answer[0] in boxes
            assert inside(*middle(region), answer[0])


def test_a_letter_is_the_one_at_the_point() -> None:
    for scene, sample in lessons("spell", 30):
        for point, answer, _ in exchanges(sample):
            assert isinstance(point, Point)
            there = [
                letter
                for word in scene.words
                for letter, box in zip(word.text, letter_boxes(word), strict=True)
                if inside(point.x, point.y, box)
            ]
            assert there == [answer]
        assert not any(is_heldout_word(word.text) for word in scene.words)


def test_a_page_is_full_of_words_that_do_not_overlap_and_is_drawn_only_when_named() -> None:
    counts = []
    pages = Scenes(2, questions=12, tasks=["spell", "read"], kinds=["page"])
    for index in range(20):
        words = pages.scene(index).words
        counts.append(len(words))
        size = pages.scene(index)
        for k, word in enumerate(words):
            outer = word.plate or word.box
            assert 0 <= outer.x1 < outer.x2 <= size.width
            assert 0 <= outer.y1 < outer.y2 <= size.height
            for other in (other.plate or other.box for other in words[:k]):
                across = min(outer.x2, other.x2) - max(outer.x1, other.x1)
                down = min(outer.y2, other.y2) - max(outer.y1, other.y1)
                assert across <= 0 or down <= 0
        for turn in pages[index].turns:
            assert turn.role == "user" or len(turn.text().split()) == 1
    assert sum(counts) / len(counts) > 6
    assert all(Scenes(2, tasks=["spell"]).scene(i).kind != "page" for i in range(60))


def test_a_cell_holds_the_middles_counted_in_it() -> None:
    amounts = []
    for scene, sample in lessons("cell", 30):
        for cell, answer, _ in exchanges(sample):
            assert isinstance(cell, Box)
            assert 0 <= cell.x1 < cell.x2 <= scene.width and 0 <= cell.y1 < cell.y2 <= scene.height
            within = [
                thing
                for thing in scene.things
                if cell.x1 <= middle(thing.box)[0] < cell.x2
                and cell.y1 <= middle(thing.box)[1] < cell.y2
            ]
            assert answer == str(len(within))
            amounts.append(answer)
    assert 0.4 < amounts.count("0") / len(amounts) < 0.75


def test_a_census_names_everything_from_left_to_right() -> None:
    for scene, sample in lessons("census", 30):
        ((_, words, boxes),) = exchanges(sample)
        assert sorted(boxes, key=lambda box: box.x1) == boxes
        assert set(boxes) == {item.box for item in (*scene.things, *scene.words)}
        for thing in scene.things:
            assert f"{thing.size} {thing.colour}" in words and thing.shape in words


@pytest.mark.parametrize("index", range(12))
def test_letter_boxes_hold_the_ink_of_their_letters(index: int) -> None:
    # Each letter drawn alone at the place where its box says that it stands covers the word's own ink.
    scene = Scenes(4, tasks=["spell"]).scene(index)
    word = scene.words[0]
    face = font(word.font, word.points)
    picture = np.asarray(draw(scene).convert("RGB")).astype(int)
    ink = np.abs(picture - np.array(word.ink)).sum(-1) < 60
    for letter, box in zip(word.text, letter_boxes(word), strict=True):
        left, _, right, _ = face.getbbox(letter)
        middle_column = round(box.x1 + (left + right) / 2)
        near = ink[round(box.y1) : round(box.y2), middle_column - 3 : middle_column + 4]
        assert near.any(), (word.text, letter)
