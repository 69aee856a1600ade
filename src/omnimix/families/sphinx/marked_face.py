"""SPHINX-V as its users know it: `generate_response(qas, vps, image)`, points and boxes in pixels.

The rules stand in golden/specs/sphinx_v.md sections 1 and 3. Two of the original's doings are not copied: its call
writes into the caller's list, so that a second call with the same list saw other prompts, and it cuts more
prompts than it has places for without a word.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

from omnimix.errors import SampleError
from omnimix.families.sphinx.face import Qas, SphinxModel, asked
from omnimix.families.sphinx.marked_records import region_of
from omnimix.types import Box, Mask, Media, Point, Polygon, Region, Sample, Stroke, Turn

Mark: TypeAlias = Region | Sequence[float]
"""A region, or `[x, y]` or `[x, y, w, h]` in pixels of the picture."""


class SphinxVModel(SphinxModel):
    """A SPHINX-V behind the face of the reference's `SPHINX_V_Model`."""

    def generate_response(  # type: ignore[override]
        self,
        qas: Qas,
        vps: Sequence[Mark] | None = None,
        image: Any = None,
        max_gen_len: int = 512,
        temperature: float = 0.1,
        top_p: float = 0.5,
        seed: int = 0,
    ) -> str:
        """The answer to the last question about marks on a picture; nothing that is given is changed.

        Args:
            qas: questions with their answers, `[[question, answer], ..., [question, None]]`; the k-th mark
                is called `<Region k>` (boxes) or `<Mark k>` (points).
            vps: at most ten marks. Without any the model sees text only, as the original does.
            image: the picture they lie on.

        Raises:
            SampleError: no marks in the list, more than ten, or marks without a picture.
            RegionError: a mark outside its picture, or a box without extent.
        """
        conversation = marked(qas, vps, image)
        return self.generate_responses([conversation], max_gen_len, temperature, top_p, seed)[0]

    generate_reponse = generate_response  # type: ignore[assignment]


def marked(
    qas: Qas, vps: Sequence[Mark] | None = None, image: Any = None, name: str = "question"
) -> Sample:
    """Questions and answers as a conversation, picture and marks in the first question.

    Raises:
        SampleError: an empty list of marks, marks without a picture, or one that is none.
    """
    if vps is None:
        if image is not None:
            warnings.warn(
                "SPHINX-V looks at a picture only together with marks; without any it reads text alone",
                stacklevel=3,
            )
        return asked(qas, None, name)
    if len(vps) == 0:
        raise SampleError(
            "the list of marks is empty",
            where=name,
            hint="give points [x, y] or boxes [x, y, w, h], or None for text alone",
        )
    if image is None:
        raise SampleError(
            f"{len(vps)} marks lie on no picture", where=name, hint="give the picture with them"
        )
    sample = asked(qas, image, name)
    regions = [
        Media.region(mark)
        if isinstance(mark, Point | Box | Polygon | Stroke | Mask)
        else Media.region(region_of(mark, f"{name}: mark {number}"))
        for number, mark in enumerate(vps, start=1)
    ]
    picture, *rest = sample.turns[0].content
    first = Turn("user", (picture, *regions, *rest))
    return Sample((first, *sample.turns[1:]), name, sample.meta)
