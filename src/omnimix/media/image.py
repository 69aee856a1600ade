"""Opening pictures: whatever a user has becomes one RGB Pillow picture, or a `MediaError`.

Limits are checked from the header, before a pixel is decoded. Nothing is ever fetched.
"""

from __future__ import annotations

import io
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Gt
from PIL import Image

from omnimix.errors import MediaError
from omnimix.media.opening import MediaOpener, name_of, read
from omnimix.media.tiles import Tiles
from omnimix.types import Media

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_TAKES = "a path, bytes, a Pillow picture or a uint8 array"
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageOpener(MediaOpener):
    """Pictures from a path, bytes, a Pillow picture or a uint8 array.

    An array is `[height, width]` or `[height, width, channels]` with 1, 3 or 4 channels.

    Attributes:
        max_pixels: most pixels a picture may have.
        max_bytes: most bytes a file may have.
        max_side: most pixels along one side.
        alpha: `drop` keeps the colours under transparent pixels, as the published models' own code
            does; `white` lays the picture on white.
        rotate: turn the picture upright as its EXIF orientation says.
    """

    kind: Literal["image"] = "image"
    max_pixels: Annotated[int, Gt(0)] = 64_000_000
    max_bytes: Annotated[int, Gt(0)] = 64 * 1024 * 1024
    max_side: Annotated[int, Gt(0)] = 32_768
    alpha: Literal["drop", "white"] = "drop"
    rotate: bool = True

    formats: ClassVar[tuple[str, ...]] = FORMATS

    def open(self, media: Media) -> Image.Image:
        """The picture, upright, mode RGB, decoded; the first frame of an animation.

        A Pillow picture that is RGB and upright already is returned as it is.

        Raises:
            MediaError: missing, broken, of another format, beyond a limit, or an address.
        """
        where = name_of(media, "picture")
        data = media.data
        if isinstance(data, np.ndarray):
            picture = _from_array(data, where)
        elif isinstance(data, Image.Image):
            picture = data
        else:
            content = read(data, "picture", where, self.max_bytes, _TAKES)
            picture = self._decode(content, where)
        self._check_size(*picture.size, where)
        try:
            picture.load()
            return self._to_rgb(self._upright(picture), where)
        except MediaError:
            raise
        # Pillow's decoders raise errors of a dozen kinds on damaged files, few of them documented.
        except Exception as error:
            raise MediaError(
                f"the picture is damaged and cannot be decoded ({_reason(error)})",
                where=where,
                hint="export it again",
            ) from error

    def tiles(self, opened: Image.Image) -> Tiles:
        return Tiles.of(opened)

    def _decode(self, content: bytes, where: str) -> Image.Image:
        """The picture behind the bytes with only its header read."""
        try:
            return Image.open(io.BytesIO(content), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise MediaError(
                f"the picture is too large to be decoded safely ({error})",
                where=where,
                hint="make it smaller",
            ) from None
        except Exception as error:
            raise MediaError(
                "this is no picture that can be opened",
                where=where,
                hint=f"the formats are {', '.join(FORMATS)}",
            ) from error

    def _check_size(self, width: int, height: int, where: str) -> None:
        if width < 1 or height < 1:
            raise MediaError("the picture has no pixels", where=where, hint="check its source")
        if max(width, height) > self.max_side or width * height > self.max_pixels:
            raise MediaError(
                f"the picture is {width} x {height} pixels; at most {self.max_pixels} in all and "
                f"{self.max_side} along a side are taken",
                where=where,
                hint="make it smaller, or raise max_pixels or max_side",
            )

    def _upright(self, picture: Image.Image) -> Image.Image:
        if not self.rotate:
            return picture
        try:
            turn = _UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
        except Exception:  # damaged metadata says nothing about the pixels
            return picture
        if turn is None:
            return picture
        picture = picture.transpose(turn)
        # The orientation is used up: left in place, a second opening would turn the picture again.
        for note in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
            picture.info.pop(note, None)
        return picture

    def _to_rgb(self, picture: Image.Image, where: str) -> Image.Image:
        if picture.mode.startswith("I"):
            picture = _from_16_bit(picture, where)
        elif picture.mode == "F":
            raise MediaError(
                "the picture holds floating point numbers, whose range is unknown",
                where=where,
                hint="convert it to 8 bit",
            )
        if self.alpha == "white" and picture.has_transparency_data:
            picture = picture.convert("RGBA")
            paper = Image.new("RGB", picture.size, (255, 255, 255))
            paper.paste(picture, mask=picture.getchannel("A"))
            return paper
        if picture.mode == "P":
            # Through RGBA, since a palette with transparency in bytes makes Pillow warn otherwise.
            picture = picture.convert("RGBA")
        return picture if picture.mode == "RGB" else picture.convert("RGB")


def _from_16_bit(picture: Image.Image, where: str) -> Image.Image:
    """0..65535 to 0..255 by scaling; Pillow's own conversion clips at 255."""
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise MediaError(
            "the picture holds whole numbers beyond 16 bit",
            where=where,
            hint="convert it to 8 bit",
        )
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _from_array(array: np.ndarray, where: str) -> Image.Image:
    if array.dtype != np.uint8:
        raise MediaError(
            f"the array holds {array.dtype}, not uint8",
            where=where,
            hint="scale it to 0..255 and convert it",
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise MediaError(
            f"an array of shape {list(array.shape)} is no picture",
            where=where,
            hint="give [height, width], [height, width, 3] or [height, width, 4]",
        )
    if not array.size:
        raise MediaError("the picture has no pixels", where=where, hint="check its source")
    return Image.fromarray(np.ascontiguousarray(array))


def _reason(error: Exception) -> str:
    return str(error)[:120] or type(error).__name__
