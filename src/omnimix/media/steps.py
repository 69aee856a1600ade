"""Steps on Pillow pictures: resizing, padding and cropping, each of which keeps the frame true.

All rounding rules are those of the published preprocessing; Pillow resizes with antialiasing on uint8.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self, TypeAlias

from annotated_types import Ge, Gt, Le
from PIL import Image
from pydantic import model_validator

from omnimix.errors import MediaError
from omnimix.media.tiles import Frame, Step, Tiles

Side: TypeAlias = Annotated[int, Gt(0)]
Channel: TypeAlias = Annotated[int, Ge(0), Le(255)]
Colour: TypeAlias = tuple[Channel, Channel, Channel]
Filter: TypeAlias = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Rounding: TypeAlias = Literal["even", "floor"]

BLACK: Colour = (0, 0, 0)

# Padding or resizing a very long strip would need gigabytes; no picture in use comes near.
MOST_PIXELS = 2**28


def resample(name: Filter) -> Image.Resampling:
    """Pillow's filter of that name."""
    return Image.Resampling[name.upper()]


class PictureStep(Step):
    """A step that treats every tile alike and tells which window of the tile it keeps."""

    def window(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, width and height of what is kept of a tile, as fractions of the tile."""
        return (0.0, 0.0, 1.0, 1.0)

    def picture(self, picture: Image.Image) -> Image.Image:
        """What becomes of one tile."""
        raise NotImplementedError

    def __call__(self, tiles: Tiles) -> Tiles:
        frame: Frame = tiles.frame.window(*self.window(*tiles.pictures[0].size))
        pictures = tuple(self.picture(picture) for picture in tiles.pictures)
        return replace(tiles, pictures=pictures, frame=frame)


class Resize(PictureStep):
    """To a fixed size, ignoring the aspect.

    Attributes:
        size: side of a square, or width and height, in pixels.
        interpolation: how pixels are mixed.
    """

    kind: Literal["resize"] = "resize"
    size: Side | tuple[Side, Side]
    interpolation: Filter = "bicubic"

    def picture(self, picture: Image.Image) -> Image.Image:
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        return picture.resize(size, resample(self.interpolation))


class SmartResize(PictureStep):
    """To whole patches, the aspect nearly kept and the number of pixels within bounds (Qwen2-VL).

    Both sides become the nearest multiples of `factor`; a picture with too many pixels is made smaller,
    one with too few larger. The rule is that of transformers' `smart_resize`, which a test compares.

    Attributes:
        factor: side of the patches that are merged into one token: 28 (Qwen2-VL, 2.5), 32 (Qwen3-VL).
        min_pixels: fewest pixels.
        max_pixels: most pixels.
        interpolation: how pixels are mixed.
    """

    kind: Literal["smart_resize"] = "smart_resize"
    factor: Side = 28
    min_pixels: Annotated[int, Gt(0)] = 56 * 56
    max_pixels: Annotated[int, Gt(0)] = 28 * 28 * 1280
    interpolation: Filter = "bicubic"

    longest: ClassVar[int] = 200

    def fitted(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that a picture gets.

        Raises:
            MediaError: one side is more than 200 times the other.
        """
        if max(width, height) > self.longest * min(width, height):
            raise MediaError(
                f"a picture of {width} x {height} pixels is too long",
                hint=f"one side may be at most {self.longest} times the other; crop it",
            )
        sides = [round(side / self.factor) * self.factor for side in (width, height)]
        if sides[0] * sides[1] > self.max_pixels:
            shrink = math.sqrt(width * height / self.max_pixels)
            steps = [math.floor(side / shrink / self.factor) for side in (width, height)]
            sides = [max(1, step) * self.factor for step in steps]
        elif sides[0] * sides[1] < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (width * height))
            sides = [math.ceil(side * grow / self.factor) * self.factor for side in (width, height)]
        return sides[0], sides[1]

    def picture(self, picture: Image.Image) -> Image.Image:
        return picture.resize(self.fitted(*picture.size), resample(self.interpolation))


class Pad(PictureStep):
    """To a square of the longer side, the picture in the middle, an odd pixel at right or bottom.

    Attributes:
        fill: colour of the border, 0 to 255.
    """

    kind: Literal["pad"] = "pad"
    fill: Colour = BLACK

    def window(self, width: int, height: int) -> tuple[float, float, float, float]:
        side = max(width, height)
        left, top = (side - width) // 2, (side - height) // 2
        return (-left / width, -top / height, side / width, side / height)

    def picture(self, picture: Image.Image) -> Image.Image:
        width, height = picture.size
        side = max(width, height)
        if width == height:
            return picture
        left, top = (side - width) // 2, (side - height) // 2
        return _on_canvas(picture, (side, side), (left, top), self.fill)


