"""Where regions go in a typed question."""

from __future__ import annotations

import pytest

from omnimix.errors import SampleError
from omnimix.generate.asking import interleaved, question
from omnimix.types import Box, Media, Point, Region, Stroke, Turn

BOX, POINT, STROKE = Box(1, 2, 30, 40), Point(5, 6), Stroke(((1, 1), (9, 9)))


def shown(turn: Turn) -> str:
    """The turn with `<Kind>` where a region stands."""
    return "".join(
        f"<{type(p.data).__name__ if p.kind == 'region' else p.kind}>"
        if isinstance(p, Media)
        else p
        for p in turn.content
    )


@pytest.mark.parametrize(
    ("text", "regions", "wanted"),
    [
        ("What is in the box?", [BOX], "What is in <Box>?"),
        ("What is in THIS BOX?", [BOX], "What is in <Box>?"),
        ("What colour is here?", [POINT], "What colour is at <Point>?"),
        ("Which shape is under the stroke?", [STROKE], "Which shape is under <Stroke>?"),
        ("Is the box left of the point?", [BOX, POINT], "Is <Box> left of <Point>?"),
        ("What is it?", [POINT], "What is it at <Point>?"),
        ("What is it?", [BOX, STROKE], "What is it in <Box> and under <Stroke>?"),
        ("Describe", [BOX], "Describe in <Box>"),
        ("Is {2} left of {1}?", [BOX, POINT], "Is <Point> left of <Box>?"),
        ("{1}", [BOX], "<Box>"),
        ("Is the boxer here?", [BOX], "Is the boxer in <Box>?"),
        ("What is in the box?", [], "What is in the box?"),
        ("A literal {1}", [], "A literal {1}"),
    ],
)
def test_regions_stand_where_the_words_point(text: str, regions: list[Region], wanted: str) -> None:
    assert shown(question(text, (), regions)) == wanted


def test_pictures_come_first() -> None:
    assert shown(question("Hi", ["a.png", Media.image("b.png")])) == "<image><image>Hi"


@pytest.mark.parametrize("text", ["{1} and {2}", "{2}", "{0}"])
def test_placeholders_and_regions_must_agree(text: str) -> None:
    with pytest.raises(SampleError, match="placeholder"):
        question(text, (), [BOX])


def test_marks_in_a_text_become_pictures() -> None:
    turn = interleaved("<image>\nIs it like <image>?", ["a.png", "b.png"])
    assert shown(turn) == "<image>\nIs it like <image>?"
    assert [part.data for part in turn.content if isinstance(part, Media)] == ["a.png", "b.png"]
    assert interleaved("Look: [1]", ["a.png"], mark="[1]").content[0] == "Look: "
    with pytest.raises(SampleError, match="2 marks <image> for 1 pictures"):
        interleaved("<image><image>", ["a.png"])
