"""Steps on the pixel tensor `[tiles, 3, height, width]`: normalising, viewing, resizing.

They run in a worker or on the device, wherever the tensor lies, and keep its floating dtype.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, TypeAlias

import torch
import torch.nn.functional as F
from annotated_types import Gt
from jaxtyping import Float, Shaped
from torch import Tensor

from omnimix.errors import RecipeError
from omnimix.media.steps import Side
from omnimix.media.tiles import TensorStep, Tiles

Positive: TypeAlias = Annotated[float, Gt(0)]
Mean: TypeAlias = tuple[float, float, float]
Std: TypeAlias = tuple[Positive, Positive, Positive]


def _per_channel(values: tuple[float, float, float], like: Tensor) -> Float[Tensor, "1 3 1 1"]:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, 3, 1, 1)


def _need_float(pixels: Tensor, word: str) -> None:
    if not pixels.is_floating_point():
        raise RecipeError(f"{word} got whole numbers", hint="put the step normalize before it")


class Normalize(TensorStep):
    """uint8 to float32 in 0..1, then minus mean over standard deviation, per channel.

    A floating tensor is taken to be in 0..1 already. Clips `[tiles, frames, 3, h, w]` are taken as well.

    Attributes:
        mean: for red, green and blue, of values in 0..1.
        std: standard deviation for red, green and blue, of values in 0..1.
    """

    kind: Literal["normalize"] = "normalize"
    mean: Mean
    std: Std

    def on_tensor(self, pixels: Shaped[Tensor, "*tiles 3 h w"]) -> Float[Tensor, "*tiles 3 h w"]:
        if not pixels.is_floating_point():
            pixels = pixels.to(torch.float32).div_(255)
        return (pixels - _per_channel(self.mean, pixels)).div_(_per_channel(self.std, pixels))


class Renormalize(TensorStep):
    """From one mean and standard deviation to another, for an encoder that shares its input.

    Attributes:
        from_mean, from_std: what the tiles were normalized with, for red, green and blue.
        mean, std: what they are normalized with afterwards.
    """

    kind: Literal["renormalize"] = "renormalize"
    from_mean: Mean
    from_std: Std
    mean: Mean
    std: Std

    def on_tensor(self, pixels: Shaped[Tensor, "tiles 3 h w"]) -> Float[Tensor, "tiles 3 h w"]:
        _need_float(pixels, "renormalize")
        plain = pixels * _per_channel(self.from_std, pixels)
        plain = plain + _per_channel(self.from_mean, pixels) - _per_channel(self.mean, pixels)
        return plain / _per_channel(self.std, pixels)


def _resize(pixels: Tensor, size: tuple[int, int], mode: str, half: bool) -> Tensor:
    """Resize without antialiasing; with `half`, input and output are rounded to float16.

    The arithmetic is float32 even then: so computes the reference on the CPU, and so it is equal on
    every device.
    """
    dtype = pixels.dtype
    source = (pixels.half() if half else pixels).float()
    corners = None if mode == "nearest" else False
    resized = F.interpolate(source, size=size, mode=mode, align_corners=corners, antialias=False)
    return (resized.half() if half else resized).to(dtype)


class Quadrants(TensorStep):
    """Views of a square: a thumbnail, then the square cut into `per_side` x `per_side`, row by row.

    The thumbnail is bicubic without antialiasing on float16-rounded values (mixed
    scales and sub-images of arXiv 2311.07575). Several tiles are expanded one after the other, each with its own thumbnail.

    Attributes:
        size: side of every view in pixels; the input has `per_side` times that.
        per_side: cuts along a side: 2 gives five views, 3 gives ten.
    """

    kind: Literal["quadrants"] = "quadrants"
    size: Side = 224
    per_side: Side = 2

    def on_tensor(
        self, pixels: Shaped[Tensor, "tiles 3 h w"]
    ) -> Float[Tensor, "views 3 size size"]:
        """Raises RecipeError where the tiles are not `per_side * size` square or not floating."""
        _need_float(pixels, "quadrants")
        side, n = self.size, self.per_side
        if tuple(pixels.shape[-2:]) != (n * side, n * side):
            raise RecipeError(
                f"quadrants got {pixels.shape[-1]} x {pixels.shape[-2]} pixels, "
                f"it cuts {n * side} x {n * side}",
                hint=f"pad and resize to {n * side} before it",
            )
        thumbnail = _resize(pixels, (side, side), "bicubic", half=True)[:, None]
        cut = pixels.reshape(-1, 3, n, side, n, side)
        crops = cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        return torch.cat([thumbnail, crops], dim=1).flatten(0, 1)

    def __call__(self, tiles: Tiles) -> Tiles:
        """The thumbnail shows the whole tile, so the frame stays.

        Raises:
            RecipeError: the item is in several tiles already.
        """
        pixels = tiles.tensor()
        if pixels.shape[0] != 1:
            raise RecipeError(
                f"quadrants got {pixels.shape[0]} tiles, it starts from one",
                hint="use one tiling step",
            )
        grid = (self.per_side, self.per_side)
        return replace(tiles.with_pixels(self.on_tensor(pixels)), grid=grid)


class TensorResize(TensorStep):
    """Resize of the tensor to a square, without antialiasing.

    Attributes:
        size: side in pixels.
        mode: `nearest` or `bicubic`.
        half: round input and output to float16, as models do that resized half-precision pictures.
    """

    kind: Literal["tensor_resize"] = "tensor_resize"
    size: Side
    mode: Literal["nearest", "bicubic"] = "bicubic"
    half: bool = False

    def on_tensor(
        self, pixels: Shaped[Tensor, "tiles 3 h w"]
    ) -> Float[Tensor, "tiles 3 size size"]:
        _need_float(pixels, "tensor_resize")
        return _resize(pixels, (self.size, self.size), self.mode, self.half)