class CentreCrop(PictureStep):
    """The middle of the picture; one that is smaller gets a black border.

    Attributes:
        size: side of a square, or width and height, in pixels.
        rounding: the offset where half a pixel is left: `even` rounds half to even (torchvision),
            `floor` rounds down (the image processors of transformers).
    """

    kind: Literal["crop"] = "crop"
    size: Side | tuple[Side, Side]
    rounding: Rounding = "even"

    def _edges(self, width: int, height: int) -> tuple[int, int, int, int]:
        wide, high = (self.size, self.size) if isinstance(self.size, int) else self.size
        left = crop_offset(width, wide, self.rounding)
        top = crop_offset(height, high, self.rounding)
        return (left, top, left + wide, top + high)

    def window(self, width: int, height: int) -> tuple[float, float, float, float]:
        left, top, right, bottom = self._edges(width, height)
        return (left / width, top / height, (right - left) / width, (bottom - top) / height)

    def picture(self, picture: Image.Image) -> Image.Image:
        return picture.crop(self._edges(*picture.size))


class ResizeCrop(PictureStep):
    """The shorter side to a length, the aspect kept, then the middle square.

    Attributes:
        size: side of the square in pixels.
        shortest_edge: length of the shorter side before the crop; `size` where not given. timm's
            `crop_pct` c is `shortest_edge = floor(size / c)`.
        interpolation: how pixels are mixed.
        rounding: see `CentreCrop`.
    """

    kind: Literal["resize_crop"] = "resize_crop"
    size: Side
    shortest_edge: Side | None = None
    interpolation: Filter = "bicubic"
    rounding: Rounding = "even"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.shortest_edge is not None and self.shortest_edge < self.size:
            raise ValueError(
                f"shortest_edge ({self.shortest_edge}) is less than size ({self.size})"
            )
        return self

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        shorter = self.shortest_edge or self.size
        if width <= height:
            return shorter, int(shorter * height / width)
        return int(shorter * width / height), shorter

    def _crop(self) -> CentreCrop:
        return CentreCrop(size=self.size, rounding=self.rounding)

    def window(self, width: int, height: int) -> tuple[float, float, float, float]:
        return self._crop().window(*self._resized(width, height))

    def picture(self, picture: Image.Image) -> Image.Image:
        width, height = picture.size
        wide, high = self._resized(width, height)
        if wide * high > MOST_PIXELS:
            return self._window_only(picture)
        return self._crop().picture(picture.resize((wide, high), resample(self.interpolation)))

    def _window_only(self, picture: Image.Image) -> Image.Image:
        """The same, but only the pixels that stay are computed: a long strip has billions."""
        left, top, w, h = self.window(*picture.size)
        width, height = picture.size
        box = (
            max(left * width, 0.0),
            max(top * height, 0.0),
            min((left + w) * width, float(width)),
            min((top + h) * height, float(height)),
        )
        return picture.resize((self.size, self.size), resample(self.interpolation), box=box)


class Letterbox(ResizeCrop):
    """The letterbox of arXiv:2402.07865: the same border on both sides, then `ResizeCrop`.

    Where the sides differ by an odd number, the padded picture is one pixel short of a square and
    the crop takes what is over.

    Attributes:
        fill: colour of the border, 0 to 255.
    """

    kind: Literal["letterbox"] = "letterbox"  # type: ignore[assignment]
    fill: Colour = BLACK

    def padded(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a picture with its border."""
        x, y = _borders(width, height)
        return width + 2 * x, height + 2 * y

    def window(self, width: int, height: int) -> tuple[float, float, float, float]:
        x, y = _borders(width, height)
        wide, high = width + 2 * x, height + 2 * y
        left, top, w, h = super().window(wide, high)
        # The crop is in fractions of the padded picture; the border moves and scales it back.
        return (
            (left * wide - x) / width,
            (top * high - y) / height,
            w * wide / width,
            h * high / height,
        )

    def picture(self, picture: Image.Image) -> Image.Image:
        width, height = picture.size
        x, y = _borders(width, height)
        if x or y:
            picture = _on_canvas(picture, (width + 2 * x, height + 2 * y), (x, y), self.fill)
        return super().picture(picture)


def _on_canvas(
    picture: Image.Image, size: tuple[int, int], at: tuple[int, int], fill: Colour
) -> Image.Image:
    """The picture on a coloured canvas.

    Raises:
        MediaError: the canvas would have more than `MOST_PIXELS` pixels.
    """
    if size[0] * size[1] > MOST_PIXELS:
        raise MediaError(
            f"a picture of {picture.width} x {picture.height} pixels is too long to be padded",
            hint="crop it, or make it smaller",
        )
    canvas = Image.new("RGB", size, fill)
    canvas.paste(picture, at)
    return canvas


def _borders(width: int, height: int) -> tuple[int, int]:
    side = max(width, height)
    return (side - width) // 2, (side - height) // 2


def crop_offset(length: int, wanted: int, rounding: Rounding) -> int:
    """Where a centred window of `wanted` pixels begins on a side; negative if it is longer."""
    over = length - wanted
    if over < 0:
        return -(-over // 2)
    return round(over / 2) if rounding == "even" else over // 2
