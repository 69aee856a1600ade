"""Items: what a sample brings, opened and prepared in the order in which their holes come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence as Many

from torch import Tensor

from omnimix.compose.modality import ModalitySpec
from omnimix.compose.pointing import which
from omnimix.compose.sequence import Item
from omnimix.errors import SampleError
from omnimix.media.opening import MediaOpener, OverlayOpener
from omnimix.media.tiles import Tiles, View
from omnimix.types import Media


def prepare(spec: ModalitySpec, media: Media, tokens_per_tile: int) -> Item:
    """Open one item and prepare it for every encoder of its modality."""
    assert isinstance(spec.opens, MediaOpener)
    shared = spec.opens.tiles(spec.opens.open(media))
    for step in spec.steps:
        shared = step(shared)
    inputs: list[Tensor] = []
    first: Tiles | None = None
    for steps in spec.inputs()[0]:
        tiles = shared
        for step in steps:
            tiles = step(tiles)
        # Coordinates are told in the frame of the first encoder, in training and at inference alike.
        first = first or tiles
        inputs.append(tiles.tensor())
    assert first is not None
    count = int(inputs[0].shape[0])
    tokens = spec.groups(count) * tokens_per_tile
    return Item(tuple(inputs), tokens, first.size, first.frame, first.grid)


class Items:
    """The items of one sample, and its pictures as others that lie on them see them.

    Attributes:
        by_modality: in the order of their holes.
        pictures: of whatever modality, in reading order.
    """

    def __init__(
        self,
        specs: Mapping[str, ModalitySpec],
        tokens_per_tile: Mapping[str, int],
        prepared: Callable[[str, Media], Item],
    ) -> None:
        self.by_modality: dict[str, list[Item]] = {}
        self.pictures: list[View] = []
        self._specs = specs
        self._tokens_per_tile = tokens_per_tile
        self._prepared = prepared
        self._homes: list[
            tuple[str, int]
        ] = []  # of each picture: its modality and its number there

    def add(self, name: str, group: Many[Media]) -> Item:
        """The next item of a modality: one thing, or several that lie on pictures and share a tile."""
        spec = self._specs[name]
        own = self.by_modality.setdefault(name, [])
        if isinstance(spec.opens, OverlayOpener):
            item = self._overlay(name, spec, spec.opens, group)
        else:
            (media,) = group
            item = self._prepared(name, media)
            if spec.media == "image":
                self._homes.append((name, len(own)))
                self.pictures.append(item.view())
        own.append(item)
        return item

    def under(self, media: Media) -> View:
        """The picture that something lies on: the one it names, else the last before it.

        Raises:
            SampleError: that one did not come.
        """
        return self.pictures[which(media, len(self.pictures))]

    def _overlay(
        self, name: str, spec: ModalitySpec, opens: OverlayOpener, group: Many[Media]
    ) -> Item:
        tile = opens.tile(group, [self.under(media) for media in group], spec.slots or 1)
        view = self.under(group[0])
        source = spec.source()
        on = -1
        if source is not None:
            # Its encoder reads that picture's feature map, so they must come out of the same encoder.
            home, on = self._homes[which(group[0], len(self.pictures))]
            if home != source:
                raise SampleError(f"the region lies on an item of {home!r}, not of {source!r}")
        return Item((tile,), self._tokens_per_tile[name], view.size, view.frame, on=on)
