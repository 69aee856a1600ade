"""Numbers of published evaluation scripts: folders with a metrics.json, each word of it one measure.

A word's table holds what went into the script and what came out; any number of rows will do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeAlias

from omnimix.convert.report import Check, Verdict, number, same, stopped
from omnimix.errors import CheckpointError, OmnimixError
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
from omnimix.types import Box

FILE = "metrics.json"

Facts: TypeAlias = Any
"""The table of one word, as it is in the file."""


def answer(text: str) -> Answer:
    """What a model said, to measure it."""
    return Answer(text, (), 0, True)


def referring(facts: Facts) -> Iterator[Check]:
    """Boxes of referring expressions; the question's id holds the size of the picture."""
    answers, references = [], []
    for row in facts["input"]:
        size = {k: int(v) for k, v in re.findall(r"(height|width)_?(\d+)", row["question_id"])}
        boxes = (Box(*row["gt_answers"]),)
        references.append(Reference((), boxes, (size["width"], size["height"])))
        answers.append(answer(row["answer"]))
    score = grounding.Referring().score(answers, references)
    yield number("rec_iou", "all rows", score.value, facts["expected"]["accuracy_at_0_5"], 1e-9)


def relaxed(facts: Facts) -> Iterator[Check]:
    """Numbers that may be off by a share."""
    for (target, said), expected in zip(facts["input"], facts["expected"], strict=True):
        right = short_answers.Relaxed().one(answer(said), Reference((target,)))
        yield same("relaxed_accuracy", f"{said!r} for {target!r}", bool(right), expected)


def yes_no(facts: Facts) -> Iterator[Check]:
    """What an answer says of yes and no."""
    for said, expected in zip(facts["input"], facts["expected"], strict=True):
        yield same("yes_no_parse", repr(said), short_answers.yes_no(said), expected)


def demo_boxes(facts: Facts) -> Iterator[Check]:
    """Objects that an answer names, their colours, and their boxes in pixels."""
    for row in facts:
        objects, markdown = named_boxes.read(row["text"])
        plain = [
            {"name": o.name, "coords": [list(c) for c in o.coords], "color": o.colour}
            for o in objects
        ]
        yield same("demo_boxes", f"{row['text'][:30]!r}: objects", plain, row["objects"])
        yield same("demo_boxes", f"{row['text'][:30]!r}: text", markdown, row["markdown"])
        for size, expected in row["pixel_boxes_xyxy"].items():
            width, height = map(int, size.split("x"))
            boxes = [list(box) for box in named_boxes.pixel_boxes(objects, width, height)]
            yield same("demo_boxes", f"{row['text'][:30]!r}: in {size}", boxes, expected)


def labels(facts: Facts) -> Iterator[Check]:
    """Labels of marked regions; the file brings the vectors of a sentence encoder along."""
    vectors, expected = facts["stub_embeddings"], facts["expected"]

    def similar(ours: str, theirs: str) -> float:
        return marked_regions.cosine(vectors[ours], vectors[theirs])

    rows = [(row["prediction"], row["answer"]) for row in facts["input"]]
    overlap = marked_regions.classification(rows)
    # What is stated has four decimals.
    yield number("roc", "mean overlap", overlap, expected["mean_siou"], 5e-5)
    cosine = marked_regions.classification(rows, similar)
    yield number("roc", "mean cosine", cosine, expected["mean_cosine"], 5e-5)
    for i, ((said, true), item) in enumerate(zip(rows, expected["per_item"], strict=True)):
        ours, theirs = marked_regions.labels(said), marked_regions.labels(true)
        yield same("roc", f"row {i}: said", ours, item["pred"])
        yield same("roc", f"row {i}: true", theirs, item["gt"])
        pairs = zip(ours, map(marked_regions.true_label, theirs), strict=False)
        each = [marked_regions.word_overlap(*pair) for pair in pairs]
        for k, (one, wanted) in enumerate(zip_longest(each, item["siou"], fillvalue=-1.0)):
            yield number("roc", f"row {i}, region {k + 1}", one, wanted, 5e-5)


