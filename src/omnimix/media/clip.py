"""The step that makes one tile of the frames of a video."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Gt

from omnimix.errors import RecipeError
from omnimix.media.tiles import Step, Tiles


class Clip(Step):
    """All frames become one tile `[1, frames, 3, height, width]`, for an encoder that sees them together.

    Without it every frame is a tile of its own, and an encoder of pictures sees them one by one. Tensor steps
    behind it work on all frames alike.

    Attributes:
        num_frames: how many the encoder wants; None takes any number.
    """

    kind: Literal["clip"] = "clip"
    num_frames: Annotated[int, Gt(0)] | None = None

    def __call__(self, tiles: Tiles) -> Tiles:
        """Raises RecipeError where there are no pictures, or not as many as wanted."""
        count = len(tiles.pictures)
        if not count or (self.num_frames is not None and count != self.num_frames):
            raise RecipeError(
                f"the step clip got {count} frames"
                + (f", it makes one tile of {self.num_frames}" if self.num_frames else ""),
                hint="say how many frames the opener takes",
            )
        arrays = np.stack([np.asarray(picture) for picture in tiles.pictures])
        return tiles.with_pixels(torch.from_numpy(arrays).permute(0, 3, 1, 2)[None].contiguous())
