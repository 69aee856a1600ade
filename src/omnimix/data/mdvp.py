"""SPHINX-V's records: a picture, several marks on it, and a conversation that names them by number.

The rules stand in specs/sphinx_v.md section 4; golden case sphinx_v/ens5_vp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from omnimix.data.llava import MARK, ROLES, Conversations
from omnimix.data.sources import Source, SourceSpec
from omnimix.errors import SampleError
from omnimix.types import Box, Media, Part, Point, Region, Sample, Turn

SHIFT = 8
"""A box moves by at most its size divided by this."""

STRETCH = 0.15
"""By which share of its size a box grows or shrinks."""


class Mdvp(SourceSpec):
    """A JSON list (or JSON lines) of records with marks, as MDVP-Data and the label sets before it.

    `{"image": "a.jpg", "bbox": [[x, y, w, h], ...], "conversations": [{"from": "human", "value":
    "<image>\\nPlease identify the labels of each marked region in the image."}, {"from": "gpt", "value":
    "<Region 1>: roof"}]}`; marks are `bbox` or `points` (`[[x, y], ...]`) in pixels of the picture, and
    points win where both stand. Region k (boxes) or Mark k (points) is what the text calls the k-th.

    A record without a picture or without a mark is refused: the model sees a picture only together with
    marks. The marks `<image>` are taken out of the text, and white space around it.

    Attributes:
        path: the file.
        images: folder that picture paths are relative to; default the file's own. Paths that lead out of
            it are refused.
        noise: move and stretch boxes a little, as the original does in training.
        seed: of the noise; a record has the same in every round, whichever process reads it.
    """

    kind: Literal["mdvp"] = "mdvp"
    path: str
    images: str | None = None
    noise: bool = False
    seed: int = 0

    def open(self, folder: Path) -> Source:
        return _Mdvp(self, folder)


class _Mdvp(Conversations):
    def __init__(self, spec: Mdvp, folder: Path) -> None:
        path = folder / spec.path
        super().__init__(path, folder / spec.images if spec.images else path.parent, "loose")
        self.spec = spec

    def __getitem__(self, index: int) -> Sample:
        record, where = self.record(index), self.where(index)
        chance = np.random.RandomState([self.spec.seed, index]) if self.spec.noise else None
        return sample_of(record, self.picture(image_of(record, where), where), where, chance)


def image_of(record: dict[str, Any], where: str) -> str:
    """The name of a record's picture.

    Raises:
        SampleError: there is none, or several.
    """
    image = record.get("image")
    if not isinstance(image, str) or not image:
        what = "no picture" if not image else "not one picture"
        raise SampleError(
            f"the record has {what}",
            where=where,
            hint='SPHINX-V\'s records have an image and marks: {"image": "a.jpg", "points": [[x, y]]}',
        )
    return image


def sample_of(
    record: dict[str, Any],
    picture: Media,
    where: str,
    chance: np.random.RandomState | None = None,
) -> Sample:
    """The conversation of a record; its picture and marks belong to the first question.

    Args:
        chance: moves boxes a little; None leaves them as they are.

    Raises:
        SampleError: no marks, or numbers that are none.
    """
    points = "points" in record
    numbers = record["points"] if points else record.get("bbox")
    if not isinstance(numbers, list) or not numbers:
        raise SampleError(
            "the record has no marks",
            where=where,
            hint='give "bbox": [[x, y, w, h], ...] or "points": [[x, y], ...] in pixels',
        )
    regions = [region_of(row, where, None if points else chance) for row in numbers]
    waiting: list[Part] = [picture, *(Media.region(region) for region in regions)]
    turns = []
    for turn in record["conversations"]:
        role = ROLES.get(turn["from"], turn["from"])
        text = str(turn["value"]).replace(MARK, "").strip()
        front, waiting = (waiting, []) if role == "user" else ([], waiting)
        turns.append(Turn(role, (*front, text)))
    return Sample(tuple(turns), str(record.get("id", where)))


def region_of(
    numbers: object, where: str | None = None, chance: np.random.RandomState | None = None
) -> Region:
    """`[x, y]` or `[x, y, w, h]` in pixels as a region; the numbers are left as they are.

    Raises:
        SampleError: anything else.
    """
    row = list(numbers) if isinstance(numbers, list | tuple) else []
    plain = all(isinstance(v, int | float) and math.isfinite(v) for v in row)
    if len(row) not in (2, 4) or not plain:
        raise SampleError(
            f"{numbers!r} is no mark",
            where=where,
            hint="a point is [x, y], a box [x, y, w, h], in pixels of the picture",
        )
    if len(row) == 2:
        return Point(*row)
    x, y, width, height = jittered(row, chance) if chance is not None else row
    return Box(x, y, x + width, y + height)


def jittered(
    box: Sequence[float], chance: np.random.RandomState
) -> tuple[float, float, float, float]:
    """A box `[x, y, w, h]` moved and stretched, drawn in the order of the original."""
    x, y, width, height = box
    x = x + chance.randint(-int(width / SHIFT), int(width / SHIFT) + 1)
    y = y + chance.randint(-int(height / SHIFT), int(height / SHIFT) + 1)
    width = max(width * (1 + chance.uniform(-STRETCH, STRETCH)), 0)
    height = max(height * (1 + chance.uniform(-STRETCH, STRETCH)), 0)
    return float(x), float(y), float(width), float(height)
