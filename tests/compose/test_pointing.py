"""How drawn regions reach a model, and how an answer points back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnimix.compose import recipe as recipes
from omnimix.compose.pointing import point, readable, way
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.compose.sequence import IGNORE
from omnimix.errors import OmnimixError, RecipeError, RegionError, SampleError
from omnimix.types import Box, Media, Part, Point, Region, Sample, Turn
from tests.compose.conversations import picture, talk
from tests.conftest import TINY

BOX = Box(4, 6, 20, 25)


def without_regions(recipe: Recipe, **words: Any) -> Recipe:
    data = recipe.dump()
    del data["modalities"]["region"]
    return recipes.parse({**data, **words}, "test")


@pytest.fixture(scope="module")
def marking(tiny_recipe: Recipe) -> Processor:
    return Processor.from_recipe(without_regions(tiny_recipe, marks={}))


@pytest.fixture(scope="module")
def writing(tiny_recipe: Recipe) -> Processor:
    return Processor.from_recipe(without_regions(tiny_recipe))


def shown(processor: Processor, ids: Any, owner: Any) -> str:
    return processor.weave.tokenizer.decode(
        [int(i) for i, o in zip(ids, owner, strict=True) if o == 0]
    )


def test_the_recipe_decides_and_the_caller_may_wish(tiny_recipe: Recipe) -> None:
    assert way(tiny_recipe) == "tokens"
    assert way(without_regions(tiny_recipe)) == "text"
    marks = without_regions(tiny_recipe, marks={"name": "[{number}]"})
    assert way(marks) == "marks" and recipes.parse(marks.dump(), "again") == marks
    assert way(tiny_recipe, "text") == "text" and way(tiny_recipe, "marks") == "marks"
    with pytest.raises(SampleError, match="has no tokens for regions"):
        way(marks, "tokens")
    with pytest.raises(SampleError, match=r"'lines'.*tokens, text, marks"):
        way(marks, "lines")
    with pytest.raises(RecipeError, match="number"):
        without_regions(tiny_recipe, marks={"name": "mark"})


def test_old_recipes_keep_their_coordinates() -> None:
    assert recipes.load("nano").coordinates.kind == "fractions"
    assert recipes.load("sphinx").coordinates.kind == "sphinx"
    assert recipes.load("sphinx_v").coordinates.kind == "sphinx_v"
    again = recipes.parse(recipes.load("nano").dump(), "again")
    assert again == recipes.load("nano")
    with pytest.raises(RecipeError, match=r"'sphynx'.*sphinx"):
        recipes.load("nano", ["coordinates={kind: sphynx}"])


def test_three_ways_of_one_question(tiny_processor: Processor, writing: Processor) -> None:
    sample = talk((picture(), "What is in ", Media.region(BOX), "?"))
    tokens = tiny_processor.weave(sample, True)
    assert len(tokens.items["region"]) == 1 and tokens.way == "tokens"
    for woven in (writing.weave(sample, True), tiny_processor.weave(sample, True, pointing="text")):
        assert "region" not in woven.items and woven.way == "text"
        assert "[0.10, 0.28, 0.50, 0.75]" in shown(writing, woven.ids, woven.owner)
    marked = tiny_processor.weave(sample, True, pointing="marks")
    assert "region" not in marked.items and marked.asked == (BOX,)
    assert "mark 1" in shown(writing, marked.ids, marked.owner)
    plain, drawn = (w.items["image"][0].inputs[0].float() for w in (tokens, marked))
    assert not plain.equal(drawn)


def test_marks_are_numbered_across_pictures(marking: Processor) -> None:
    first, second = picture(80, 60), picture(60, 80, seed=1)
    other = Box(30, 30, 50, 50)
    turn = (first, second, "Is ", Media.region(BOX, on=0), " like ", Media.region(other), "?")
    pointed = point(marking.recipe, talk(turn))
    assert pointed.way == "marks" and pointed.asked == (BOX, other)
    assert pointed.sample.turns[0].text() == "Is mark 1 like mark 2?"
    for before, after in zip((first, second), pointed.sample.media("image"), strict=True):
        changed = np.any(np.asarray(before.data) != np.asarray(after.data), axis=2)
        assert after.data.size == before.data.size
        assert 0.01 < changed.mean() < 0.6
    assert not pointed.sample.media("region")
    # What was answered with coordinates stays an answer.
    answered = talk((first, "Where?"), (Media.region(BOX),))
    assert point(marking.recipe, answered).sample is answered


def test_an_answer_may_name_a_mark(marking: Processor) -> None:
    woven = marking.weave(
        talk((picture(), Media.region(BOX), " or ", Media.region(Point(3, 3)), "?")), True
    )
    reading = readable(
        marking.recipe, "Mark 2, not mark 1 or mark 12", woven.pictures[-1], woven.asked, woven.way
    )
    assert reading.regions == (Point(3, 3), BOX)
    assert [one.text for one in reading.skipped] == ["mark 12"]


def test_sphinx_v_names_regions_behind_words(tiny_recipe: Recipe) -> None:
    words = ["coordinates={kind: sphinx_v}"]
    recipe = recipes.parse(tiny_recipe.dump(), "test", words)

    def text(*regions: Region, front: bool) -> str:
        marks = [Media.region(region) for region in regions]
        parts = (*marks, "Compare them.") if front else ("What is in ", *marks, "?")
        return point(recipe, talk((picture(), *parts))).sample.turns[0].text()

    assert text(BOX, front=False) == "What is in <Region 1>?"
    assert text(BOX, Point(1, 1), front=False) == "What is in <Region 1><Region 2>?"
    assert text(Point(2, 2), Point(1, 1), front=False) == "What is in <Mark 1><Mark 2>?"
    assert text(BOX, front=True) == "Compare them."


OFF = Box(100, 100, 120, 130)
FLAT = Box(5, 5, 5, 20)


@pytest.mark.parametrize("wish", ["tokens", "text", "marks"])
@pytest.mark.parametrize(
    ("media", "said"),
    [
        (Media.region(OFF), "lies outside the picture of 40 x 30 pixels"),
        (Media.region(FLAT), "has no extent"),
        (Media.region(Point(float("nan"), 3)), "not finite"),
        (Media.region(BOX, on=1), "picture 1, counted from 0, but 1 came"),
        (Media.region(BOX, on=-1), "picture -1, counted from 0, but 1 came"),
    ],
)
def test_bad_regions_are_refused_on_every_way(
    tiny_processor: Processor, wish: str, media: Media, said: str
) -> None:
    sample = Sample((Turn("user", (picture(), "What is ", media, "?")),), "q7")
    with pytest.raises(OmnimixError, match=said) as caught:
        tiny_processor.weave(sample, True, pointing=wish)
    assert caught.value.where is not None and caught.value.where.startswith("q7")


@pytest.mark.parametrize("wish", ["tokens", "text", "marks"])
def test_a_region_without_a_picture_is_refused(tiny_processor: Processor, wish: str) -> None:
    sample = talk(("What is ", Media.region(BOX), "?"))
    with pytest.raises(SampleError, match="no picture came before it"):
        tiny_processor.weave(sample, True, pointing=wish)


def test_answers_outside_their_picture_are_refused(tiny_processor: Processor) -> None:
    with pytest.raises(RegionError, match="outside"):
        tiny_processor.weave(talk((picture(), "Where?"), (Media.region(OFF),)))


def test_marks_follow_the_size_of_the_picture(marking: Processor) -> None:
    """A share of the picture that stays alike, so that marks survive being made smaller."""
    shares = []
    for width, height in ((400, 300), (4000, 3000)):
        blank = Media.image(Image.new("RGB", (width, height), "white"))
        region = Box(width * 0.3, height * 0.3, width * 0.6, height * 0.6)
        drawn = point(marking.recipe, talk((blank, Media.region(region)))).sample
        pixels = np.asarray(drawn.media("image")[0].data)
        shares.append(float((pixels != 255).any(axis=2).mean()))
    assert shares[1] == pytest.approx(shares[0], rel=0.35)


def test_neighbouring_answers_stand_in_one_bracket() -> None:
    """SPHINX's several boxes; with text between them each has its own."""
    processor = Processor.from_recipe(recipes.load("nano", (*TINY, "coordinates={kind: sphinx}")))
    boxes = [Media.region(Box(0, 0, 20, 20)), Media.region(Box(20, 20, 40, 40))]

    def answer(*parts: Part) -> str:
        woven = processor.weave(talk((picture(40, 40), "Find both."), parts))
        return processor.weave.tokenizer.decode(woven.ids[woven.labels != IGNORE].tolist()).strip()

    one = "0.000, 0.000, 0.500, 0.500"
    other = "0.500, 0.500, 1.000, 1.000"
    assert answer(*boxes) == f"[{one};{other}]"
    assert answer(boxes[0], " ", boxes[1]) == f"[{one}] [{other}]"
