"""What a stage of a training file reads, as a few of its records show it; nothing is trained for that."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from omnimix.compose.items import prepare
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.compose.rounds import weave_apart
from omnimix.compose.sequence import IGNORE, Sequence
from omnimix.data.mixture import MixturePart, drawn, woven_pair
from omnimix.data.packing import WINDOW, PackingSpec, Size, best_fit
from omnimix.data.sources import Source
from omnimix.errors import OmnimixError, TrainError, reason
from omnimix.media.opening import MediaOpener
from omnimix.train.settings import Stage
from omnimix.types import Media

LOOKED = 64
"""Records of a dataset that are read."""

PICTURE = (640, 480)
"""Of the picture that is assumed where no data is at hand."""


@dataclass(frozen=True)
class StageRows:
    """What a stage reads.

    Attributes:
        longest: the longest row looked at, which memory is reckoned for; of packing a full row.
        tokens, learned: of a row, on the average; of preferences of both answers.
        records: of a row, on the average: more than one where rows have a token budget.
        looked, cut: records that were read, and how many of them `max_length` shortens.
        count: of all datasets; None where they are not at hand or have no end.
        assumed: why nothing was read; the longest row that the stage allows is taken for every row.
    """

    longest: Sequence
    tokens: float
    learned: float
    looked: int = 0
    cut: int = 0
    count: int | None = None
    assumed: str = ""
    records: float = 1.0


def rows_of(stage: Stage, folder: Path, recipe: Recipe, recipe_folder: Path) -> StageRows:
    """What a stage reads: a few records of every dataset, or the longest row that it allows."""
    try:
        processor = Processor.from_recipe(recipe, recipe_folder)
        if stage.template is not None:
            processor = processor.with_template(stage.template)
        sources = [words.data.open(folder) for words in stage.mixture]
        found = [
            _looked(source, words, stage, processor)
            for source, words in zip(sources, stage.mixture, strict=True)
        ]
    except OmnimixError as error:
        row = longest(recipe, stage)
        return StageRows(row, len(row), row.targets, assumed=reason(error))
    refused = [error for _, _, error in found if error is not None]
    counts = [source.length for source in sources]
    many = None if None in counts else sum(c for c in counts if c is not None)
    read = [one for sequences, _, _ in found for one in sequences]
    if not read and refused:
        raise refused[0]
    if not read:
        row = longest(recipe, stage)
        cut = sum(cut for _, cut, _ in found)
        return StageRows(row, len(row), row.targets, 0, cut, many, "no record can be used")
    weights = np.repeat([w.weight for w in stage.mixture], [len(one) for one, _, _ in found])
    tokens, learned = (
        float(np.average(column, weights=weights))
        for column in zip(
            *((one.room, sum(each.targets for each in one.both)) for one in read), strict=True
        )
    )
    row, fill = max(read, key=lambda one: one.room), 1.0
    if isinstance(stage.packing, PackingSpec):
        row, fill = _packed(read, stage.packing, many)
    cut = sum(cut for _, cut, _ in found)
    return StageRows(row, tokens * fill, learned * fill, len(read), cut, many, records=fill)


def _packed(read: Many[Sequence], packing: PackingSpec, many: int | None) -> tuple[Sequence, float]:
    """A full row, and how many records one holds when these are packed as training does.

    Raises:
        TrainError: none of them fits into a row.
    """
    most = packing.items or math.inf
    fits = [one for one in read if one.room <= packing.tokens and _items(one) <= most]
    if not fits:
        raise TrainError(
            f"none of the {len(read)} records looked at fits into a row of {packing.tokens} tokens",
            where="packing",
            hint="give packing more tokens, or max_length",
        )
    count = min(WINDOW, WINDOW if many is None else many)
    sizes = [Size(one.room, _items(one)) for one in fits]
    window = list(itertools.islice(itertools.cycle(sizes), count))
    fill = count / len(best_fit(window, packing.tokens, packing.items))
    return _stretched(max(fits, key=lambda one: one.room), packing), fill


def _items(row: Sequence) -> int:
    return sum(len(items) for one in row.both for items in one.items.values())


def _looked(
    source: Source, words: MixturePart, stage: Stage, processor: Processor
) -> tuple[list[Sequence], int, OmnimixError | None]:
    """Records spread over a dataset, woven, how many of them are cut, and why the objective took one not."""
    many = LOOKED if source.length is None else min(source.length, LOOKED)
    step = 1 if source.length is None else source.length / many
    most = source.max_length if stage.max_length is None else stage.max_length
    found, cut, refused = [], 0, None
    for i in range(many):
        try:
            sample = drawn(source[int(i * step)], 0)
            try:
                stage.objective.takes(sample)
            except OmnimixError as error:
                refused = error.at(sample.id)
                continue
            if words.apart:
                found.append(weave_apart(processor.weave, sample))
                continue
        except OmnimixError:
            continue
        woven = _woven(processor, sample, most, source.cuts_items)
        if woven is not None:
            found.append(woven)
        # Below the limit nothing was cut. What the limit leaves nothing to learn of is cut as well.
        if most is not None and (woven is None or _text(woven) >= most):
            whole = _woven(processor, sample, None, False)
            cut += whole is not None and (woven is None or whole.room > woven.room)
    return found, cut, refused


def _text(row: Sequence) -> int:
    """Text tokens of the longer conversation."""
    return max(int((one.owner == 0).sum()) for one in row.both)


def _woven(
    processor: Processor, sample: Any, most: int | None, cuts_items: bool
) -> Sequence | None:
    try:
        weave = partial(processor.weave, max_length=most, cuts_items=cuts_items)
        return woven_pair(weave, sample)
    except OmnimixError:
        return None


def longest(recipe: Recipe, stage: Stage) -> Sequence:
    """The longest row that a stage allows: one picture where the recipe takes any, and `max_length` text tokens, all
    learned; or as many as the model takes. Of preferences both answers are so long."""
    model = MultimodalLM.on_meta(recipe)
    items = {}
    for name, spec in recipe.modalities.items():
        if spec.media == "image" and isinstance(spec.opens, MediaOpener):
            picture = Media.image(Image.new("RGB", PICTURE))
            items[name] = [prepare(spec, picture, model.tokens_per_tile[name])]
            break
    taken = sum(item.tokens for own in items.values() for item in own)
    context = model.context or 2048
    packed = stage.packing.tokens if isinstance(stage.packing, PackingSpec) else context
    packed //= 1 + (stage.objective.pairs and isinstance(stage.packing, PackingSpec))
    room = min(context, packed, taken + (stage.max_length or context))
    owner = np.zeros(room, dtype=np.int64)
    for k, name in enumerate(recipe.modalities, 1):
        if name in items:
            owner[1 : 1 + taken] = k
    ids = np.zeros(room, dtype=np.int64)
    row = Sequence(ids, np.where(owner == 0, 0, IGNORE), owner, items)
    return replace(row, rejected=row) if stage.objective.pairs else row


def _stretched(row: Sequence, packing: PackingSpec) -> Sequence:
    """A packed row: the items of as many such rows as go into it, and text; half of it rejected, where that is."""
    times = max(1, packing.tokens // row.room)
    if packing.items and _items(row):
        times = min(times, max(1, packing.items // _items(row)))
    if row.rejected is None:
        return _repeated(row, times, packing.tokens)
    other = packing.tokens * len(row.rejected) // row.room
    rejected = _repeated(row.rejected, times, other)
    return replace(_repeated(row, times, packing.tokens - other), rejected=rejected)


def _repeated(row: Sequence, times: int, tokens: int) -> Sequence:
    """So many such rows, and text up to so many tokens."""
    parts = [np.tile(a, times) for a in (row.ids, row.labels, row.owner)]
    rest = [np.zeros(max(0, tokens - len(row) * times), dtype=np.int64)] * 3
    ids, labels, owner = (np.concatenate(pair) for pair in zip(parts, rest, strict=True))
    return Sequence(ids, labels, owner, {name: own * times for name, own in row.items.items()})
