"""Weave: a conversation becomes token ids with holes of exactly the right size (CPU, in workers)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence as Many
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby, takewhile
from typing import Any, Protocol

import numpy as np

from omnimix.compose.items import Items, prepare
from omnimix.compose.places import Places, Spot
from omnimix.compose.pointing import Pointed, point, written
from omnimix.compose.recipe import Recipe
from omnimix.compose.sequence import Item, Sequence, behind_first, cut_items, cut_text, keep_end
from omnimix.compose.strip import Strip
from omnimix.errors import ContextError, OmnimixError, SampleError
from omnimix.language.tokenizer import Tokenizer
from omnimix.media.files import Place, looking_in
from omnimix.media.opening import MediaOpener
from omnimix.prompts.template import Break, Hole, Piece, Text, Token
from omnimix.types import Media, Sample

_STRETCH = 1 << 15
"""Characters of a text that are tokenized at a time to measure it."""


class KeptFeatures(Protocol):
    """What was encoded before (`omnimix.compose.features`)."""

    def key(self, name: str, media: Media) -> str | None: ...

    def find(self, name: str, key: str) -> Item | None: ...


class Weaver:
    """Turns samples of one recipe into sequences. Picklable; holds no weights.

    Attributes:
        features: of items that frozen encoders have seen; None keeps none.

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
        self.features: KeptFeatures | None = None
        self.owner = {name: k for k, name in enumerate(recipe.modalities, start=1)}

    def __call__(
        self,
        sample: Sample,
        open_answer: bool = False,
        room: int = 0,
        max_length: int | None = None,
        target: bool = True,
        keep: int | None = None,
        pointing: str | None = None,
        cuts_items: bool = False,
        prepared: dict[Media, Item] | None = None,
    ) -> Sequence:
        """Weave one sample.

        Args:
            sample: the conversation.
            open_answer: end where the model shall write; no target is needed then.
            room: tokens to keep free for the answer.
            max_length: most text tokens; text behind them is dropped, as some published trainers do. Without
                it nothing is ever cut.
            target: refuse a finished conversation without a token to learn.
            keep: most text tokens; those in front are dropped, as some published models do with a prompt
                that is too long. Items stay behind the first token that is left.
            pointing: how regions reach the model: `tokens`, `text` or `marks`; None as the recipe has it.
            cuts_items: count each item as one token where text is cut, and cut items too; else items do not
                count, and one that would be cut is refused.
            prepared: items by their media, taken from here and put here.

        Raises:
            SampleError: no target, an item without a place, more items than places.
            ContextError: longer than the context; says by how much.
            MediaError, RegionError: an item that cannot be used.
        """
        with _named(sample):
            if max_length is None and keep is None:
                self._measure(sample)
            weaving = _Weaving(
                self, point(self.recipe, sample, pointing), {} if prepared is None else prepared
            )
            sequence = weaving.sequence(open_answer, None if cuts_items else max_length)
            if max_length is not None and cuts_items:
                sequence = cut_items(sequence, max_length, tuple(self.recipe.modalities))
            if keep is not None:
                sequence = keep_end(sequence, keep)
            self._check(sequence, room, target and not open_answer)
            return sequence

    def rounds(self, samples: Many[Sample]) -> list[Sequence]:
        """Weave several samples that may hold the same media, each of which is prepared once."""
        prepared: dict[Media, Item] = {}
        return [self(sample, prepared=prepared) for sample in samples]

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
        prepared = self._prepared(samples, threads or min(8, os.cpu_count() or 1))
        return [self(sample, prepared=prepared, **words) for sample in samples]

    def _prepared(self, samples: Many[Sample], threads: int) -> dict[Media, Item]:
        """Items by their media; what cannot be prepared is left for weaving to refuse."""
        wanted: dict[Media, str] = {}
        for sample in samples:
            for media in sample.media():
                name = self.recipe.modality_for(media.kind)
                if name and isinstance(self.recipe.modalities[name].opens, MediaOpener):
                    wanted[media] = name
        if threads < 2 or len(wanted) < 2:
            return {}

        def one(media: Media, name: str) -> Item | None:
            try:
                return self.prepare(name, media)
            except OmnimixError:
                # Weaving meets it again, and says it with the sample's id and in the samples' order.
                return None

        with ThreadPoolExecutor(threads) as pool:
            items = pool.map(one, wanted, wanted.values())
            return {media: item for media, item in zip(wanted, items, strict=True) if item}

    def _measure(self, sample: Sample) -> None:
        """Refuse text far beyond the context before all of it is tokenized, which takes a second a megabyte.

        A stretch at a time is tokenized until there are twice as many tokens as fit: so many more than a cut
        between two stretches can make of one.
        """
        characters = sum(len(turn.text()) for turn in sample.turns)
        if self.context is None or characters <= max(_STRETCH, 8 * self.context):
            return
        tokens = seen = 0
        for turn in sample.turns:
            text = turn.text()
            for start in range(0, len(text), _STRETCH):
                tokens += len(self.tokenizer.encode(text[start : start + _STRETCH])[0])
                seen += len(text[start : start + _STRETCH])
                if tokens > 2 * self.context:
                    raise ContextError(
                        f"the text has {characters} characters, and {tokens} tokens in the first {seen} "
                        f"of them are more than the context of {self.context}",
                        hint="shorten the text; nothing was cut",
                    )

    def _check(self, sequence: Sequence, room: int, target: bool) -> None:
        over = 0 if self.context is None else len(sequence) + room - self.context
        if over > 0:
            parts = ", ".join(
                f"{sum(item.tokens for item in items)} of {name}"
                for name, items in sequence.items.items()
            )
            answer = f" and {room} kept for the answer" if room else ""
            raise ContextError(
                f"{len(sequence)} tokens ({parts or 'text only'}){answer} are {over} more than "
                f"the context of {self.context}",
                hint="shorten the text or send fewer items; nothing was cut",
            )
        if target and sequence.targets == 0:
            raise SampleError(
                "there is no target: no token to learn",
                hint="end with an assistant turn that has text",
            )

    def prepare(self, name: str, media: Media) -> Item:
        """One item of a modality, opened and prepared; or what its encoders gave for it before."""
        key = None if self.features is None else self.features.key(name, media)
        if (
            self.features is not None
            and key is not None
            and (kept := self.features.find(name, key))
        ):
            # What was kept is of the encoders; how many places it takes is the connector's to say.
            tokens = self.recipe.modalities[name].groups(kept.tiles) * self.tokens_per_tile[name]
            return replace(kept, tokens=tokens)
        item = self._fresh(name, media)
        return item if key is None else replace(item, key=key)

    def _fresh(self, name: str, media: Media) -> Item:
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
    """One sample on its way: which items have come so far, and where each of them stands."""

    def __init__(self, weaver: Weaver, pointed: Pointed, prepared: dict[Media, Item]) -> None:
        self.weaver = weaver
        self.recipe = weaver.recipe
        self.pointed = pointed
        self.prepared = prepared
        self.items = Items(self.recipe.modalities, weaver.tokens_per_tile, self._item)
        self.spots: dict[Hole, Spot] = {}

    def sequence(self, open_answer: bool, max_length: int | None) -> Sequence:
        """The whole sample as tokens and holes, the text behind `max_length` of its tokens dropped."""
        places = Places(self.recipe, self.pointed.way)
        pieces = self.recipe.template.pieces(self.pointed.sample, open_answer, places.stands_second)
        self.spots = places.spots(piece for piece in pieces if isinstance(piece, Hole))
        # Items behind the first token are laid on a strip of their own: they must be open before the text,
        # which may be written in a picture's frame, yet which token is first shows only once it is there.
        front = self._strip()
        self._lay_apart(front, "second")
        sequence = self._sequence(self._laid(pieces))
        if max_length is not None:
            # Before the front is put in: its places do not count.
            sequence = cut_text(sequence, max_length)
        return behind_first(sequence, self._sequence(front)) if front.ids else sequence

    def _laid(self, pieces: Many[Piece]) -> Strip:
        """All pieces behind one another, with the items of the start behind the begin token."""
        strip = self._strip()
        begin = list(takewhile(_is_begin, pieces))
        for piece in begin:
            self._lay(strip, piece)
        self._lay_apart(strip, "start")
        # Neighbours that are written as text are written at once: some conventions put them in one bracket.
        for key, group in groupby(pieces[len(begin) :], self._written_with):
            if key is None:
                for piece in group:
                    self._lay(strip, piece)
            else:
                self._write(strip, [hole for hole in group if isinstance(hole, Hole)])
        strip.close()
        return strip

    def _lay(self, strip: Strip, piece: Piece) -> None:
        if isinstance(piece, Text):
            strip.text(piece)
        elif isinstance(piece, Break):
            strip.close()
        elif isinstance(piece, Token):
            # A tokenizer without that token (many have no begin token) goes without.
            id = getattr(self.weaver.tokenizer, piece.name)
            strip.close()
            if id is not None:
                strip.token(id, piece.learned)
        elif self.spots[piece].place == "inline":
            name = self.spots[piece].modality
            item = self.items.add(name, [piece.media])
            strip.hole_in_text(self.weaver.owner[name], item.tokens)

    def _lay_apart(self, strip: Strip, place: str) -> None:
        """The items of one place outside of the text: by modality as the recipe has them, each in its order."""
        shared: dict[str, list[Media]] = {}
        for name in self.recipe.modalities:
            for hole, spot in self.spots.items():
                if (spot.modality, spot.place) != (name, place):
                    continue
                if spot.shared:
                    shared.setdefault(name, []).append(hole.media)
                else:
                    item = self.items.add(name, [hole.media])
                    strip.hole(self.weaver.owner[name], item.tokens)
        # Last, since they may lie on any of the pictures.
        for name, group in shared.items():
            strip.hole(self.weaver.owner[name], self.items.add(name, group).tokens)

    def _written_with(self, piece: Piece) -> tuple[bool, int | None] | None:
        """For an item that is written, what its neighbours must share with it; else None."""
        if isinstance(piece, Hole) and self.spots[piece].place == "text":
            return piece.answer, piece.media.on
        return None

    def _write(self, strip: Strip, holes: list[Hole]) -> None:
        """Items on one picture as text."""
        answer = holes[0].answer
        view = self.items.under(holes[0].media)
        data = [hole.media.data for hole in holes]
        strip.text(Text(written(self.recipe, data, view, answer), answer * holes[0].scale))

    def _item(self, name: str, media: Media) -> Item:
        if media not in self.prepared:
            self.prepared[media] = self.weaver.prepare(name, media)
        return self.prepared[media]

    def _strip(self) -> Strip:
        template = self.recipe.template
        joined = template.tokenize != "pieces"
        return Strip(self.weaver.tokenizer, template.unlearned, joined)

    def _sequence(self, strip: Strip) -> Sequence:
        return Sequence(
            np.asarray(strip.ids, dtype=np.int64),
            np.asarray(strip.labels, dtype=np.int64),
            np.asarray(strip.owner, dtype=np.int64),
            self.items.by_modality,
            self.pointed.sample.id,
            tuple(self.items.pictures),
            self.pointed.asked,
            self.pointed.way,
            on=self.pointed.on,
            scale=_scale(strip),
        )


def _scale(strip: Strip) -> np.ndarray | None:
    """What labels count for; None where all count for one."""
    scale = np.asarray(strip.scale, dtype=np.float32)
    return None if np.isin(scale, (0, 1)).all() else scale


def _is_begin(piece: Piece) -> bool:
    return isinstance(piece, Token) and piece.name == "bos"
