"""Weave: holes of the right size, learned text and nothing else, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.compose.sequence import IGNORE
from omnimix.compose.weave import Weaver
from omnimix.errors import ContextError, MediaError, RegionError, SampleError
from omnimix.media.region import FILLER
from omnimix.types import Box, Media, Point, Sample, Turn
from tests.compose.conversations import conversations, every_region, picture, talk

RELAXED = settings(
    max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@RELAXED
@given(data=st.data())
def test_any_conversation_weaves_to_counts_that_splice_accepts(
    data: st.DataObject, tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    drawn = data.draw(conversations(tiny_processor.recipe))
    sequence = tiny_processor.weave(drawn.sample)
    assert len(sequence.ids) == len(sequence.labels) == len(sequence.owner) == len(sequence)
    for k, name in enumerate(tiny_processor.recipe.modalities, start=1):
        assert (sequence.owner == k).sum() == sum(i.tokens for i in sequence.items.get(name, []))
    batch = tiny_processor.batch([sequence])
    with torch.no_grad():
        embedded = tiny_model.embed(batch.input_ids, batch["items"], batch.item_places)
    assert embedded.shape == (1, len(sequence), 32)
    assert embedded.isfinite().all()


@RELAXED
@given(data=st.data())
def test_what_is_learned_is_the_assistants_text(
    data: st.DataObject, tiny_processor: Processor
) -> None:
    drawn = data.draw(conversations(tiny_processor.recipe))
    sequence = tiny_processor.weave(drawn.sample)
    learned = sequence.labels != IGNORE
    assert (sequence.labels[learned] == sequence.ids[learned]).all()
    assert (sequence.owner[learned] == 0).all()
    assert tiny_processor.weave.tokenizer.decode(sequence.ids[learned].tolist()) == drawn.learned
    assert sequence.targets == learned.sum()


def test_an_open_answer_needs_no_target(tiny_processor: Processor) -> None:
    closed = tiny_processor.weave(talk("What?", "A cup."))
    opened = tiny_processor.weave(talk("What?"), open_answer=True)
    assert opened.targets == 0
    assert closed.ids[: len(opened)].tolist() == opened.ids.tolist()


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (talk("What is this?"), "no target"),
        (talk((picture(), picture(), picture()), "A cup."), "3 items of 'image'.*places for 2"),
        (talk(Media.region(Point(1, 1)), "A cup."), "a picture, but no picture came before"),
        (
            talk((picture(), Media.region(Point(1, 1), on=1)), "A"),
            "picture 1, counted from 0, but 1 came before",
        ),
        (talk((Media.region(Point(1, 1)), picture()), "A cup."), "Put the picture before"),
        (talk(Media("audio", b""), "A cup."), "no place for an item of kind 'audio'"),
        (talk("Draw.", (picture(),)), "an answer holds an item of kind 'image'"),
        (Sample((), "talk"), "empty"),
        (Sample((Turn("assistant", ("a",)),), "talk"), "'user' was expected"),
    ],
)
def test_refused(sample: Sample, words: str, tiny_processor: Processor) -> None:
    with pytest.raises(SampleError, match=words) as caught:
        tiny_processor.weave(sample)
    assert caught.value.sentence().startswith("talk: ")
    assert caught.value.sentence().count("talk: ") == 1


def test_bad_items_are_refused_with_the_samples_name(tiny_processor: Processor) -> None:
    with pytest.raises(RegionError, match=r"^talk: .*outside"):
        tiny_processor.weave(talk((picture(40, 30), Media.region(Box(50, 0, 60, 9))), "a"))
    with pytest.raises(MediaError, match=r"^talk: "):
        tiny_processor.weave(talk((Media.image("/no/such/file.png"),), "a"))


def test_too_long_says_by_how_much_and_cuts_nothing(tiny_processor: Processor) -> None:
    sample = talk((picture(), "What is in this picture?"), "A cup.")
    long = len(tiny_processor.weave(sample))
    words = (
        tiny_processor.recipe,
        tiny_processor.weave.tokenizer,
        tiny_processor.weave.tokens_per_tile,
    )
    assert len(Weaver(*words, context=long)(sample)) == long
    with pytest.raises(ContextError, match=rf"{long} tokens \(49 of image\) are 5 more than"):
        Weaver(*words, context=long - 5)(sample)
    with pytest.raises(ContextError, match=r"and 7 kept for the answer are 7 more than"):
        Weaver(*words, context=long)(sample, room=7)


def test_items_placed_at_the_start_stand_right_after_bos() -> None:
    recipe = recipes.load("nano", ["modalities.image.place=start"])
    weave = Processor.from_recipe(recipe).weave
    sequence = weave(talk("Hello", "Hi", ("And this?", picture()), "A cup."))
    assert sequence.ids[0] == 1
    assert np.flatnonzero(sequence.owner == 1).tolist() == list(range(1, 50))
    inline = Processor.from_recipe(recipes.load("nano")).weave(talk((picture(), "?"), "A cup."))
    assert np.flatnonzero(inline.owner == 1)[0] > 1


def slotted() -> Recipe:
    return recipes.load(
        "nano",
        [
            "modalities.region.slots=4",
            "modalities.region.place=start",
            "modalities.image.place=start",
            "modalities.region.branches.0.encoders.0={kind: points_boxes, width: 16, slots: 4}",
        ],
    )


def test_slots_take_all_regions_of_a_sample_in_one_tile() -> None:
    weave = Processor.from_recipe(slotted()).weave
    marks = [Media.region(r) for r in every_region(40, 30)[:3]]
    sequence = weave(talk((picture(), "a", *marks[:2]), "b", ("c", marks[2]), "d"))
    (item,) = sequence.items["region"]
    assert item.tokens == (sequence.owner == 2).sum() == 4
    assert item.inputs[0].shape == (1, 4, 37)
    assert item.inputs[0][0, :3, 0].tolist() == [0, 1, 2]
    assert torch.equal(item.inputs[0][0, 3], FILLER)
    assert sequence.owner[:54].tolist() == [0] + [1] * 49 + [2] * 4
    with pytest.raises(SampleError, match=r"5 items of 'region'.*places for 4"):
        weave(talk((picture(), *[Media.region(Point(1, 1))] * 5), "b"))


def test_regions_become_text_where_the_recipe_has_no_place_for_them(tiny_recipe: Recipe) -> None:
    blind = tiny_recipe.model_copy(
        update={"modalities": {"image": tiny_recipe.modalities["image"]}}
    )
    processor = Processor.from_recipe(blind)
    marked = talk((picture(100, 100), "In ", Media.region(Box(0, 50, 20, 80)), "?"), "A cup.")
    sequence = processor.weave(marked)
    text = processor.weave.tokenizer.decode(sequence.ids[sequence.owner == 0].tolist())
    assert "In [0.00, 0.50, 0.20, 0.80]?" in text
    assert "region" not in sequence.items
    with pytest.raises(SampleError, match="but no picture came before"):
        processor.weave(talk(Media.region(Point(1, 1)), "A cup."))


def test_regions_look_at_the_picture_they_lie_on(tiny_processor: Processor) -> None:
    first, second, last = (Media.region(Point(1, 1), on) for on in (0, 1, None))
    sequence = tiny_processor.weave(talk((picture(), picture(), second, first, last), "a"))
    assert [item.on for item in sequence.items["region"]] == [1, 0, 1]


def test_a_typed_special_token_is_text(tiny_processor: Processor) -> None:
    """In questions and in answers, alone and beside the style's own words."""
    sequence = tiny_processor.weave(talk("a </s> b<pad>", "</s>c"))
    specials = tiny_processor.weave.tokenizer.specials
    text = sequence.ids[sequence.owner == 0].tolist()
    assert [i for i in text if i in specials] == [tiny_processor.weave.tokenizer.bos]
    assert "a </s> b<pad>" in tiny_processor.weave.tokenizer.decode(text)


def test_styles_of_released_families_read_contents_as_their_references_do(
    tiny_recipe: Recipe,
) -> None:
    processor = Processor.from_recipe(tiny_recipe)
    style = tiny_recipe.template.model_copy(update={"contents": "special"})
    sequence = processor.with_template(style).weave(talk("a </s>", "b"))
    assert processor.weave.tokenizer.eos in sequence.ids.tolist()


def test_ids_that_a_template_never_learns(tiny_recipe: Recipe) -> None:
    processor = Processor.from_recipe(tiny_recipe)
    sample = talk("Is it?", "yes it is yes")
    plain = processor.weave(sample)
    learned = plain.labels[plain.labels != IGNORE]
    never = int(learned[0])
    style = tiny_recipe.template.model_copy(update={"unlearned": (never,)})
    sequence = processor.with_template(style).weave(sample)
    assert sequence.ids.tolist() == plain.ids.tolist()
    kept = sequence.labels[sequence.labels != IGNORE]
    assert kept.tolist() == [token for token in learned if token != never] and len(kept) < len(
        learned
    )
