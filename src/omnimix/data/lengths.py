"""How long records are, in tokens of a recipe: an index for a dataset, worked out once and kept by content.

A record is measured by weaving it, so that the template, cut text and coordinates count as in training. A picture is
not decoded for that: how many tiles it makes depends on its size, which its header says.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from omnimix import cache
from omnimix.compose.sequence import Item
from omnimix.compose.weave import Weaver
from omnimix.data.base import Source
from omnimix.data.mixture import same
from omnimix.data.packing import Size
from omnimix.errors import OmnimixError
from omnimix.media.image import ImageOpener
from omnimix.types import Media, Sample

BLOCK = 256
"""Records that a worker measures at a time."""

KEPT = 1 << 30
"""Bytes of all indices together; those written longest ago go first."""

TELL = 10.0
"""Seconds between two words of how far it is."""

UNREAD = Size(1, 0)
"""Of a record that cannot be read: it takes next to nothing, and is left out and named when it is read."""


class LengthMeasure:
    """Measures records of one recipe.

    Args:
        max_length: the stage's own word; else each dataset's counts.
    """

    def __init__(self, weaver: Weaver, max_length: int | None) -> None:
        self.weaver = weaver
        self.max_length = max_length
        self.known: dict[tuple[str, tuple[int, int]], Item] = {}

    def __call__(self, sample: Sample, source: Source) -> Size:
        """What a record takes once it is woven, a rejected answer's conversation included.

        Raises:
            OmnimixError: one that cannot be woven.
        """
        size = self._size(sample, source)
        if sample.rejected is None:
            return size
        other = self._size(replace(sample, turns=sample.rejected), source)
        return Size(size.tokens + other.tokens, size.items + other.items)

    def _size(self, sample: Sample, source: Source) -> Size:
        prepared: dict[Media, Item] = {}
        for media in sample.media():
            name = self.weaver.recipe.modality_for(media.kind)
            if name is not None and (stub := self._stub(name, media)) is not None:
                prepared[media] = stub
        most = source.max_length if self.max_length is None else self.max_length
        woven = self.weaver(
            sample, max_length=most, target=False, cuts_items=source.cuts_items, prepared=prepared
        )
        return Size(len(woven), sum(map(len, woven.items.values())))

    def _stub(self, name: str, media: Media) -> Item | None:
        """An item of the same size without its pixels; None for what has to be opened to be measured."""
        opener = self.weaver.recipe.modalities[name].opens
        if type(opener) is not ImageOpener:
            return None
        size = _size_of(media, opener)
        if size is None:
            return None
        if (name, size) not in self.known:
            if len(self.known) > 1 << 14:
                self.known.clear()
            item = self.weaver.prepare(name, Media.image(Image.new("RGB", size)))
            bare = tuple(torch.empty_like(tensor, device="meta") for tensor in item.inputs)
            self.known[name, size] = Item(bare, item.tokens, item.size, item.frame, item.grid)
        return self.known[name, size]


def _size_of(media: Media, opener: ImageOpener) -> tuple[int, int] | None:
    """Width and height of a picture as it is opened, by its header; None where that does not say."""
    data = media.data
    try:
        if isinstance(data, str | Path | bytes):
            with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as picture:
                return _upright(picture, opener)
        return _upright(data, opener) if isinstance(data, Image.Image) else None
    except Exception:  # opening it in earnest says what is wrong
        return None


def _upright(picture: Image.Image, opener: ImageOpener) -> tuple[int, int]:
    width, height = picture.size
    turned = opener.rotate and picture.getexif().get(0x0112, 1) >= 5
    return (height, width) if turned else (width, height)


class _Blocks(Dataset[np.ndarray]):
    def __init__(self, source: Source, measure: LengthMeasure) -> None:
        self.source = source
        self.measure = measure

    def __len__(self) -> int:
        return -(-(self.source.length or 0) // BLOCK)

    def __getitem__(self, block: int) -> np.ndarray:
        last = min((block + 1) * BLOCK, self.source.length or 0)
        rows = [self._size(index) for index in range(block * BLOCK, last)]
        return np.array(rows, dtype=np.int32).reshape(-1, 2)

    def _size(self, index: int) -> Size:
        try:
            return self.measure(self.source[index], self.source.source(index))
        except OmnimixError:
            return UNREAD


def index(
    source: Source,
    measure: LengthMeasure,
    key: str | None,
    workers: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> np.ndarray:
    """Tokens and items of every record `[records, 2]`.

    Args:
        source: one with an end.
        key: it is kept under; None keeps nothing.
        workers: processes that measure.
        tell: hears how far it is.
    """
    if key is None:
        return _measured(source, measure, workers, tell)
    place = cache.folder("lengths") / f"{key}.npy"
    with cache.alone(place):
        try:
            found: np.ndarray = np.load(place, mmap_mode="r")
            if found.shape == (source.length, 2):
                return found
        except (OSError, ValueError):
            pass  # not there, or not whole
        found = _measured(source, measure, workers, tell)
        content = io.BytesIO()
        np.save(content, found)
        cache.write(place, content.getvalue())
        cache.prune(place.parent, KEPT)
    return found


def _measured(
    source: Source, measure: LengthMeasure, workers: int, tell: Callable[[str], None]
) -> np.ndarray:
    blocks = _Blocks(source, measure)
    # Starting processes takes longer than a few blocks do.
    workers = min(workers, len(blocks) // 2)
    parts: list[np.ndarray] = []
    told = time.monotonic()
    for part in DataLoader(blocks, batch_size=None, num_workers=workers, collate_fn=same):
        parts.append(np.asarray(part))
        if time.monotonic() - told > TELL:
            told = time.monotonic()
            tell(f"measuring records: {len(parts) * BLOCK:,} of {source.length:,}")
    return np.concatenate(parts)


def key_of(words: Any, source: Source, weaver: Weaver, max_length: int | None) -> str | None:
    """What an index is known by: the dataset's words, its files, and the recipe; None where no files are known.

    Args:
        words: of the dataset, as in a training file.
    """
    files = source.files()
    if files is None:
        return None
    stamps: Sequence[Any] = [cache.stamp(file) for file in files]
    # The number goes up where records are measured otherwise than before.
    return cache.digest(version("omnimix"), 2, words, stamps, fingerprint(weaver), max_length)


@lru_cache(maxsize=4)
def fingerprint(weaver: Weaver) -> str:
    """What a recipe makes of a record: its words, and the tokenizer's files."""
    with TemporaryDirectory() as folder:
        name = weaver.tokenizer.save(Path(folder))
        content = (Path(folder) / name).read_bytes()
    return cache.digest(
        weaver.recipe.dump(defaults=True), content, weaver.tokens_per_tile, weaver.context
    )