def texts(facts: Facts) -> Iterator[Check]:
    """Texts of marked regions."""
    rows, expected = (
        [(row["answer"], row["annotation"]) for row in facts["input"]],
        facts["expected"],
    )
    reading = marked_regions.reading(rows)
    yield number("regional_ocr", "accuracy", reading, expected["accuracy"], 5e-5)
    stated = zip(rows, expected["pred"], expected["gt"], strict=True)
    for i, ((said, true), pred, gt) in enumerate(stated):
        yield same("regional_ocr", f"row {i}: said", marked_regions.texts(said), pred)
        yield same("regional_ocr", f"row {i}: true", marked_regions.labels(true), gt)


def described(facts: Facts) -> Iterator[Check]:
    """Captions: how they are split into words, and CIDEr of all and of each."""
    for side in ("references", "predictions"):
        for item, stated in facts[f"tokenized_{side}"].items():
            split = [" ".join(captions.words(text)) for text in facts[side][item]]
            yield same("region_caption", f"{side} {item}: words", split, stated)
    items = list(facts["predictions"])
    score = captions.Cider().score(
        [answer(facts["predictions"][item][0]) for item in items],
        [Reference(tuple(facts["references"][item])) for item in items],
    )
    expected = facts["expected"]
    yield number("region_caption", "CIDEr", score.value, expected["CIDEr"], 1e-6)
    for item, value in zip(items, score.each, strict=True):
        wanted = expected["per_item"][item]["CIDEr"]
        yield number("region_caption", f"CIDEr of {item}", value, wanted, 1e-6)


def judged(facts: Facts) -> Iterator[Check]:
    """Reviews of a judge."""
    for review, stated in zip(facts["reviews"], facts["parsed"], strict=True):
        yield same("gpt_judge", repr(review[:30]), list(judging.marks(review)), stated)
    references = [Reference(group=name) for name in facts["categories"]]
    score = judging.Judged().score(list(map(answer, facts["reviews"])), references)
    found = {"all": score.value, **dict(score.groups)}
    for name, wanted in facts["expected"].items():
        yield number("gpt_judge", name, found.get(name, float("nan")), wanted, 0.005)


MEASURES: Mapping[str, Callable[[Facts], Iterator[Check]]] = {
    "rec_iou": referring,
    "relaxed_accuracy": relaxed,
    "yes_no_parse": yes_no,
    "demo_boxes": demo_boxes,
    "roc": labels,
    "regional_ocr": texts,
    "region_caption": described,
    "gpt_judge": judged,
}
"""The words of metrics.json to what is compared."""


def verify(folder: Path, stop: bool) -> Verdict:
    """Compare our measures with the numbers of a folder.

    Raises:
        CheckpointError: a file that cannot be read.
    """
    path = folder / FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{FILE} cannot be read ({error})", where=str(path)) from None
    if not isinstance(facts, dict):
        raise CheckpointError(f"{FILE} holds no table of words", where=str(path))
    verdict = Verdict(f"{folder.resolve().parent.name}/{folder.resolve().name}")
    verdict.take(_checks(facts), stop)
    if "region_caption" in facts:
        verdict.notes.append("METEOR needs its authors' Java program and is not compared")
    return verdict


def _checks(facts: Mapping[str, Facts]) -> Iterator[Check]:
    for word, table in facts.items():
        if isinstance(table, str):  # a remark
            continue
        if word not in MEASURES:
            yield stopped(word, f"no measure has this word; known are {', '.join(MEASURES)}")
            continue
        try:
            yield from MEASURES[word](table)
        except (OmnimixError, KeyError, TypeError, ValueError) as error:
            yield stopped(word, f"{type(error).__name__}: {error}")
