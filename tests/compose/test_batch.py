"""Batch and splice: how samples stand together changes nothing about any of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from omnimix.compose.batch import Batch
from omnimix.compose.item_batch import ItemBatches
from omnimix.compose.loss import token_loss
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import IGNORE, Sequence, behind_first, cut_items
from omnimix.compose.splice import splice
from omnimix.errors import SpliceError
from omnimix.types import Media
from tests.compose.conversations import every_region, picture, talk

MIXED = [
    talk("No picture.", "None at all."),
    talk(
        (picture(50, 20), "What?"),
        "A cup.",
        ("And ", *map(Media.region, every_region(50, 20))),
        "b",
    ),
    talk(
        (picture(9, 9, 1), picture(30, 70, 2), Media.region(every_region(9, 9)[1], on=0), "?"),
        "A long answer about two pictures.",
    ),
    talk(("See ", picture(64, 64, 3), "?"), "Yes."),
]


@pytest.fixture(scope="module")
def woven(tiny_processor: Processor) -> list[Sequence]:
    return [tiny_processor.weave(sample) for sample in MIXED]


def logits(model: MultimodalLM, batch: Batch, mask: bool = True) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**batch.inputs(mask)).logits
    return found


@pytest.fixture(scope="module")
def alone(
    woven: list[Sequence], tiny_model: MultimodalLM, tiny_processor: Processor
) -> list[Tensor]:
    return [logits(tiny_model, tiny_processor.batch([one]))[0] for one in woven]


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_equals_one_at_a_time(
    side: Literal["left", "right"],
    woven: list[Sequence],
    alone: list[Tensor],
    tiny_model: MultimodalLM,
    tiny_processor: Processor,
) -> None:
    batch = tiny_processor.batch(woven, side, multiple=16)
    assert batch.input_ids.shape[1] % 16 == 0
    together = logits(tiny_model, batch)
    for row, sequence, wanted in zip(together, woven, alone, strict=True):
        close(row[-len(sequence) :] if side == "left" else row[: len(sequence)], wanted)


def test_right_padding_needs_no_mask(
    woven: list[Sequence],
    alone: list[Tensor],
    tiny_model: MultimodalLM,
    tiny_processor: Processor,
) -> None:
    batch = tiny_processor.batch(woven)
    assert "attention_mask" not in batch.inputs(mask=False)
    assert "attention_mask" in tiny_processor.batch(woven, "left").inputs(mask=False)
    for row, wanted in zip(logits(tiny_model, batch, mask=False), alone, strict=True):
        close(row[: len(wanted)], wanted)


def test_packed_equals_unpacked(
    woven: list[Sequence],
    alone: list[Tensor],
    tiny_model: MultimodalLM,
    tiny_processor: Processor,
) -> None:
    batch = tiny_processor.batch(woven, pack=True)
    assert batch.input_ids.shape == (1, sum(map(len, woven)))
    close(logits(tiny_model, batch)[0], torch.cat(alone))
    padded = tiny_processor.batch(woven)
    assert batch.targets == padded.targets
    with torch.no_grad():
        one = tiny_model(**batch.inputs(), labels=batch.labels).loss
        other = tiny_model(**padded.inputs(), labels=padded.labels).loss
    close(one, other)


def test_features_and_places_must_agree(
    woven: list[Sequence], tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    batch = tiny_processor.batch(woven)
    items, places = batch["items"], batch.item_places
    image = items["image"]
    wrong = {**items, "image": replace(image, tokens=(*image.tokens[:-1], 48))}
    with pytest.raises(SpliceError, match="196 features of 'image' for 195 places"):
        tiny_model.embed(batch.input_ids, ItemBatches(wrong), places)
    with pytest.raises(SpliceError, match="item_places name feature 3, and the items have 2"):
        splice(torch.zeros(1, 5, 2), torch.ones(2, 2), torch.tensor([[0, 1, 2, 3, 0]]))
    cut = {name: value[1:3] for name, value in batch.items() if name != "item_places"}
    for words, said in (
        (cut, "items without item_places"),
        (cut | {"item_places": places}, r"item_places are \[4, 122\], the tokens \[2, 122\]"),
        ({"input_ids": batch.input_ids, "item_places": places}, "item_places without items"),
    ):
        with pytest.raises(SpliceError, match=said):
            tiny_model(**words)


def test_items_must_fit_their_own_holes(tiny_processor: Processor) -> None:
    """Exchanged items whose sizes add up to the same number are seen."""
    sample = talk((picture(9, 9), "one", picture(9, 9, 1), "two"), "b")
    good = tiny_processor.weave(sample)
    first, second = good.items["image"]
    longer = [replace(first, tokens=first.tokens + 1), replace(second, tokens=second.tokens - 1)]
    empty = replace(good, items={**good.items, "image": [first, replace(first, tokens=0), second]})
    batch = tiny_processor.batch([empty])
    assert (batch.item_places > 0).sum() == first.tokens + second.tokens
    for items in (longer, [first]):
        wrong = replace(good, items={**good.items, "image": items})
        with pytest.raises(SpliceError, match=r"talk: .* of 'image' do not fit the holes"):
            tiny_processor.batch([wrong])


def test_an_item_may_take_no_place(tiny_processor: Processor) -> None:
    """Rows of a reference's collator have pictures whose places come later."""
    good = tiny_processor.weave(talk((picture(9, 9), "one"), "b"))
    text = good.owner == 0
    none = [replace(item, tokens=0) for item in good.items["image"]]
    bare = replace(
        good,
        ids=good.ids[text],
        labels=good.labels[text],
        owner=good.owner[text],
        items={**good.items, "image": none},
    )
    batch = tiny_processor.batch([bare])
    assert not batch.item_places.any()
    assert batch["items"]["image"].inputs[0].shape[0] == 1


