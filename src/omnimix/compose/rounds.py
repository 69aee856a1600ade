"""Rounds apart: questions about the same picture that do not see one another, with the picture there once.

In an ordinary conversation a question can be answered from the answers above it, and stands ever farther
from the picture. Asked apart, every round has the tokens, positions and logits of a conversation of its
own, and the picture's tokens are paid for once (the shared prefix of Hydragen, Juravsky et al. 2024, in
training).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence as Many

import numpy as np
from jaxtyping import Float

from omnimix.compose.sequence import IGNORE, Item, Sequence
from omnimix.compose.weave import Weaver
from omnimix.errors import SampleError
from omnimix.types import Media, Part, Sample, Turn

_HINT = "leave out apart, so that rounds are read one after another"


def weave_apart(weaver: Weaver, sample: Sample) -> Sequence:
    """Weave a conversation so that each of its rounds sees the first turn's pictures and itself alone.

    Raises:
        SampleError: questions and answers do not alternate, a later question brings a picture of its own,
            or the pictures do not stand in front of everything in which the rounds differ.
    """
    if sample.rejected is not None:
        raise SampleError(
            "a record with a rejected answer has no rounds", where=sample.id, hint=_HINT
        )
    return shared(weaver.rounds(rounds_of(sample)), weaver.owner, sample.id)


def rounds_of(sample: Sample) -> list[Sample]:
    """Each question and its answer as a conversation of its own, behind the first turn's items.

    Raises:
        SampleError: questions and answers do not alternate, a later question brings an item, or a region
            stands between the first one's items.
    """
    turns = list(sample.turns)
    head = [turns.pop(0)] if turns and turns[0].role == "system" else []
    roles = [turn.role for turn in turns]
    if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
        raise SampleError(
            "rounds cannot be told apart: questions and answers do not alternate",
            where=sample.id,
            hint=_HINT,
        )
    first, later = turns[0].content, turns[2::2]
    if any(_is_item(part) for question in later for part in question.content):
        raise SampleError(
            "rounds cannot be told apart: a later question brings an item of its own",
            where=sample.id,
            hint=_HINT,
        )
    # The first question's own words behind its last item are not shared; each round has its own there.
    items = first[: max((i for i, part in enumerate(first, 1) if _is_item(part)), default=0)]
    if any(isinstance(part, Media) and not _is_item(part) for part in items):
        raise SampleError(
            "rounds cannot be told apart: a region stands before the last item they share",
            where=sample.id,
            hint=_HINT,
        )
    asked = [turns[0], *(Turn("user", (*items, *question.content)) for question in later)]
    return [
        Sample((*head, question, answer), sample.id, sample.meta)
        for question, answer in zip(asked, turns[1::2], strict=True)
    ]


def _is_item(part: Part) -> bool:
    return isinstance(part, Media) and part.kind != "region"


def shared(rounds: Many[Sequence], owner: Mapping[str, int], id: str) -> Sequence:
    """Sequences that begin with the same items as one, with these items and all before them in it once.

    Args:
        rounds: at least one, woven with the same items (by identity).
        owner: number of each modality in `Sequence.owner`.

    Raises:
        SampleError: something in which the rounds differ stands before the items.
    """
    first = rounds[0]
    same = {name: _same([each.items.get(name, []) for each in rounds]) for name in first.items}
    # What is shared ends with the last token of the last shared item; text behind it belongs to each round,
    # even where rounds begin alike.
    end = 0
    for name, count in same.items():
        tokens = sum(item.tokens for item in first.items[name][:count])
        if tokens:
            end = max(end, int(np.flatnonzero(first.owner == owner[name])[tokens - 1]) + 1)
    if not all(np.array_equal(each.ids[:end], first.ids[:end]) for each in rounds):
        raise SampleError(
            "rounds cannot be told apart: they differ before the items that they share",
            where=id,
            hint=_HINT,
        )
    labels = [each.labels[end:].copy() for each in rounds]
    for own in labels:
        own[:1] = IGNORE  # its predecessor in the row belongs to another round
    branches = [np.full(len(own), k) for k, own in enumerate(labels, start=1)]
    names = dict.fromkeys(name for each in rounds for name in each.items)
    return Sequence(
        ids=np.concatenate([first.ids[:end], *(each.ids[end:] for each in rounds)]),
        labels=np.concatenate([first.labels[:end], *labels]),
        owner=np.concatenate([first.owner[:end], *(each.owner[end:] for each in rounds)]),
        items={
            name: [
                *first.items.get(name, [])[: same.get(name, 0)],
                *(
                    item
                    for each in rounds
                    for item in each.items.get(name, [])[same.get(name, 0) :]
                ),
            ]
            for name in names
        },
        id=id,
        pictures=first.pictures,
        branches=np.concatenate([np.zeros(end, dtype=np.int64), *branches]),
        scale=_scales(rounds, end),
    )


def _scales(rounds: Many[Sequence], end: int) -> Float[np.ndarray, "n"] | None:
    if all(each.scale is None for each in rounds):
        return None
    whole: list[np.ndarray] = [
        np.ones(len(each), np.float32) if each.scale is None else each.scale for each in rounds
    ]
    found: np.ndarray = np.concatenate([whole[0][:end], *(each[end:] for each in whole)])
    return found


def _same(lists: list[list[Item]]) -> int:
    """How many items all lists begin with."""
    if len(lists) == 1:
        return sum(1 for item in lists[0] if item.on < 0)
    count = 0
    for item, *others in zip(*lists, strict=False):
        if any(other is not item for other in others):
            break
        count += 1
    return count
