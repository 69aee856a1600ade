"""What was asked about and what was answered, on one picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from omnimix.media.drawing import Drawn, colour, limbs, paint
from omnimix.types import Region

ASKED = (255, 176, 0)
"""The colour of regions that the user drew."""


def draw(
    picture: Image.Image, asked: Sequence[Region] = (), answered: Sequence[Region] = ()
) -> Image.Image:
    """A copy of the picture with asked regions (amber, ?) and answered ones (label, else numbered from 1).

    Key points of a body are joined. Small pictures come back enlarged by a whole number.
    """
    questions = [
        Drawn(region, ASKED, "?" if len(asked) == 1 else f"?{i}")
        for i, region in enumerate(asked, start=1)
    ]
    answers = [
        Drawn(region, colour(i), region.label or str(i + 1)) for i, region in enumerate(answered)
    ]
    return paint(picture, [*limbs(answers), *questions, *answers])
