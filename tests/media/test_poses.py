"""Key points of an answer become bodies with their skeleton."""

from __future__ import annotations

import pytest
from PIL import Image

from omnimix.media.drawing import colour, draw
from omnimix.media.poses import LIMBS, NAMES, joined
from omnimix.media.tiles import View
from omnimix.registry import CODECS
from omnimix.types import Box, Point, Region


def read(text: str) -> list[Region]:
    return list(CODECS.load("sphinx")().read(text, View.whole(200, 100)).regions)


def said(*names: str) -> list[tuple[int, ...]]:
    return joined([Point(i, i, label=name) for i, name in enumerate(names)])


def test_a_whole_person_has_cocos_skeleton() -> None:
    text = ", ".join(f"<p>{name}</p>[0.{i + 10}, 0.500]" for i, name in enumerate(NAMES))
    lines = joined(read(text))
    assert len(NAMES) == 17 and sum(map(len, lines)) == len(LIMBS) == 19
    assert lines[:3] == [(), (0,), (0, 1)]
    assert lines[NAMES.index("left wrist")] == (NAMES.index("left elbow"),)


@pytest.mark.parametrize("left", ["left_elbow", "Left Elbow", " left-elbow "])
def test_names_are_read_as_conventions_write_them(left: str) -> None:
    assert said("left_wrist", left) == [(), (0,)]


def test_people_are_kept_apart() -> None:
    # One after another; a name that is seen again begins the next.
    assert said("nose", "left eye", "right eye", "left eye", "left ear") == [
        (),
        (0,),
        (0, 1),
        (),
        (3,),
    ]
    # Name by name, as in one bracket.
    text = "<p>nose</p>[0.100, 0.200;0.500, 0.200] <p>left eye</p>[0.110, 0.190;0.510, 0.190]"
    assert joined(read(text)) == [(), (), (0,), (1,)]
    # A region that is no key point lies between two.
    people = [Point(1, 1, label="nose"), Box(0, 0, 9, 9, label="person")]
    assert joined([*people, Point(2, 2, label="left eye")]) == [(), (), ()]


def test_other_points_are_joined_with_nothing() -> None:
    assert said("nose", "door", "left eye", "") == [()] * 4
    assert joined([Box(0, 0, 9, 9, label="nose"), Point(3, 3, label="left eye")]) == [(), ()]


def test_the_skeleton_is_drawn() -> None:
    eyes = [Point(20, 50, label="left eye"), Point(180, 50, label="right eye")]
    pictures = [draw(Image.new("RGB", (900, 100)), [one], labels=False) for one in eyes]
    assert all(picture.getpixel((100, 50)) == (0, 0, 0) for picture in pictures)
    assert draw(Image.new("RGB", (900, 100)), eyes, labels=False).getpixel((100, 50)) == colour(1)
