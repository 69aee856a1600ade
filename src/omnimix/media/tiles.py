"""Tiles, and the step: a pure function from tiles to tiles.

A picture enters as one tile. Picture steps work on Pillow images (resizing there equals the references
exactly), tensor steps on `[tiles, 3, height, width]`. The frame records how the original picture's pixels
lie in the *first* tile, so that a region drawn on the original finds its features and a box read from an
answer finds its way back: `u = x * scale_x + shift_x`, both as fractions of that tile.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image

from omnimix.config import Spec
from omnimix.errors import RecipeError


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
        pictures: RGB Pillow tiles, the first shows the whole item; empty once `pixels` is set. The frames
            of a video are pictures too, until the step `clip` joins them.
        pixels: `[tiles, ...]`, pictures `[tiles, 3, height, width]`, uint8 or float; None before the steps
            that make it.
        size: width and height of the original picture in pixels; (0, 0) where there is none.
        frame: where the original lies in the first tile.
        grid: columns and rows of the tiles after the first, (0, 0) where there are none.
        raw: what is no picture (a sound, a text, an array), until a step makes a tensor of it.
    """

    pictures: tuple[Image.Image, ...]
    size: tuple[int, int]
    frame: Frame
    pixels: Shaped[torch.Tensor, "tiles ..."] | None = None
    grid: tuple[int, int] = (0, 0)
    raw: Any = None

    @classmethod
    def of(cls, picture: Image.Image) -> Tiles:
        """A picture as a single tile."""
        return cls((picture,), picture.size, Frame.whole(*picture.size))

    @classmethod
    def frames(cls, pictures: Sequence[Image.Image]) -> Tiles:
        """The frames of a video, which are of one size, as one tile each."""
        return replace(cls.of(pictures[0]), pictures=tuple(pictures))

    @classmethod
    def holding(cls, raw: Any) -> Tiles:
        """Something that is no picture."""
        return cls((), (0, 0), Frame(1.0, 1.0), raw=raw)

    def tensor(self) -> Shaped[torch.Tensor, "tiles ..."]:
        """The tiles as one tensor: uint8 straight from the pictures, or what the steps made.

        Raises:
            RecipeError: there is something raw that no step made a tensor of.
        """
        if self.pixels is not None:
            return self.pixels
        if not self.pictures:
            raise RecipeError(
                f"no step makes a tensor of the {type(self.raw).__name__.lower()}",
                hint="add one to the steps of the modality or of its encoder",
            )
        arrays = np.stack([np.asarray(picture) for picture in self.pictures])
        return torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous()

    def with_pixels(self, pixels: Shaped[torch.Tensor, "tiles ..."]) -> Tiles:
        return replace(self, pictures=(), pixels=pixels, raw=None)


class Step(Spec):
    """`Tiles -> Tiles`. A step's settings are its words in the recipe; it keeps no other state.

    `works_on` says what it reads: pictures, the tensor, or what is raw.
    """

    kind: str

    def renamed(self, names: Mapping[str, str]) -> Step:
        """The step with other names of its files: every word that is one of them."""
        words = {name: getattr(self, name) for name in type(self).model_fields}
        new = {w: names[v] for w, v in words.items() if isinstance(v, str) and v in names}
        return self.model_copy(update=new)

    def files(self) -> tuple[str, ...]:
        """Names of the files that it reads, which lie beside the model (`omnimix.media.files`)."""
        return ()

    works_on: ClassVar[Literal["picture", "tensor", "raw"]] = "picture"

    @property
    def random(self) -> bool:
        """Whether it leaves anything to chance; features of such items are not kept."""
        return False

    @abc.abstractmethod
    def __call__(self, tiles: Tiles) -> Tiles: ...


class TensorStep(Step):
    """A step on the pixel tensor alone; it may run in a worker or, last in an encoder, on the device."""

    works_on = "tensor"

    @abc.abstractmethod
    def on_tensor(
        self, pixels: Shaped[torch.Tensor, "tiles ..."]
    ) -> Shaped[torch.Tensor, "tiles2 ..."]: ...

    def __call__(self, tiles: Tiles) -> Tiles:
        return tiles.with_pixels(self.on_tensor(tiles.tensor()))


class RawStep(Step):
    """A step that makes the tensor `[tiles, ...]` of what is raw; it runs in a worker."""

    works_on = "raw"

    @abc.abstractmethod
    def of(self, raw: Any) -> Shaped[torch.Tensor, "tiles ..."]:
        """The tensor of a sound, a text or an array.

        Raises:
            RecipeError: this step is for something else.
        """

    def __call__(self, tiles: Tiles) -> Tiles:
        return tiles.with_pixels(self.of(tiles.raw))
