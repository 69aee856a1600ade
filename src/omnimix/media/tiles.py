"""Tiles, and the step: a pure function from tiles to tiles.

A picture enters as one tile. Picture steps work on Pillow images (resizing there equals the references
exactly), tensor steps on `[tiles, 3, height, width]`. The frame records how the original picture's pixels
lie in the *first* tile, so that a region drawn on the original finds its features and a box read from an
answer finds its way back: `u = x * scale_x + shift_x`, both as fractions of that tile.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image

from omnimix.config import Spec


@dataclass(frozen=True)
class Frame:
    """Where the original picture's pixels lie in the first tile, as fractions of the tile (0 to 1)."""

    scale_x: float
    scale_y: float
    shift_x: float = 0.0
    shift_y: float = 0.0

    @classmethod
    def whole(cls, width: int, height: int) -> Frame:
        """The frame of a picture that fills its tile."""
        return cls(1.0 / width, 1.0 / height)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of the original to fractions of the first tile."""
        return x * self.scale_x + self.shift_x, y * self.scale_y + self.shift_y

    def back(self, u: float, v: float) -> tuple[float, float]:
        """Fractions of the first tile to pixels of the original."""
        return (u - self.shift_x) / self.scale_x, (v - self.shift_y) / self.scale_y

    def window(self, left: float, top: float, width: float, height: float) -> Frame:
        """The frame after the tile is cut (or padded) to a window of it, all in fractions of the tile."""
        return Frame(
            self.scale_x / width,
            self.scale_y / height,
            (self.shift_x - left) / width,
            (self.shift_y - top) / height,
        )


@dataclass(frozen=True)
class View:
    """How a model sees a picture, for whoever writes or reads coordinates.

    Attributes:
        size: width and height of the original picture in pixels.
        frame: where the original lies in the first tile.
        tile: width and height of the first tile in pixels.
    """

    size: tuple[int, int]
    frame: Frame
    tile: tuple[int, int]

    @classmethod
    def whole(cls, width: int, height: int) -> View:
        """The view of a picture that is seen as it is."""
        return cls((width, height), Frame.whole(width, height), (width, height))


@dataclass(frozen=True, eq=False)
class Tiles:
    """One item on its way to the encoders.

    Attributes:
        pictures: RGB Pillow tiles, the first shows the whole item; empty once `pixels` is set.
        pixels: `[tiles, 3, height, width]`, uint8 or float; None before the tensor steps.
        size: width and height of the original picture in pixels.
        frame: where the original lies in the first tile.
        grid: columns and rows of the tiles after the first, (0, 0) where there are none.
    """

    pictures: tuple[Image.Image, ...]
    size: tuple[int, int]
    frame: Frame
    pixels: Shaped[torch.Tensor, "tiles 3 height width"] | None = None
    grid: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, picture: Image.Image) -> Tiles:
        """A picture as a single tile."""
        return cls((picture,), picture.size, Frame.whole(*picture.size))

    def tensor(self) -> Shaped[torch.Tensor, "tiles 3 height width"]:
        """The tiles as one tensor: uint8 straight from the pictures, or what the tensor steps made."""
        if self.pixels is not None:
            return self.pixels
        arrays = np.stack([np.asarray(picture) for picture in self.pictures])
        return torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous()

    def with_pixels(self, pixels: Shaped[torch.Tensor, "tiles 3 height width"]) -> Tiles:
        return replace(self, pictures=(), pixels=pixels)


class Step(Spec):
    """`Tiles -> Tiles`. A step's settings are its words in the recipe; it keeps no other state."""

    kind: str
    works_on: ClassVar[Literal["picture", "tensor"]] = "picture"

    @abc.abstractmethod
    def __call__(self, tiles: Tiles) -> Tiles: ...


class TensorStep(Step):
    """A step on the pixel tensor alone; it may run in a worker or, last in an encoder, on the device."""

    works_on = "tensor"

    @abc.abstractmethod
    def on_tensor(
        self, pixels: Shaped[torch.Tensor, "tiles 3 h w"]
    ) -> Shaped[torch.Tensor, "tiles2 3 h2 w2"]: ...

    def __call__(self, tiles: Tiles) -> Tiles:
        return tiles.with_pixels(self.on_tensor(tiles.tensor()))
