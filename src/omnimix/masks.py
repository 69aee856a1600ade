"""Masks as numbers: run lengths, PNG, and the pixels under an outline or a stroke.

Run lengths are COCO's: pixels are read column by column, the first run counts unset pixels, and the
compressed form writes each run (from the third on as the difference to the run two before it) in groups
of five bits, low group first, each as one printable character (48 + group, bit 5 says that more follow).
Written here rather than taken from pycocotools, since that gives uninitialised memory for damaged strings.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from omnimix.errors import RegionError

MOST_PIXELS = 64_000_000
"""The largest mask that is made of outside data."""

MOST_BYTES = 64 * 1024 * 1024


def runs(pixels: Bool[np.ndarray, "height width"]) -> list[int]:
    """Lengths of unset and set runs in turn, column by column; the first one may be 0."""
    flat = np.concatenate([[False], pixels.ravel(order="F"), [False]])
    turns = np.flatnonzero(flat[1:] != flat[:-1])
    size = pixels.size
    ends = turns[turns < size]
    edges = np.concatenate([[0], ends, [size]])
    return [int(length) for length in np.diff(edges)]


def from_runs(
    lengths: Sequence[Any], height: int, width: int, where: str | None = None
) -> Bool[np.ndarray, "height width"]:
    """The mask of such runs.

    Raises:
        RegionError: too large, or the runs do not fill the mask exactly.
    """
    check_size(width, height, where)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in lengths)
    if not whole or sum(lengths) != height * width:
        raise RegionError(
            f"the runs of the mask do not add up to its {width} x {height} pixels",
            where=where,
            hint="size is [height, width], counts are whole numbers of pixels, column by column",
        )
    values = np.arange(len(lengths)) % 2 == 1
    flat = np.repeat(values, np.asarray(lengths, dtype=np.int64))
    return flat.reshape((height, width), order="F")


def packed(lengths: Sequence[int]) -> str:
    """Runs as COCO's compressed string."""
    text: list[str] = []
    for i, length in enumerate(lengths):
        rest = length - lengths[i - 2] if i > 2 else length
        while True:
            group, rest = rest & 31, rest >> 5
            # A group's highest bit is its sign, so the end is where nothing but that sign is left.
            done = rest == (-1 if group & 16 else 0)
            text.append(chr(48 + (group if done else group | 32)))
            if done:
                break
    return "".join(text)


def unpacked(text: str, where: str | None = None) -> list[int]:
    """Runs of COCO's compressed string.

    Raises:
        RegionError: a character or an ending that no such string has.
    """
    lengths: list[int] = []
    value, shift = 0, 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 40:
            raise _broken(where)
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value, shift = 0, 0
    if shift or not lengths:
        raise _broken(where)
    return lengths


def _broken(where: str | None) -> RegionError:
    return RegionError(
        "the counts of the mask are no run lengths of COCO",
        where=where,
        hint="give a list of whole numbers, or the string that COCO's tools write",
    )


def to_png(pixels: Bool[np.ndarray, "height width"]) -> bytes:
    """Black and white, one bit for each pixel."""
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8) * 255).convert("1").save(file, "PNG")
    return file.getvalue()


def from_png(content: bytes, where: str | None = None) -> Bool[np.ndarray, "height width"]:
    """A mask from a PNG: what is opaque where it has transparency, else what is brighter than half.

    Raises:
        RegionError: no PNG, damaged, or too large.
    """
    if len(content) > MOST_BYTES:
        raise RegionError(
            f"the mask's file has more than {MOST_BYTES} bytes", where=where, hint="make it smaller"
        )
    try:
        picture = Image.open(io.BytesIO(content), formats=("PNG",))
    except Exception:
        raise RegionError(
            "this is no PNG that can be opened", where=where, hint="save the mask as PNG"
        ) from None
    check_size(*picture.size, where)
    try:
        if picture.has_transparency_data:
            return np.asarray(picture.convert("RGBA"))[:, :, 3] >= 128
        if picture.mode.startswith("I"):
            return np.asarray(picture).astype(np.int64) >= 32768
        return np.asarray(picture.convert("L")) >= 128
    except Exception:
        raise RegionError("the PNG is damaged", where=where, hint="export it again") from None


def check_size(width: int, height: int, where: str | None = None) -> None:
    """Refuse a mask of outside data before memory is taken for it."""
    if width < 1 or height < 1 or width * height > MOST_PIXELS:
        raise RegionError(
            f"a mask of {width} x {height} pixels is not taken",
            where=where,
            hint=f"masks have 1 to {MOST_PIXELS} pixels",
        )


def filled(
    points: Sequence[tuple[float, float]], width: int, height: int
) -> Bool[np.ndarray, "height width"]:
    """Pixels whose centres lie inside a closed outline, by the even-odd rule."""
    corners = np.asarray(points, dtype=np.float64)
    return inside(corners, np.arange(width) + 0.5, np.arange(height) + 0.5)


def inside(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> Bool[np.ndarray, "rows columns"]:
    """Which places of a raster lie inside a closed outline, by the even-odd rule.

    Args:
        corners: `[n, 2]`.
        x: of the columns.
        y: of the rows.
    """
    found = np.zeros((y.size, x.size), dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crosses = (ay > y) != (by > y)
        if crosses.any():
            edge = ax + (y[crosses] - ay) * (bx - ax) / (by - ay)
            found[crosses] ^= x[None, :] < edge[:, None]
    return found


def brushed(
    points: Sequence[tuple[float, float]], thickness: float, width: int, height: int
) -> Bool[np.ndarray, "height width"]:
    """Pixels under a round brush that follows a line."""
    canvas = Image.new("1", (width, height))
    pen = ImageDraw.Draw(canvas)
    radius = max(thickness, 1.0) / 2
    pen.line(list(points), fill=1, width=max(1, round(thickness)), joint="curve")
    for x, y in points:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    return np.asarray(canvas).astype(bool)
