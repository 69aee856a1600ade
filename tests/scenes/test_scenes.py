"""The synthetic world: pure, separated, true to its pictures, and balanced."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omnimix.errors import OmnimixError, RegistryError
from omnimix.types import Box, Media, Sample, check_region
from omnimix_scenes import (
    HELDOUT_PAIRS,
    TASKS,
    Scene,
    Scenes,
    __main__,
    draw,
    is_heldout_word,
    score,
)
from omnimix_scenes.stencils import stencil


def signature(sample: Sample) -> str:
    """A sample as text, its pictures as checksums."""
    parts = [sample.id, repr(sorted(sample.meta.items()))]
    for turn in sample.turns:
        for part in turn.content:
            if isinstance(part, Media) and part.kind == "image":
                parts.append(f"{part.data.size} {zlib.crc32(part.data.tobytes())}")
            else:
                parts.append(part if isinstance(part, str) else f"{part.data} on {part.on}")
    return "|".join(parts)


def answer_boxes(sample: Sample) -> list[Box]:
    return [p.data for p in sample.turns[-1].content if isinstance(p, Media)]


def questions(task: str, count: int, split: str = "train") -> Iterator[Sample]:
    scenes = Scenes(3, "train" if split == "train" else "heldout")
    return (scenes.question(task, index) for index in range(count))


def test_an_item_depends_on_its_index_alone() -> None:
    scenes = Scenes(5)
    copy = pickle.loads(pickle.dumps(scenes))
    backwards = [signature(copy[index]) for index in reversed(range(25))][::-1]
    assert [signature(scenes[index]) for index in range(25)] == backwards
    assert len(set(backwards)) == 25
    assert scenes.scene(4) == copy.scene(4)


def test_an_item_is_the_same_in_another_process() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from test_scenes import signature; from omnimix_scenes import Scenes;"
        "s = Scenes(5); print([signature(s[i]) for i in range(6)], signature(s.question('find', 2)))"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    scenes = Scenes(5)
    here = [signature(scenes[index]) for index in range(6)]
    assert done.stdout.strip() == f"{here} {signature(scenes.question('find', 2))}"


def test_seed_and_split_change_the_pictures() -> None:
    kinds = (Scenes(0), Scenes(1), Scenes(0, "heldout"))
    assert len({repr(scenes.scene(0)) for scenes in kinds}) == 3


def test_train_never_shows_nor_speaks_of_what_is_held_out() -> None:
    scenes = Scenes(1)
    pairs = [f"{colour} {shape}" for colour, shape in HELDOUT_PAIRS]
    for index in range(700):
        seen, asked = scenes._item(index)
        for scene in (seen,) if isinstance(seen, Scene) else (seen.first, seen.second):
            assert not {(t.colour, t.shape) for t in scene.things} & HELDOUT_PAIRS
            labels = scene.chart.labels if scene.chart else ()
            assert not any(map(is_heldout_word, [*labels, *(w.text for w in scene.words)]))
        for question in asked:
            said = " ".join(p for p in (*question.prompt, *question.answer) if isinstance(p, str))
            assert not any(pair in said for pair in pairs)
            assert not question.heldout


def test_heldout_shows_both_the_known_and_the_unknown() -> None:
    scenes = [Scenes(1, "heldout").scene(index) for index in range(400)]
    looks = {(t.colour, t.shape) for scene in scenes for t in scene.things}
    assert looks >= HELDOUT_PAIRS
    assert len(looks) > 50
    known = Counter(is_heldout_word(w.text) for scene in scenes for w in scene.words)
    assert min(known[True], known[False]) > 40
    assert {sample.meta["heldout"] for sample in questions("read", 20, "heldout")} == {True, False}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_truth_scores_one(task: str, split: str) -> None:
    for sample in questions(task, 40, split):
        assert [turn.role for turn in sample.turns] == ["user", "assistant"]
        assert sample.meta["task"] == task
        truth = sample.meta["answer"]
        assert score(sample, truth, answer_boxes(sample)) == 1.0
        # Only in a description does case tell printed words from others.
        loud = truth if task == "describe" else truth.upper()
        assert score(sample, f" {loud}. ", answer_boxes(sample)) == 1.0
        empty = task == "list" and not sample.meta["boxes"]
        assert score(sample, "no idea", []) == float(empty)
        if sample.meta["choices"]:
            assert truth in sample.meta["choices"]
        assert len(sample.media("image")) == (2 if task == "compare" else 1)
        assert all(part.isascii() for turn in sample.turns for part in [turn.text()])


def test_conversations_are_well_formed() -> None:
    scenes = Scenes(2)
    tasks: Counter[str] = Counter()
    for index in range(300):
        sample = scenes[index]
        images = [media.data for media in sample.media("image")]
        first = sample.turns[0].content
        assert [m for m in first if isinstance(m, Media)][: len(images)] == sample.media("image")
        assert [turn.role for turn in sample.turns] == ["user", "assistant"] * len(
            sample.meta["tasks"]
        )
        assert 1 <= len(sample.meta["tasks"]) <= 6
        assert len(images) == (2 if "compare" in sample.meta["tasks"] else 1)
        for media in sample.media("region"):
            width, height = images[media.on or 0].size
            check_region(media.data, width, height)
            x1, y1, x2, y2 = media.data.bounds()
            assert 0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height
        tasks.update(sample.meta["tasks"])
    assert set(tasks) == set(TASKS)
    assert min(tasks.values()) > 0.03 * tasks.total()


def test_scenes_are_true_to_their_pictures() -> None:
    scenes = Scenes(4, "heldout")
    for index in range(150):
        scene = scenes.scene(index)
        picture = draw(scene)
        assert picture.size == scene.size and picture.mode == "RGB"
        assert 200 <= max(scene.size) <= 320 and max(scene.size) <= 2.03 * min(scene.size)
        for box in (*(t.box for t in scene.things), *(w.box for w in scene.words)):
            assert 0 <= box.x1 < box.x2 <= scene.width and 0 <= box.y1 < box.y2 <= scene.height
        owner = np.full((scene.height, scene.width), -1)
        areas = []
        for k, thing in enumerate(scene.things):
            mask = stencil(thing.shape, thing.side, thing.tilt, thing.pattern).outer
            x, y = int(thing.box.x1), int(thing.box.y1)
            inside = np.asarray(mask) > 127
            owner[y : y + mask.height, x : x + mask.width][inside] = k
            areas.append(inside.sum())
            # The box is tight: the mask reaches all four sides of it.
            tight = mask.getbbox() or (0, 0, 0, 0)
            assert max(tight[:2]) <= 1
            assert tight[2] >= mask.width - 1 and tight[3] >= mask.height - 1
        for k, (thing, area) in enumerate(zip(scene.things, areas, strict=True)):
            assert (owner == k).sum() >= 0.7 * area
            assert all(owner[int(spot.y), int(spot.x)] == k for spot in thing.spots)
            assert max(thing.box.x2 - thing.box.x1, thing.box.y2 - thing.box.y1) >= max(
                28 / 256 * max(scene.size), 24
            )
        for word in scene.words:
            assert word.points * 0.729 * 224 / max(scene.size) >= 11.9


def test_word_boxes_hold_the_ink() -> None:
    scenes = Scenes(6)
    for index in range(20):
        sample = scenes.question("read", index)
        assert 3 <= sample.meta["letters"] <= 6
    scene = next(
        s for s in map(scenes.scene, range(400)) if s.kind == "words" and len(s.words) == 1
    )
    with_word = np.asarray(draw(scene), dtype=int)
    word = scene.words[0]
    frame = word.plate or word.box
    x1, y1, x2, y2 = (int(v) for v in frame.bounds())
    bare = draw(Scene(scene.kind, scene.split, *scene.size, scene.ground))
    changed = np.abs(with_word - np.asarray(bare, dtype=int)).sum(axis=2) > 0
    assert changed[y1:y2, x1:x2].any()
    changed[y1:y2, x1:x2] = False
    assert not changed.any()


def test_answers_are_balanced() -> None:
    scenes = Scenes(8)
    said: dict[str, Counter[str]] = {}
    for index in range(1500):
        for question in scenes._item(index)[1]:
            said.setdefault(f"{question.task} {question.kind}", Counter())[question.text] += 1
    exists = said["exists pair"] + said["exists shape"] + said["exists colour"]
    for counter in (exists, said["spatial is"], said["compare both"]):
        assert set(counter) == {"yes", "no"}
        assert abs(counter["yes"] / counter.total() - 0.5) < 0.1
    counts = said["count shape"] + said["count colour"] + said["count any"]
    assert set(counts) == set("0123456")
    assert max(counts.values()) < 0.3 * counts.total()
    assert min(said["spatial where"].values()) > 0.15 * said["spatial where"].total()
    counted = Counter(sample.meta["answer"] for sample in questions("count", 350))
    assert set(counted) == set("0123456") and min(counted.values()) > 25


def test_answers_that_are_partly_right() -> None:
    sample = next(s for s in questions("list", 50) if len(s.meta["boxes"]) == 2)
    one, two = sample.meta["boxes"]
    assert score(sample, "", [two]) == pytest.approx(2 / 3)
    assert score(sample, "", [one, one, two]) == pytest.approx(4 / 5)
    described = Sample((), meta={"task": "describe", "answer": "a b, the word X and a c"})
    assert score(described, "the word x and a c", []) == pytest.approx(4 / 5)
    found = next(questions("find", 1))
    box = found.meta["box"]
    half = Box(box.x1, box.y1, box.x2, (box.y1 + box.y2) / 2 - 1)
    assert score(found, "", [half]) == 0.0
    assert score(found, "", [half, box]) == 0.0


def test_options() -> None:
    for sample in (Scenes(0, questions=1, tasks=("find", "count"))[i] for i in range(20)):
        assert len(sample.turns) == 2 and set(sample.meta["tasks"]) <= {"find", "count"}
    assert all(len(Scenes(single=True)[i].media("image")) == 1 for i in range(40))
    for task in TASKS:
        assert set(Scenes(tasks=(task,))[0].meta["tasks"]) == {task}


def test_mistakes_are_named() -> None:
    with pytest.raises(IndexError):
        Scenes()[-1]
    with pytest.raises(RegistryError, match="The tasks are describe"):
        Scenes(tasks=("dance",))
    with pytest.raises(RegistryError):
        Scenes().question("dance", 0)
    with pytest.raises(RegistryError, match="heldout"):
        Scenes(split="test")  # type: ignore[arg-type]
    with pytest.raises(OmnimixError, match="single=False"):
        Scenes(tasks=("compare",), single=True)
    with pytest.raises(OmnimixError, match="at least 1"):
        Scenes(questions=0)


def test_contact_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "sheet.png"
    monkeypatch.setattr(sys, "argv", ["scenes", "--out", str(out), "--n", "12", "--marks"])
    __main__.main()
    with Image.open(out) as sheet:
        assert sheet.size == (1980, 1120)