def test_splice_puts_features_in_their_places() -> None:
    text = torch.zeros(2, 3, 1)
    features = torch.tensor([[1.0], [2.0]], requires_grad=True)
    done = splice(text, features, torch.tensor([[0, 2, 0], [2, 1, 0]]))
    assert done.flatten().tolist() == [0, 2, 0, 2, 1, 0]
    done.sum().backward()
    assert features.grad is not None and features.grad.tolist() == [[1], [2]]
    assert not text.any()


def test_token_loss_is_the_mean_over_learned_tokens() -> None:
    torch.manual_seed(0)
    scores = torch.randn(3, 6, 11)
    labels = torch.randint(0, 11, (3, 6))
    labels[0, :4] = labels[2] = IGNORE
    each = [
        functional.cross_entropy(scores[i, j - 1], labels[i, j])
        for i in range(3)
        for j in range(1, 6)
        if labels[i, j] != IGNORE
    ]
    assert len(each) == 7
    close(token_loss(scores, labels), torch.stack(each).mean())
    parts = [token_loss(scores[i : i + 1], labels[i : i + 1], 7) for i in range(3)]
    close(torch.stack(parts).sum(), token_loss(scores, labels))
    assert token_loss(scores[2:], labels[2:]) == 0


def test_parts_of_a_batch_add_up(
    woven: list[Sequence], tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    batch = tiny_processor.batch(woven)
    assert batch.targets == sum(sequence.targets for sequence in woven)
    with torch.no_grad():
        whole = tiny_model(**batch.inputs(), labels=batch.labels).loss
        parts = torch.zeros(())
        for half in (woven[:1], woven[1:]):
            part = tiny_processor.batch(half)
            words = {"labels": part.labels, "num_items_in_batch": batch.targets}
            parts += tiny_model(**part.inputs(), **words).loss
    close(parts, whole)


def test_moving_a_batch_keeps_it(woven: list[Sequence], tiny_processor: Processor) -> None:
    batch = tiny_processor.batch(woven, pack=True)
    moved = batch.to("meta")
    assert moved.input_ids.is_meta and moved["items"]["image"].inputs[0].is_meta
    assert moved.ids == batch.ids
    assert moved.attention_mask is None


def test_the_first_token_of_a_packed_sample_is_never_learned(
    tiny_processor: Processor, woven: list[Sequence]
) -> None:
    """What stands before it belongs to another sample; a begin token may be learned by a recipe's own words."""
    learned = [replace(one, labels=one.ids.copy()) for one in woven]
    batch = tiny_processor.batch(learned, pack=True)
    starts = np.cumsum([0, *map(len, learned)])[:-1]
    assert (batch.labels[0, starts] == IGNORE).all()
    others = np.setdiff1d(np.arange(batch.labels.shape[1]), starts)
    assert (batch.labels[0, others] == batch.input_ids[0, others]).all()
    assert batch.targets == len(others)


def test_a_block_behind_the_first_token_takes_its_scale_along(tiny_processor: Processor) -> None:
    """What is put in counts for nothing, and every token keeps its own label and scale."""
    woven = tiny_processor.weave(talk("What?", "A cup."))
    scale = np.linspace(0.5, 1.5, len(woven), dtype=np.float32)
    holes = np.full(3, -1)
    block = Sequence(holes, np.full(3, IGNORE), np.ones(3, dtype=holes.dtype), {})
    for own in (None, scale):
        found = behind_first(replace(woven, scale=own), block)
        assert found.ids.tolist() == [woven.ids[0], -1, -1, -1, *woven.ids[1:]]
        assert found.labels.tolist() == [IGNORE] * 4 + woven.labels[1:].tolist()
        assert found.owner.tolist() == [woven.owner[0], 1, 1, 1, *woven.owner[1:]]
        if own is None:
            assert found.scale is None
        else:
            assert found.scale is not None
            assert found.scale.tolist() == [own[0], 0, 0, 0, *own[1:]]


@pytest.mark.parametrize("most", range(1, 12))
def test_a_cut_counts_each_item_as_one(most: int, tiny_processor: Processor) -> None:
    seen = [picture(seed=i) for i in range(2)]
    woven = tiny_processor.weave(talk((*seen, "What is there, and what is here?"), "A cup."))
    cut = cut_items(woven, most, list(tiny_processor.recipe.modalities))
    kept = cut.items.get("image", [])
    assert [item.key for item in kept] == [item.key for item in woven.items["image"][: len(kept)]]
    inside = int((cut.owner > 0).sum())
    assert inside == sum(item.tokens for item in kept)
    assert len(cut) - inside + len(kept) == most
    assert np.array_equal(cut.ids, woven.ids[: len(cut)])
