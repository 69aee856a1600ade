"""SPHINX-V's records: a picture, several marks on it, and a conversation that names them by number.

The rules stand in golden/specs/sphinx_v.md section 4; golden case sphinx_v/ens5_vp.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from omnimix.data.base import Source, SourceSpec
from omnimix.errors import SampleError
from omnimix.families.sphinx.records import SphinxSource
from omnimix.types import Box, Media, Point, Region

SHIFT = 8
"""A box moves by at most its size divided by this."""

STRETCH = 0.15
"""By which share of its size a box grows or shrinks."""


class Mdvp(SourceSpec):
    """Records with marks, as MDVP-Data and the label sets before it; files are listed as SPHINX lists them.

    `{"image": "a.jpg", "bbox": [[x, y, w, h], ...], "conversations": [{"from": "human", "value":
    "<image>\\nPlease identify the labels of each marked region in the image."}, {"from": "gpt", "value":
    "<Region 1>: roof"}]}`; marks are `bbox` or `points` (`[[x, y], ...]`) in pixels of the picture, and
    points win where both stand. Region k (boxes) or Mark k (points) is what the text calls the k-th.

    A record without a picture or without a mark is refused: the model sees a picture only together with
    marks. The marks `<image>` are taken out of the text, and white space around it.

    Attributes:
        path: the YAML list (`META: [{path, type, root, ratio}]`, see `omnimix.families.sphinx.records`).
        noise: move and stretch boxes a little, as the original does in training.
        seed: of the noise; a record has the same in every round, whichever process reads it.
    """

    kind: Literal["mdvp"] = "mdvp"
    path: str
    noise: bool = False
    seed: int = 0

    def open(self, folder: Path) -> Source:
        return MdvpSource(folder / self.path, self.noise, self.seed)


class MdvpSource(SphinxSource):
    """The files of a list; see `Mdvp`."""

    def __init__(
        self,
        path: Path,
        noise: bool = False,
        seed: int = 0,
        chance: np.random.RandomState | None = None,
    ) -> None:
        """Args: see `Mdvp`; `chance` goes on from record to record, as numpy's own does in the original."""
        super().__init__(path)
        self.noise = noise
        self.seed = seed
        self.chance = chance

    def media(self, record: Mapping[str, Any], name: str) -> tuple[Media, ...]:
        """The picture and its marks.

        Raises:
            SampleError: one of them is missing, or numbers that are no mark.
        """
        chance = self.chance
        if self.noise and chance is None:
            chance = np.random.RandomState([self.seed, zlib.crc32(record["place"].encode())])
        image = record.get("image")
        if not isinstance(image, str) or not image:
            raise SampleError(
                f"the record has {'not one' if image else 'no'} picture",
                where=name,
                hint='SPHINX-V\'s records have both: {"image": "a.jpg", "points": [[x, y]], ...}',
            )
        points = "points" in record
        numbers = record["points"] if points else record.get("bbox")
        if not isinstance(numbers, list) or not numbers:
            raise SampleError(
                "the record has no marks",
                where=name,
                hint='give "bbox": [[x, y, w, h], ...] or "points": [[x, y], ...] in pixels',
            )
        regions = [region_of(row, name, None if points else chance) for row in numbers]
        return (*super().media(record, name), *map(Media.region, regions))


def region_of(
    numbers: object, where: str | None = None, chance: np.random.RandomState | None = None
) -> Region:
    """`[x, y]` or `[x, y, w, h]` in pixels as a region; the numbers are left as they are.

    Args:
        chance: moves a box a little.

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
