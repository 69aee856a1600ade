"""The DejaVu fonts that matplotlib ships, opened once per size."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from omnimix.errors import OmnimixError

FONTS: tuple[str, ...] = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
)

# The height of a DejaVu capital over the font's size.
CAPITAL = 0.729


@lru_cache(maxsize=1)
def folder() -> Path:
    """Where the fonts lie; matplotlib itself is not imported, for that takes a second.

    Raises:
        OmnimixError: matplotlib or its fonts are not installed.
    """
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise OmnimixError(
            "the scenes need the DejaVu fonts that come with matplotlib, which is not installed",
            hint="pip install matplotlib",
        )
    place = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    if not (place / f"{FONTS[0]}.ttf").is_file():
        raise OmnimixError(
            "matplotlib is installed without its DejaVu fonts",
            where=str(place),
            hint="reinstall matplotlib from its wheel",
        )
    return place


# Every open font holds a file descriptor, hence the bound; sizes are even numbers for more hits.
@lru_cache(maxsize=192)
def font(name: str, points: int) -> ImageFont.FreeTypeFont:
    """One font at one size in pixels."""
    path = str(folder() / f"{name}.ttf")
    return ImageFont.truetype(path, points, layout_engine=ImageFont.Layout.BASIC)


def extent(name: str, points: int, text: str) -> tuple[int, int]:
    """Width and height of a text's ink in pixels."""
    left, top, right, bottom = font(name, points).getbbox(text)
    return round(right - left), round(bottom - top)
