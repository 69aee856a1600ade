"""Regions at the terminal: read from options and commands, and shown in words and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from omnimix.cli.guard import numbers
from omnimix.errors import OmnimixError
from omnimix.regions import from_json
from omnimix.types import Box, Point, Region


def box(text: str, what: str = "--box") -> Box:
    """A box of four numbers."""
    return Box(*numbers(text, 4, what))


def point(text: str, what: str = "--point") -> Point:
    """A point of two numbers."""
    return Point(*numbers(text, 2, what))


def regions_from(
    boxes: Iterable[str] | None, points: Iterable[str] | None, others: Iterable[str] | None
) -> list[Region]:
    """The regions of the options `--box`, `--point` and `--region`.

    Raises:
        OmnimixError: the first that is none.
    """
    further = [one for text in others or () for one in regions_of(text)]
    return [*map(box, boxes or ()), *map(point, points or ()), *further]


def regions_of(word: str) -> list[Region]:
    """The regions of `--region`: one as JSON, or those of a JSON file (one, or a list).

    Raises:
        OmnimixError: no such file, or no region; names the first that is wrong.
    """
    if not word.lower().endswith(".json"):
        return [from_json(word, "--region", files=True)]
    try:
        data = json.loads(Path(word).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "this is no JSON"
        raise OmnimixError(
            f"cannot read the regions ({reason})", where=word, hint="check the file"
        ) from None
    many = data if isinstance(data, list) else [data]
    return [
        from_json(one, f"{word}, region {i}", files=True) for i, one in enumerate(many, start=1)
    ]


def described(region: Region) -> str:
    """A region in words for the terminal."""
    x1, y1, x2, y2 = region.bounds()
    name = f" ({region.label})" if region.label else ""
    if isinstance(region, Point):
        return f"point {x1:.0f}, {y1:.0f}{name}"
    return f"{type(region).__name__.lower()} {x1:.0f}, {y1:.0f} to {x2:.0f}, {y2:.0f}{name}"
