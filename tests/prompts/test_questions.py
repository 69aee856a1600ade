"""Where regions go in a typed question."""

from __future__ import annotations

from typing import Any

import pytest

from omnimix.errors import SampleError
from omnimix.prompts.questions import conversation_of, interleaved, question, sample_of, several
from omnimix.types import Box, Media, Point, Region, Sample, Stroke, Turn

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


SOUND, OTHER = Media.audio("s.wav"), Media("signal", [1.0])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Hi", "<image><image><audio><signal>Hi"),
        ("{audio:1} or {image:2}?", "<image><signal><audio> or <image>?"),
        ("{signal:1}{image:1}{image:2}{audio:1}", "<signal><image><image><audio>"),
        (
            "{video:1} and <image> are text",
            "<image><image><audio><signal>{video:1} and <image> are text",
        ),
        ("{image} {image: 1} {:1}", "<image><image><audio><signal>{image} {image: 1} {:1}"),
    ],
)
def test_items_stand_in_front_or_where_they_are_named(text: str, wanted: str) -> None:
    assert shown(question(text, ["a.png", "b.png"], (), [SOUND, OTHER])) == wanted


def test_named_pictures_and_regions_go_together() -> None:
    turn = question("In {image:1}, what is in {1}?", ["a.png"], [BOX])
    assert shown(turn) == "In <image>, what is in <Box>?"
    assert shown(question("In {image:1} the box?", ["a.png"], [BOX])) == "In <image> <Box>?"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{image:3}", "{image:3} has no item .2 of image were given"),
        ("{image:0}", "{image:0} has no item"),
        ("{image:1} {image:1}", "{image:1} stands twice"),
    ],
)
def test_marks_and_items_must_agree(text: str, says: str) -> None:
    with pytest.raises(SampleError, match=says):
        question(text, ["a.png", "b.png"])


def test_questions_in_any_form() -> None:
    turn = question(["Is ", SOUND, " loud?"], ["a.png"])
    assert shown(turn) == "<image>Is <audio> loud?"
    sample = Sample((turn,))
    assert conversation_of(sample) is sample
    assert conversation_of([turn]) == [turn]
    assert [shown(one) for one in conversation_of(["Is ", SOUND])] == ["Is <audio>"]
    assert [shown(one) for one in conversation_of("Hi")] == ["Hi"]
    with pytest.raises(SampleError, match="an item of no kind, int"):
        question(["Is ", 7])
    with pytest.raises(SampleError, match="an item of no kind, str"):
        question("Is", (), (), ["a.wav"])
    with pytest.raises(SampleError, match="regions beside a question in parts"):
        question(["Is"], ["a.png"], [BOX])


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


@pytest.mark.parametrize("text", ["What is in {1}?", "{1}", "Is {2}, or not"])
def test_a_placeholder_beside_a_picture_needs_a_region(text: str) -> None:
    with pytest.raises(SampleError, match="has no region"):
        question(text, ["a.png"])
    assert shown(question([text], ["a.png"])) == f"<image>{text}"


@pytest.mark.parametrize(
    "text", ["Solve x^{2} = \\frac{1}{2}", "What prints f({1})?", "{image:1} {0}"]
)
def test_other_braces_beside_a_picture_are_text(text: str) -> None:
    assert shown(question(text, ["a.png"])).removeprefix("<image>") in (text, text[9:])


def test_one_region_needs_no_list_and_other_things_are_none() -> None:
    assert shown(question("What is in the box?", (), BOX)) == "What is in <Box>?"  # type: ignore[arg-type]
    for text in ("What?", "{1}", ["What?"]):
        with pytest.raises(SampleError, match="a region is a tuple"):
            question(text, ["a.png"], [(1, 2, 3, 4)])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("hello", "not a text"),
        (None, "not null"),
        (Turn("user", ("Hi",)), "not a Turn"),
        (["What?"], "not a list with a text"),
        ([], "not an empty list"),
    ],
)
def test_what_is_no_conversation(given: Any, told: str) -> None:
    with pytest.raises(SampleError, match=told):
        sample_of(given)


@pytest.mark.parametrize("given", ["hello", None, Turn("user", ("Hi",)), {"a": 1}])
def test_several_come_in_a_list(given: Any) -> None:
    with pytest.raises(SampleError, match=r"questions come in a list, not as (a |null)"):
        several(given, "questions")


def test_a_question_is_a_text_or_its_parts() -> None:
    with pytest.raises(SampleError, match=r"a question is a text, .* not null"):
        conversation_of(None)  # type: ignore[arg-type]
