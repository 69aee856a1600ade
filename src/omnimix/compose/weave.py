"""Weave: a conversation becomes token ids with holes of exactly the right size (CPU, in workers)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence as Many
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnimix.compose.modality import ModalitySpec
from omnimix.compose.pointing import point, which
from omnimix.compose.recipe import Recipe
from omnimix.compose.sequence import IGNORE, Item, Sequence, cut_items, cut_text, keep_end
from omnimix.errors import ContextError, OmnimixError, SampleError
from omnimix.language.tokenizer import Tokenizer
from omnimix.media.files import Place, looking_in
from omnimix.media.opening import MediaOpener
from omnimix.media.region import FILLER, RegionOpener
from omnimix.media.tiles import Frame, Tiles, View
from omnimix.prompts.template import Break, Hole, Piece, Text, Token
from omnimix.types import Media, Region, Sample, check_region


class Weaver:
    """Turns samples of one recipe into sequences. Picklable; holds no weights.

    Args:
        recipe: template, modalities and coordinates.
        tokenizer: of the language model.
        tokens_per_tile: for each modality, from the built (or meta-built) model.
        context: most tokens of a sequence.
        folders: where files lie that steps name.
    """

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Tokenizer,
        tokens_per_tile: Mapping[str, int],
        context: int | None = None,
        folders: Many[Place] = (),
    ) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.tokens_per_tile = dict(tokens_per_tile)
        self.context = context
        self.folders = tuple(folders)
        self.owner = {name: k for k, name in enumerate(recipe.modalities, start=1)}

    def __call__(
        self,
        sample: Sample,
        open_answer: bool = False,
        room: int = 0,
        cut: int | None = None,
        target: bool = True,
        keep: int | None = None,
        pointing: str | None = None,
        cuts_items: bool = False,
    ) -> Sequence:
        """Weave one sample.

        Args:
            sample: the conversation.
            open_answer: end where the model shall write; no target is needed then.
            room: tokens to keep free for the answer.
            cut: most text tokens; text behind them is dropped, as some published trainers do. Without
                it nothing is ever cut.
            target: refuse a finished conversation without a token to learn.
            keep: most text tokens; those in front are dropped, as SPHINX does with a prompt that is too
                long. Items stay behind the first token that is left.
            pointing: how regions reach the model: `tokens`, `text` or `marks`; None as the recipe has it.
            cuts_items: count each item as one token where text is cut, and cut items too; else items do not
                count, and one that would be cut is refused.

        Raises:
            SampleError: no target, an item without a place, more items than places.
            ContextError: longer than the context; says by how much.
            MediaError, RegionError: an item that cannot be used.
        """
        with _named(sample):
            weaving = _Weaving(self, sample, {}, pointing)
            return weaving.run(open_answer, room, cut, target, keep, cuts_items)

    def rounds(self, samples: Many[Sample]) -> list[Sequence]:
        """Weave several samples that may hold the same media, each of which is prepared once."""
        opened: dict[int, Item] = {}
        woven = []
        for sample in samples:
            with _named(sample):
                woven.append(_Weaving(self, sample, opened).run())
        return woven

    def many(
        self, samples: Many[Sample], threads: int | None = None, **words: Any
    ) -> list[Sequence]:
        """Weave several samples; their items are opened and prepared side by side.

        Decoders and steps work outside of Python's lock, so threads help where there are cores.

        Args:
            samples: the conversations.
            threads: how many; None takes one a core, at most 8.
            words: as for a single sample.

        Raises:
            OmnimixError: as for a single sample; of the first one in order that cannot be woven.
        """
        opened = self._prepared(samples, threads or min(8, os.cpu_count() or 1))
        woven = []
        for sample in samples:
            with _named(sample):
                pointing = words.get("pointing")
                rest = {name: word for name, word in words.items() if name != "pointing"}
                woven.append(_Weaving(self, sample, opened, pointing).run(**rest))
        return woven

    def _prepared(self, samples: Many[Sample], threads: int) -> dict[int, Item]:
        """Items by the identity of their media; what cannot be prepared is left for weaving to refuse."""
        wanted: dict[int, tuple[str, Media]] = {}
        for sample in samples:
            for media in sample.media():
                name = self.recipe.modality_for(media.kind)
                if name and isinstance(self.recipe.modalities[name].opens, MediaOpener):
                    wanted[id(media)] = (name, media)
        if threads < 2 or len(wanted) < 2:
            return {}

        def one(name: str, media: Media) -> Item | None:
            try:
                return self.prepare(name, media)
            except OmnimixError:
                return None

        with ThreadPoolExecutor(threads) as pool:
            found = pool.map(lambda pair: one(*pair), wanted.values())
            return {key: item for key, item in zip(wanted, found, strict=True) if item is not None}

    def prepare(self, name: str, media: Media) -> Item:
        """One item of a modality, opened and prepared."""
        with looking_in(self.folders):
            return prepare(self.recipe.modalities[name], media, self.tokens_per_tile[name])


@contextmanager
def _named(sample: Sample) -> Iterator[None]:
    """Errors say which sample they are about."""
    try:
        yield
    except OmnimixError as error:
        if error.where and error.where.startswith(sample.id):
            raise
        raise error.at(sample.id) from None


class _Weaving:
    """The state of weaving one sample.

    `opened` holds the items that are prepared already, by the identity of their media.
    """

    def __init__(
        self,
        weaver: Weaver,
        sample: Sample,
        opened: dict[int, Item],
        pointing: str | None = None,
    ) -> None:
        self.weaver = weaver
        self.opened = opened
        self.recipe = weaver.recipe
        pointed = point(self.recipe, sample, pointing)
        self.sample = pointed.sample
        self.asked = pointed.asked
        self.way = pointed.way
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.owner: list[int] = []
        self.items: dict[str, list[Item]] = {}
        self.pictures: list[View] = []
        self.picture_items: list[tuple[str, int]] = []
        self.grouped: dict[str, list[Media]] = {}
        self.pending: list[Text] = []
        self.begun = False  # whether text or an inline item stands in the sequence already

    def run(
        self,
        open_answer: bool = False,
        room: int = 0,
        cut: int | None = None,
        target: bool = True,
        keep: int | None = None,
        cuts_items: bool = False,
    ) -> Sequence:
        pieces = self.recipe.template.pieces(self.sample, open_answer, self._apart)
        holes = [piece for piece in pieces if isinstance(piece, Hole)]
        starters, inline = self._split(holes)
        front = self._front([hole for hole in starters if self._place(hole) == "second"])
        starters = [hole for hole in starters if self._place(hole) != "second"]
        started = False
        # Neighbours that are written as text are written together: some conventions put them in one bracket.
        for written, group in groupby(pieces, lambda piece: self._written(piece, inline)):
            for piece in group if written is None else [tuple(group)]:
                if not started and not (isinstance(piece, Token) and piece.name == "bos"):
                    self._start(starters)
                    started = True
                if isinstance(piece, tuple):
                    self._write([hole for hole in piece if isinstance(hole, Hole)])
                else:
                    self._piece(piece, inline)
        self._flush()
        if cut is not None and not cuts_items:
            short = cut_text(self._sequence(), cut)
            self.ids, self.labels, self.owner = (
                part.tolist() for part in (short.ids, short.labels, short.owner)
            )
        self._insert(front)
        sequence = self._sequence()
        if cut is not None and cuts_items:
            sequence = cut_items(sequence, cut, tuple(self.recipe.modalities))
        if keep is not None:
            sequence = keep_end(sequence, keep)
        self._check(sequence, open_answer or not target, room)
        return sequence

    def _sequence(self) -> Sequence:
        return Sequence(
            np.asarray(self.ids, dtype=np.int64),
            np.asarray(self.labels, dtype=np.int64),
            np.asarray(self.owner, dtype=np.int64),
            self.items,
            self.sample.id,
            tuple(self.pictures),
            self.asked,
            self.way,
        )

    def _modality(self, media: Media) -> str | None:
        """The modality that an item is for; None for a region that is written as text."""
        if media.kind == "region" and self.way != "tokens":
            return None
        return self.recipe.modality_for(media.kind)

    def _place(self, hole: Hole) -> str:
        name = self._modality(hole.media)
        return self.recipe.modalities[name].place if name is not None else "inline"

    def _apart(self, media: Media) -> bool:
        """Whether an item stands elsewhere than in its turn's text, whose words are then joined."""
        return self._place(Hole(media)) == "second"

    def _front(self, holes: list[Hole]) -> tuple[list[int], list[int], list[int]]:
        """The holes that stand behind the first token, woven before the text since text may point at them."""
        self._start(holes)
        front = (self.ids, self.labels, self.owner)
        self.ids, self.labels, self.owner = [], [], []
        return front

    def _insert(self, front: tuple[list[int], list[int], list[int]]) -> None:
        """Put them there; the first token is then predicted from nothing and has no label."""
        if not front[0]:
            return
        self.labels[:1] = [IGNORE]
        for own, block in zip((self.ids, self.labels, self.owner), front, strict=True):
            own[1:1] = block

    def _split(self, holes: list[Hole]) -> tuple[list[Hole], set[int]]:
        """Holes whose items stand at the start, and (by identity) those that stand inline."""
        starters: list[Hole] = []
        inline: set[int] = set()
        counts: dict[str, int] = {}
        for hole in holes:
            name = self._modality(hole.media)
            if hole.answer and hole.media.kind != "region":
                raise SampleError(
                    f"an answer holds an item of kind {hole.media.kind!r}",
                    hint="only regions can stand in an answer, as coordinates",
                )
            if hole.answer or (name is None and hole.media.kind == "region"):
                inline.add(id(hole))
                continue
            if name is None:
                known = ", ".join(
                    sorted({k for m in self.recipe.modalities.values() for k in m.opens.takes()})
                )
                raise SampleError(
                    f"the recipe {self.recipe.name!r} has no place for an item of kind "
                    f"{hole.media.kind!r}",
                    hint=f"it takes {known or 'text only'}",
                )
            counts[name] = counts.get(name, 0) + 1
            spec = self.recipe.modalities[name]
            limit = spec.slots if spec.slots is not None else spec.limit
            if limit is not None and counts[name] > limit:
                total = sum(
                    1 for other in holes if not other.answer and self._modality(other.media) == name
                )
                raise SampleError(
                    f"{total} items of {name!r}, but the recipe {self.recipe.name!r} has places "
                    f"for {limit}",
                    hint="send fewer at once",
                )
            if spec.place != "inline" or spec.slots is not None:
                starters.append(hole)
            else:
                inline.add(id(hole))
        order = list(self.recipe.modalities)
        starters.sort(key=lambda h: order.index(self._modality(h.media) or ""))
        return starters, inline

    def _start(self, starters: list[Hole]) -> None:
        for hole in starters:
            name = self._modality(hole.media)
            assert name is not None
            if self.recipe.modalities[name].slots is not None:
                self.grouped.setdefault(name, []).append(hole.media)
            else:
                self._item(name, hole.media)
        for name, group in self.grouped.items():
            self._regions(name, group)

    def _piece(self, piece: Piece, inline: set[int]) -> None:
        if isinstance(piece, Break):
            self._flush()
        elif isinstance(piece, Text):
            self.pending.append(piece)
            if self.recipe.template.tokenize == "pieces":
                self._flush()
        elif isinstance(piece, Token):
            self._flush()
            found = getattr(self.weaver.tokenizer, piece.name)
            if found is not None:
                self._put([found], piece.learned)
        elif id(piece) in inline:
            name = self._modality(piece.media)
            assert name is not None
            self._flush()
            self._item(name, piece.media)
            self.begun = True

    def _written(self, piece: Piece, inline: set[int]) -> tuple[bool, int | None] | None:
        """For a region that is written as text, what its neighbours must share with it; else None."""
        if not isinstance(piece, Hole) or id(piece) not in inline:
            return None
        as_text = piece.answer or self._modality(piece.media) is None
        return (piece.answer, piece.media.on) if as_text else None

    def _write(self, holes: list[Hole]) -> None:
        """Regions on one picture as text, in the recipe's convention."""
        first = holes[0]
        view = self.pictures[self._index(first.media)]
        regions: list[Region] = [hole.media.data for hole in holes]
        for region in regions:
            check_region(region, *view.size)
        text = self.recipe.coordinates.write(regions, view, labels=first.answer)
        self._piece(Text(text, first.answer), set())

    def _flush(self) -> None:
        """Tokenize the pending stretches as one text; a token belongs to the stretch it starts in."""
        text = "".join(stretch.text for stretch in self.pending)
        if text:
            learned = np.concatenate(
                [np.full(len(stretch.text), stretch.learned) for stretch in self.pending]
            )
            ends = list(accumulate(len(stretch.text) for stretch in self.pending))
            typed = [
                (end - len(stretch.text), end)
                for stretch, end in zip(self.pending, ends, strict=True)
                if stretch.typed
            ]
            ids, starts = self.weaver.tokenizer.encode(text, self.begun, typed)
            self.begun = True
            marks = learned[np.minimum(np.asarray(starts, dtype=int), len(text) - 1)]
            self.ids += ids
            never = self.recipe.template.unlearned
            self.labels += [
                i if mark and i not in never else IGNORE for i, mark in zip(ids, marks, strict=True)
            ]
            self.owner += [0] * len(ids)
        self.pending = []

    def _put(self, ids: list[int], learned: bool) -> None:
        self.ids += ids
        self.labels += ids if learned else [IGNORE] * len(ids)
        self.owner += [0] * len(ids)

    def _hole(self, name: str, item: Item) -> None:
        self.items.setdefault(name, []).append(item)
        self.ids += [self.weaver.tokenizer.pad] * item.tokens
        self.labels += [IGNORE] * item.tokens
        self.owner += [self.weaver.owner[name]] * item.tokens

    def _item(self, name: str, media: Media) -> None:
        if media.kind == "region" or self.recipe.modalities[name].media == "region":
            self._regions(name, [media])
            return
        spec = self.recipe.modalities[name]
        if id(media) not in self.opened:
            self.opened[id(media)] = self.weaver.prepare(name, media)
        item = self.opened[id(media)]
        if spec.media == "image":
            self.picture_items.append((name, len(self.items.get(name, []))))
            self.pictures.append(item.view())
        self._hole(name, item)

    def _regions(self, name: str, group: list[Media]) -> None:
        """One tile of regions: a single one, or all of a sample where the modality has slots."""
        spec = self.recipe.modalities[name]
        assert isinstance(spec.opens, RegionOpener)
        rows = []
        for media in group:
            size, frame = self._picture(media)
            region = spec.opens.open(media, size)
            rows.append(spec.opens.encode(region, frame, size))
        for _ in range((spec.slots or 1) - len(rows)):
            rows.append(FILLER)
        size, frame = self._picture(group[0])
        source = spec.source()
        on = -1
        if source is not None:
            owner, on = self.picture_items[self._index(group[0])]
            if owner != source:
                raise SampleError(f"the region lies on an item of {owner!r}, not of {source!r}")
        tile = torch.stack(rows)[None]
        tokens = self.weaver.tokens_per_tile[name]
        self._hole(name, Item((tile,), tokens, size, frame, on=on))

    def _index(self, media: Media) -> int:
        """Which picture a region lies on: the one it names, else the last before it."""
        return which(media, len(self.pictures))

    def _picture(self, media: Media) -> tuple[tuple[int, int], Frame]:
        view = self.pictures[self._index(media)]
        return view.size, view.frame

    def _check(self, sequence: Sequence, open_answer: bool, room: int) -> None:
        context = self.weaver.context
        if context is not None and len(sequence) + room > context:
            over = len(sequence) + room - context
            parts = ", ".join(
                f"{sum(item.tokens for item in items)} of {name}"
                for name, items in sequence.items.items()
            )
            answer = f" and {room} kept for the answer" if room else ""
            raise ContextError(
                f"{len(sequence)} tokens ({parts or 'text only'}){answer} are {over} more than "
                f"the context of {context}",
                hint="shorten the text or send fewer items; nothing was cut",
            )
        if not open_answer and sequence.targets == 0:
            raise SampleError(
                "there is no target: no token to learn",
                hint="end with an assistant turn that has text",
            )


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
        first = first or tiles
        inputs.append(tiles.tensor())
    assert first is not None
    count = int(inputs[0].shape[0])
    tokens = spec.groups(count) * tokens_per_tile
    return Item(tuple(inputs), tokens, first.size, first.frame, first.grid)
