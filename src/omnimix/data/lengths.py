"""How long records are, in tokens of a recipe: an index for a dataset, worked out once and kept by content.

A record is measured by weaving it, so that the template, cut text and coordinates count as in training. A picture is
not decoded for that: how many tiles it makes depends on its size, which its header says.
"""

from __future__ import annotations

import io
import secrets
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

UNKNOWN = Size(-1, 0)
"""What stands for it in a kept index: it may be readable another time (a file that came back, a network's moment)."""


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
    def __init__(self, source: Source, measure: LengthMeasure, places: Sequence[int]) -> None:
        self.source = source
        self.measure = measure
        self.places = places

    def __len__(self) -> int:
        return -(-len(self.places) // BLOCK)

    def __getitem__(self, block: int) -> np.ndarray:
        places = self.places[block * BLOCK : (block + 1) * BLOCK]
        return np.array([self._size(index) for index in places], dtype=np.int32).reshape(-1, 2)

    def _size(self, index: int) -> Size:
        try:
            return self.measure(self.source[index], self.source.source(index))
        except OmnimixError:
            return UNKNOWN


def index(
    source: Source,
    measure: LengthMeasure,
    key: str | None,
    workers: int = 0,
    tell: Callable[[str], None] = lambda _: None,
    launch: int | None = None,
) -> np.ndarray:
    """Tokens and items of every record `[records, 2]`; those that could not be measured are tried again.

    Args:
        source: one with an end.
        key: it is kept under; None keeps nothing.
        workers: processes that measure.
        tell: hears how far it is.
        launch: a number below 2**31 that all processes of one run share, so that they take the same sizes, however
            often a record comes and goes; None is of one process alone.
    """
    every = range(source.length or 0)
    if key is None:
        return _usable(_measured(source, every, measure, workers, tell))
    place = cache.folder("lengths") / f"{key}.npy"
    launch = secrets.randbelow(1 << 31) if launch is None else launch
    with cache.alone(place):
        kept = _kept(place, len(every))
        if kept is None:
            sizes = _measured(source, every, measure, workers, tell)
        else:
            sizes, (by, unknown) = kept[:-1], kept[-1].tolist()
            if not unknown:
                return sizes
            if by == launch:
                return _usable(sizes)
            tell(f"measuring again {unknown:,} records that could not be read")
            again = np.flatnonzero(sizes[:, 0] < 0)
            sizes = np.array(sizes)
            sizes[again] = _measured(source, again.tolist(), measure, workers, tell)
        # The last row says who measured, and how many were in vain.
        last = np.array([[launch, (sizes[:, 0] < 0).sum()]], dtype=np.int32)
        content = io.BytesIO()
        np.save(content, np.concatenate([sizes, last]))
        cache.write(place, content.getvalue())
        cache.prune(place.parent, KEPT)
    return _usable(sizes)


def _kept(place: Path, records: int) -> np.ndarray | None:
    try:
        found: np.ndarray = np.load(place, mmap_mode="r")
    except (OSError, ValueError):
        return None  # not there, or not whole
    return found if found.shape == (records + 1, 2) else None


def _usable(sizes: np.ndarray) -> np.ndarray:
    return np.where(sizes[:, :1] < 0, np.array(UNREAD, dtype=np.int32), sizes)


def _measured(
    source: Source,
    places: Sequence[int],
    measure: LengthMeasure,
    workers: int,
    tell: Callable[[str], None],
) -> np.ndarray:
    blocks = _Blocks(source, measure, places)
    # Starting processes takes longer than a few blocks do.
    workers = min(workers, len(blocks) // 2)
    parts: list[np.ndarray] = []
    told = time.monotonic()
    for part in DataLoader(blocks, batch_size=None, num_workers=workers, collate_fn=same):
        parts.append(np.asarray(part))
        if time.monotonic() - told > TELL:
            told = time.monotonic()
            tell(f"measuring records: {len(parts) * BLOCK:,} of {len(places):,}")
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
