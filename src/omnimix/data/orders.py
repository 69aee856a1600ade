"""In which order a trainer reads the records of a finite dataset, one epoch and one rank at a time.

Orders are pure functions of the seed, so that a run can be repeated and resumed; they give what the
published trainers' samplers give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from omnimix.data.length_groups import dealt
from omnimix.errors import TrainError

PICTURE = 576
"""Words that a picture counts for when the longest batch is looked for, whatever its real tokens."""


def shuffled(count: int, epoch: int, seed: int = 0, rank: int = 0, world: int = 1) -> list[int]:
    """torch's distributed sampler: all records in random order, dealt to the ranks in turn.

    Records from the front are repeated where the number does not divide by the ranks.
    """
    chance = torch.Generator().manual_seed(seed + epoch)
    order: list[int] = torch.randperm(count, generator=chance).tolist()
    total = math.ceil(count / world) * world
    order = (order * math.ceil(total / max(count, 1)))[:total]
    return order[rank::world]


WINDOW = 50
"""Batches among whose records those of like length are looked for: enough that little is padded, and few enough
that a round stays well mixed."""


def like_length(
    lengths: Sequence[int], batch: int, epoch: int, seed: int = 0, window: int = WINDOW
) -> list[int]:
    """All records in batches of like length: shuffled, sorted within windows, and the batches shuffled again.

    A batch that is not full comes last.
    """
    chance = torch.Generator().manual_seed(seed + epoch)
    order: list[int] = torch.randperm(len(lengths), generator=chance).tolist()
    size = batch * window
    near: list[int] = []
    for start in range(0, len(order), size):
        near += sorted(order[start : start + size], key=lambda i: -lengths[i])
    parts = [near[start : start + batch] for start in range(0, len(near), batch)]
    last = [parts.pop()] if len(near) % batch else []
    mixed = torch.randperm(len(parts), generator=chance).tolist()
    return [row for part in [*(parts[i] for i in mixed), *last] for row in part]


def by_modality(
    pictures: Sequence[bool],
    words: Sequence[int],
    batch: int,
    epoch: int,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
) -> list[int]:
    """Batches of pictures only and of text only, each of which has records of like length on every rank.

    The batch with the longest record comes first, so that a run that will not fit in memory fails at
    once. Every last batch of a modality is filled from that modality's first, so an epoch may have more
    records than the dataset.

    Args:
        pictures: whether each record has a picture.
        words: length of each record.
        batch: records of one optimizer step on all ranks together.

    Raises:
        TrainError: the batch does not divide by the ranks, no record has a picture, or a modality is too
            small to fill its only batch.
    """
    if batch % world:
        raise TrainError(
            f"a batch of {batch} cannot be dealt to {world} ranks",
            hint="make the batch a multiple of the ranks",
        )
    chance = torch.Generator().manual_seed(seed + epoch)
    batches: list[list[int]] = []
    for wanted in (True, False):
        rows = [i for i, picture in enumerate(pictures) if picture is wanted]
        if wanted and not rows:
            raise TrainError(
                "no record has a picture", hint="use the order 'shuffled' for text alone"
            )
        mixed = torch.randperm(len(rows), generator=chance).tolist()
        batches += _batches([rows[i] for i in mixed], words, batch, world)
    mixed = torch.randperm(len(batches), generator=chance).tolist()
    batches = [batches[i] for i in mixed]
    longest = [max(words[i] + (PICTURE if pictures[i] else 0) for i in rows) for rows in batches]
    first = longest.index(max(longest))
    batches[0], batches[first] = batches[first], batches[0]
    flat = [i for rows in batches for i in rows]
    share = batch // world
    return [
        i for start in range(rank * share, len(flat), batch) for i in flat[start : start + share]
    ]


def by_kind(
    kinds: Sequence[str],
    size: int,
    epoch: int,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
) -> list[int]:
    """Steps of one kind of records each, in random order; inside a step the records stay as they lie.

    Records of a kind that do not fill a last step are left out. Published finetunes read so,
    their records being sorted by length (arXiv 2311.07575).

    Args:
        kinds: of each record; those of one kind stand together.
        size: records of one part on one rank.
        accumulate: parts of a step.

    Raises:
        TrainError: no kind fills a step.
    """
    whole = size * world * accumulate
    steps: list[list[int]] = []
    for kind in dict.fromkeys(kinds):
        rows = [i for i, other in enumerate(kinds) if other == kind]
        steps += [rows[at : at + whole] for at in range(0, len(rows) - whole + 1, whole)]
    if not steps:
        raise TrainError(
            f"no kind of record fills a step of {whole}",
            where="stages.batch_size",
            hint="make batch_size smaller",
        )
    np.random.default_rng(seed + epoch).shuffle(steps)
    flat = [i for rows in steps for i in rows]
    return [i for at in range(rank * size, len(flat), world * size) for i in flat[at : at + size]]


def _batches(rows: list[int], words: Sequence[int], batch: int, world: int) -> list[list[int]]:
    """Batches of one modality, each dealt to the ranks by length."""
    cut = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    if cut and len(cut[-1]) < batch:
        cut[-1] = cut[-1] + cut[0][: batch - len(cut[-1])]
        if len(cut[-1]) < batch:
            raise TrainError(
                f"{len(rows)} records of one modality cannot fill a batch of {batch}",
                hint="make batch_size smaller or the dataset larger",
            )
    long_first = [sorted(rows, key=lambda i: -words[i]) for rows in cut]
    return [[row for part in dealt(rows, words, world) for row in part] for rows in long_first]
