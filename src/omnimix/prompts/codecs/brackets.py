"""Conventions with numbers in square brackets: LLaVA, Ferret."""

from __future__ import annotations

from typing import ClassVar, Literal

from omnimix.prompts.coordinates import Coordinates


class Llava(Coordinates):
    """LLaVA-1.5: fractions of the padded square with two decimals, `[0.61, 0.36, 0.92, 0.83]`.

    Its data mixes boxes of the square (Visual Genome) and of the picture; the square is what its trainer
    shows the model. Source: haotian-liu/LLaVA issues 606 and 822.
    """

    kind: Literal["llava"] = "llava"  # type: ignore[assignment]


class Ferret(Coordinates):
    """Ferret: whole thousandths of the picture, rounded down, `[x1, y1, x2, y2]`.

    The feature token `<region_fea>` that Ferret puts behind a region in a question is not text and is not
    written here. Source: apple/ml-ferret, `VOCAB_IMAGE_W = VOCAB_IMAGE_H = 1000` in its evaluation and
    demo, which scale and truncate.
    """

    kind: Literal["ferret"] = "ferret"  # type: ignore[assignment]
    frame: Literal["tile", "picture"] = "picture"

    scale: ClassVar[float] = 1000.0

    def number(self, value: float) -> str:
        return str(int(value * 1000 + 1e-6))
