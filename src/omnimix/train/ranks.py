"""Training on several processes: what they tell each other around a step, so that they take it as one.

Sharded weights are gathered inside every forward pass, and their gradients are summed inside every backward pass: all
ranks have to make the same calls in the same order. So they agree on what each micro-batch holds. A rank that lacks
a modality which another has, or has fewer shapes of it, is lent an item that no place of its rows points at: its
encoder runs, and gets zeros for gradients. A rank without any usable record runs another's, of which nothing counts.
What no rank uses stays untouched, as in one process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed as dist, nn

from omnimix.compose.batch import Batch
from omnimix.compose.item_batch import Bucket, ItemBatch, ItemBatches
from omnimix.parallel.layout import ModelLayout

Needs = dict[str, int] | None
"""How often each modality's encoders are called for a batch; None where there is no batch."""

WHOLE = ""


def needs(batch: Batch | None) -> Needs:
    """What a batch asks of every rank."""
    return batch and {name: len(one.buckets) or 1 for name, one in batch["items"].items()}


def even(
    layout: ModelLayout,
    batches: Sequence[Batch | None],
    said: Sequence[Sequence[Needs]],
    names: Sequence[str],
) -> list[tuple[Batch | None, float]]:
    """Batches with which every rank makes the same calls, and what each one's loss counts.

    Args:
        batches: of this rank, None where it has no record.
        said: `needs` of all ranks' batches.
        names: of the modalities, in their order.
    """
    own = [(batch, 1.0) for batch in batches]
    if not layout.sharded:
        return own
    columns = list(zip(*said, strict=True))
    wanted = [_most(column) for column in columns]
    if not any(_lacks(most, each) for most, c in zip(wanted, columns, strict=True) for each in c):
        return own
    rank = layout.process_group.rank
    mine = [_gifts(*each, rank) for each in zip(batches, columns, wanted, strict=True)]
    given = layout.process_group.gather("items", mine)
    done: list[tuple[Batch | None, float]] = []
    for number, (batch, most) in enumerate(zip(batches, wanted, strict=True)):
        gifts = {name: gift for gave in given for name, gift in gave[number].items()}
        count = 1.0 if batch is not None or most is None else 0.0
        taken = batch if batch is not None else gifts.get(WHOLE)
        done.append((taken and _lent(taken, most or {}, gifts, names), count))
    return done


def _most(column: Sequence[Needs]) -> Needs:
    """The most that any rank needs; None where none has a batch."""
    found = [each for each in column if each is not None]
    return {n: max(e.get(n, 0) for e in found) for e in found for n in e} if found else None


def _lacks(most: Needs, each: Needs) -> list[str]:
    """What a rank has less of than another; a whole batch, or names of modalities."""
    if most is None or each == most:
        return []
    return [WHOLE] if each is None else [n for n, calls in most.items() if each.get(n, 0) < calls]


def _gifts(batch: Batch | None, column: Sequence[Needs], most: Needs, rank: int) -> dict[str, Any]:
    """What this rank gives to those who lack it, as the first who has it."""
    lacking = {name for each in column for name in _lacks(most, each)}
    # Who takes a whole batch may lack what its giver lacks.
    lacking |= set(most or ()) if WHOLE in lacking else set()
    gifts: dict[str, Any] = {}
    for name in sorted(lacking):
        has = [each is not None and (name == WHOLE or name in each) for each in column]
        if batch is not None and has.index(True) == rank:
            gifts[name] = batch if name == WHOLE else _first(batch["items"][name])
    return gifts


def _first(items: ItemBatch) -> ItemBatch:
    """The first item alone."""
    alike = items.alike()[0][1] if items.buckets else items
    many = alike.tiles[0]
    return ItemBatch(
        tuple(tensor[:many].clone() for tensor in alike.inputs),
        alike.tiles[:1],
        alike.sizes[:1],
        alike.grids[:1],
        alike.tokens[:1],
        torch.zeros(1, dtype=items.on.dtype),
        encoded=alike.encoded,
    )


def _lent(
    batch: Batch, most: Mapping[str, int], gifts: Mapping[str, Any], names: Sequence[str]
) -> Batch:
    """A batch with items that nothing points at, so that each modality is called as often as `most` says."""
    items: ItemBatches = batch["items"]
    has = needs(batch) or {}
    if all(has.get(name, 0) == calls for name, calls in most.items()):
        return batch
    done: dict[str, ItemBatch] = {}
    places = batch.item_places
    moved = places.clone()
    after = before = 0
    for name in (name for name in names if name in most):
        kept = sum(items[name].tokens) if name in items else 0
        mine = (places > before) & (places <= before + kept)
        moved[mine] += after - before
        done[name] = _with(items.get(name), gifts.get(name), most[name] - has.get(name, 0))
        before, after = before + kept, after + sum(done[name].tokens)
    words = {**batch, "items": ItemBatches(done), "item_places": moved}
    found = Batch(words, ids=batch.ids, targets=batch.targets, right=batch.right)
    found.pair_scales = batch.pair_scales
    return found


def _with(items: ItemBatch | None, lent: ItemBatch | None, calls: int) -> ItemBatch:
    """Items and as many lent ones as there are calls missing, each in a bucket of its own."""
    if not calls:
        assert items is not None
        return items
    assert lent is not None
    count = len(items.tiles) if items is not None else 0
    buckets = items.buckets if items is not None else ()
    if items is not None and not buckets:
        buckets = (Bucket(tuple(range(count)), items.inputs, items.encoded),)
    buckets += tuple(Bucket((count + i,), lent.inputs, lent.encoded, True) for i in range(calls))
    cards = (*items.cards, *[None] * calls) if items is not None and items.cards else ()

    def joined(word: str) -> Any:
        return (getattr(items, word) if items is not None else ()) + getattr(lent, word) * calls

    on = [*([items.on] if items is not None else []), *[lent.on] * calls]
    return ItemBatch(
        (),
        joined("tiles"),
        joined("sizes"),
        joined("grids"),
        joined("tokens"),
        torch.cat(on),
        buckets,
        cards=cards,
    )


def added(layout: ModelLayout, values: Tensor) -> Tensor:
    """The sum over the ranks; of those that read the same records one counts."""
    if layout.process_group.size > 1:
        values = values.clone() * layout.speaks
        with layout.process_group.together():
            dist.all_reduce(values)
    return values


def fingerprint(model: nn.Module) -> list[float]:
    """A few numbers that differ where weights differ."""
    floating = [p.detach() for p in model.parameters() if p.is_floating_point()]
    return [
        float(sum(p.double().sum() for p in floating)),
        float(sum(p.double().norm() for p in floating)),
    ]
