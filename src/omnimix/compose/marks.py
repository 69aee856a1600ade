"""Set-of-marks: regions drawn on the picture with numbers, for models that know no other way.

The picture that the model sees carries the marks, the question names them, and an answer that names a
mark means its region. The idea is Yang et al., Set-of-Mark Prompting (2023).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Annotated

from annotated_types import Gt
from PIL import Image
from pydantic import field_validator

from omnimix.config import Spec
from omnimix.media.drawing import Drawn, colour, paint
from omnimix.prompts.coordinates import Candidate, named
from omnimix.types import Region


class Marks(Spec):
    """How marks are drawn and named.

    Attributes:
        name: what a question calls the mark of a number.
        scale: of lines and numbers, which follow the picture's size; 1 stays readable when a photograph
            is shown in 336 pixels.
    """

    name: str = "mark {number}"
    scale: Annotated[float, Gt(0)] = 1.0

    @field_validator("name")
    @classmethod
    def _numbered(cls, name: str) -> str:
        if name.count("{number}") != 1:
            raise ValueError("the name of a mark needs {number} once")
        return name

    def called(self, number: int) -> str:
        """What the mark of that number is called."""
        return self.name.replace("{number}", str(number))

    def draw(self, picture: Image.Image, marks: Sequence[tuple[int, Region]]) -> Image.Image:
        """The picture, in its own size, with numbered regions."""
        drawn = [Drawn(region, colour(number - 1), str(number)) for number, region in marks]
        # A long strip is made smaller by its long side, so its marks are larger than its area asks for.
        longer = max(picture.size) / math.sqrt(picture.width * picture.height)
        scale = 1.6 * min(longer, 2.0) * self.scale
        return paint(picture, drawn, enlarge=False, scale=scale)

    def find(self, text: str, asked: Sequence[Region]) -> Iterator[Candidate]:
        """Regions of the question that a text names by their mark."""
        before, after = (re.escape(part) for part in self.name.split("{number}"))
        pattern = re.compile(rf"(?<!\w){before}(\d+)(?!\d){after}", re.IGNORECASE)
        yield from named(text, pattern, asked)
