"""Rounds apart: each is what it would be alone, and what all share stands there once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from omnimix import config
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.rounds import rounds_of, weave_apart
from omnimix.compose.sequence import IGNORE
from omnimix.data.mixture import Batches, Mixture
from omnimix.errors import OmnimixError, SampleError, SpliceError
from omnimix.train.settings import Stage
from omnimix.types import Media, Sample, Turn
from tests.compose.conversations import conversations, every_region, picture, talk

REGIONS = [Media.region(region, on=0) for region in every_region(50, 20)]
TALK = talk(
    (picture(50, 20), "What?"),
    "A cup.",
    ("And ", REGIONS[1], " there?"),
    "A long answer.",
    "Why?",
    "b",
    (REGIONS[0], REGIONS[4], "?"),
    ("At ", REGIONS[1]),
)


def check(sample: Sample, model: MultimodalLM, processor: Processor) -> None:
    """Loss, learned tokens and their logits are those of the rounds as conversations of their own."""
    whole = weave_apart(processor.weave, sample)
    alone = [processor.weave(each) for each in rounds_of(sample)]
    batch = processor.batch([whole, processor.weave(talk("Hi.", "Ho."))], pack=True)
    single = processor.batch([*alone, processor.weave(talk("Hi.", "Ho."))], pack=True)
    assert batch.targets == single.targets
    found, wanted = [], []
    with torch.no_grad():
        for each, into in ((batch, found), (single, wanted)):
            logits = model(**each.inputs()).logits[0, :-1]
            into += [logits[each.labels[0, 1:] != IGNORE]]
    # Logits of these weights reach far above 1, and a masked sum is taken in another order.
    scale = wanted[0].abs().max().clamp(min=1.0)
    torch.testing.assert_close(found[0] / scale, wanted[0] / scale, atol=1e-5, rtol=1e-5)
    # Pictures of the first question are there once, however many rounds look at them.
    pictures = len(alone[0].items.get("image", []))
    assert len(whole.items.get("image", [])) == pictures
    saved = sum(item.tokens for item in alone[0].items.get("image", [])) * (len(alone) - 1)
    assert len(whole) <= sum(len(each) for each in alone) - saved


def test_each_round_is_what_it_is_alone(
    tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    check(TALK, tiny_model, tiny_processor)
    woven = weave_apart(tiny_processor.weave, TALK)
    assert len(woven.items["image"]) == 1 and len(woven.items["region"]) == 3  # of the questions
    assert woven.branches is not None and set(woven.branches.tolist()) == {0, 1, 2, 3, 4}
    ends = np.flatnonzero(np.diff(woven.branches)) + 1
    shared = int((woven.branches == 0).sum())
    assert (woven.positions[ends] == shared).all()


def test_a_later_round_does_not_see_an_earlier_one(
    tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    other = list(TALK.turns)
    other[1] = Turn("assistant", ("Something else, and longer.",))
    ends = []
    for turns in (TALK.turns, tuple(other)):
        batch = tiny_processor.batch([weave_apart(tiny_processor.weave, Sample(turns))], pack=True)
        with torch.no_grad():
            ends.append(tiny_model(**batch.inputs()).logits[0, -1])
    torch.testing.assert_close(ends[0], ends[1], atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_conversation(
    data: st.DataObject, tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    drawn = data.draw(conversations(tiny_processor.recipe))
    try:
        [tiny_processor.weave(each) for each in rounds_of(drawn.sample)]
    except OmnimixError:
        with pytest.raises(OmnimixError):
            weave_apart(tiny_processor.weave, drawn.sample)
        return
    check(drawn.sample, tiny_model, tiny_processor)


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (talk("A?", "B.", "C?"), "do not alternate"),
        (talk((picture(), "A?"), "B.", (picture(), "C?"), "D."), "item of its own"),
        (Sample(()), "do not alternate"),
        (talk((picture(), REGIONS[0], picture(), "A?"), "B."), "region stands before"),
    ],
)
def test_what_cannot_be_told_apart(sample: Sample, said: str, tiny_processor: Processor) -> None:
    with pytest.raises(SampleError, match=said):
        weave_apart(tiny_processor.weave, sample)


def test_rounds_apart_stand_in_packs_alone(tiny_processor: Processor) -> None:
    with pytest.raises(SpliceError, match="packed"):
        tiny_processor.batch([weave_apart(tiny_processor.weave, TALK)])


def test_a_dataset_of_a_mixture_is_asked_apart(tiny_processor: Processor) -> None:
    scenes = {"kind": "scenes", "questions": 4, "kinds": ["shapes"]}
    parts = [{"data": scenes, "apart": True}, {"data": scenes | {"seed": 1}}]
    stage = config.validate(Stage, {"mixture": parts, "max_steps": 1, "packing": True}, "stage")
    mixture = Mixture(stage.mixture, Path(), seed=0)
    batch, dropped = Batches(mixture, tiny_processor, 6, 0, 1, pack=True)[0]
    assert not dropped and batch.branches is not None and batch.cu_seq_lens_q is not None
    own = batch.branches[0].split(batch.cu_seq_lens_q.diff().tolist())
    asked = [mixture.is_apart(place) for place in range(6)]
    assert {True, False} == set(asked)
    assert [bool(sample.any()) for sample in own] == asked
