"""LLaVA's length-grouped order (arXiv 2310.03744): records of like length share a batch, pictures and text
stay apart.

It is the form that arXiv 2408.08872 trains with, kept with what is odd about it: the order within a modality comes from the *global* random state, which differs between ranks, so ranks
see overlapping parts of the data; and every round ends by resetting that state to 42.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

SEED = 42
"""Of the generator that belongs to the order itself; the reference knows no other."""


class LengthGroups:
    """The order of one rank, round after round.

    Args:
        lengths: of every record; negative for text alone, where modalities are kept apart.
        batch: records of one part on one rank.
        groups: parts that are taken side by side: ranks times accumulated parts.
        seed: of the global random state when the first round begins (the run's seed plus the rank).
    """

    def __init__(self, lengths: Sequence[int], batch: int, groups: int, seed: int = SEED) -> None:
        self.lengths = list(lengths)
        self.batch = batch
        self.groups = groups
        self.shared = torch.Generator().manual_seed(seed)
        self.own = torch.Generator().manual_seed(SEED)

    def round(self) -> list[int]:
        """All records in the order of the next round."""
        pictures = [i for i, length in enumerate(self.lengths) if length > 0]
        texts = [i for i, length in enumerate(self.lengths) if length <= 0]
        if not pictures or not texts:
            return self._grouped(self.lengths, self.own)
        size = self.batch * self.groups
        whole: list[list[int]] = []
        rest: list[int] = []
        for rows in (pictures, texts):
            lengths = [abs(self.lengths[i]) for i in rows]
            order = [rows[i] for i in self._grouped(lengths, self.shared)]
            cut = [order[start : start + size] for start in range(0, len(order), size)]
            whole += cut[:-1]
            rest += cut[-1]
        self.own.manual_seed(SEED)
        self.shared.manual_seed(SEED)
        mixed = torch.randperm(len(whole), generator=self.own).tolist()
        return [row for i in mixed for row in whole[i]] + sorted(rest)

    def _grouped(self, lengths: Sequence[int], chance: torch.Generator) -> list[int]:
        """Places in `lengths`: shuffled, then within each group of batches from long to short."""
        order: list[int] = torch.randperm(len(lengths), generator=chance).tolist()
        size = self.batch * self.groups
        done: list[int] = []
        for start in range(0, len(order), size):
            rows = sorted(order[start : start + size], key=lambda i: -lengths[i])
            done += [row for part in dealt(rows, lengths, self.groups) for row in part]
        return done


def dealt(rows: list[int], lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Rows in parts of equal number and nearly equal total length; strided where they do not divide."""
    share, over = divmod(len(rows), parts)
    if over:
        return [rows[k::parts] for k in range(parts)]
    found: list[list[int]] = [[] for _ in range(parts)]
    totals = [0] * parts
    for row in rows:
        open_ = [k for k in range(parts) if len(found[k]) < share]
        k = min(open_, key=totals.__getitem__)
        found[k].append(row)
        totals[k] += lengths[row]
    return found


def of_rank(order: Sequence[int], rank: int, world: int) -> list[int]:
    """Every `world`-th record of an order, which is filled from its front until it divides."""
    missing = -len(order) % world
    filled = [*order, *(order[i % len(order)] for i in range(missing))]
    return filled[rank::world]


def grouped(
    lengths: Sequence[int],
    batch: int,
    epoch: int,
    seed: int = SEED,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
) -> list[int]:
    """What one rank reads in one round, as a pure function of its arguments."""
    groups = LengthGroups(lengths, batch, world * accumulate, seed + rank)
    order: list[int] = []
    for _ in range(epoch + 1):
        order = groups.round()
    return of_rank(order, rank, world)
