"""Index files of arXiv 2402.07865: `metadata.json` or `metadata-full.json`, and subsets of the first rows of each part.

Rows are shuffled once with Python's `random` (seed 21), so that a subset is the beginning of a larger one. Its authors
name rows of some sets by Python's `hash` of a text, which is another in every process: there the order, and with it the
subset, cannot be theirs, and is by the rows' own names here.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from omnimix.disk import write_text
from omnimix.errors import OmnimixError, SampleError
from omnimix.evaluate.benchmark import Official, opened
from omnimix.types import Box, Sample

SEED = 21
SLIM = 1024
HASHED = ("refcoco", "refcoco+", "refcocog", "pope")
"""Sets whose rows the authors name by `hash`."""

SUBSAMPLED = {"vqav2": 16384, "tallyqa": 8192}
"""Rows of each part of the subset that is called subsampled."""


def prepare(name: str, folder: Path, out: Path, slim: int | None = None) -> dict[Path, int]:
    """Write the index of all rows and those of subsets.

    Args:
        slim: rows of each part; the published sizes by default.

    Returns:
        Each file with how many rows it has.

    Raises:
        OmnimixError: a benchmark without its files, or no row that can be used.
    """
    spec, source = opened(name, folder)
    source.template = "{question}"
    rows: dict[Any, dict[str, Any]] = {}
    failed: list[str] = []
    for index in range(source.length or 0):
        try:
            sample = source[index]
        except SampleError as error:
            failed.append(error.sentence())
            continue
        rows[_key(sample.id)] = _entry(source, sample, spec.answers)
    if not rows:
        raise OmnimixError(
            f"no row of {name} can be used" + (f"; the first: {failed[0]}" if failed else ""),
            where=str(folder),
            hint="fetch the pictures and name the folder that holds them",
        )
    keys = list(rows)
    Random(SEED).shuffle(keys)
    sizes = [slim] if slim else [SLIM, *([SUBSAMPLED[name]] if name in SUBSAMPLED else [])]
    out.mkdir(parents=True, exist_ok=True)
    found = {out / "metadata-full.json": keys}
    for size in sizes:
        counts: Counter[str] = Counter()
        chosen = []
        for key in keys:
            part = rows[key]["split"] if name in ("tallyqa", "pope", "ocid-ref") else ""
            if counts[part] < size:
                counts[part] += 1
                chosen.append(key)
        found[out / f"metadata-slim-{size}.json"] = chosen
    for path, chosen in found.items():
        write_text(path, json.dumps({key: rows[key] for key in chosen}))
    if failed:
        raise SampleError(
            f"{len(failed)} rows are left out of the index; the first: {failed[0]}",
            where=str(out),
            hint="mend them and prepare it again, or use it as it is",
        )
    return {path: len(chosen) for path, chosen in found.items()}


def _key(name: str) -> Any:
    return int(name) if name.isdigit() else name


def _entry(source: Official, sample: Sample, answers: str) -> dict[str, Any]:
    """A row in the words of the published index, with the picture's path below the benchmark's folder."""
    said, text = sample.meta, sample.turns[0].text()
    boxes = [
        part.data
        for part in sample.turns[-1].content
        if not isinstance(part, str) and isinstance(part.data, Box)
    ]
    if boxes:
        with Image.open(source.folder / said["picture"]) as picture:
            width, height = picture.size
        box = boxes[0]
        sides = (box.x1 / width, box.y1 / height, box.x2 / width, box.y2 / height)
        found: dict[str, Any] = {
            "example_id": _key(sample.id),
            "ref_expression": text,
            "img_path": said["picture"],
            "bbox": [round(side, 2) for side in sides],
        }
    else:
        several = answers.endswith("s") or "[]" in answers
        found = {
            "question_id": _key(sample.id),
            "question": text,
            "img_path": said["picture"],
            "answers" if several else "answer": said["references"]
            if several
            else said["references"][0],
        }
    if said["choices"]:
        found["answer_choices"] = said["choices"]
    return found | {"split": said["group"]}
