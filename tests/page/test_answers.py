"""What an answer shows on its pictures: skeletons of bodies, places on one of several pictures, masks of a segmenter."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from omnimix.generate.answers import Placed
from omnimix.media.poses import joined
from omnimix.media.tiles import View
from omnimix.regions import Box
from omnimix.registry import CODECS
from tests.page.conftest import Told
from tests.page.test_talking import SCENE, ask

POSE = "<p>nose</p>[0.500, 0.300], <p>left_eye</p>[0.520, 0.280], <p>left_elbow</p>[0.700, 0.600]."


def says(words: Told, text: str) -> None:
    """An answer in SPHINX's convention about the scene, with its places as an assistant finds them."""
    found = CODECS.load("sphinx")().read(text, View.whole(315, 255))
    lines = joined(found.regions)
    words.pieces = [text]
    words.placed = tuple(
        Placed(i, region, *found.spans[i], 0, lines[i]) for i, region in enumerate(found.regions)
    )


def give(page: Page, count: int = 1) -> None:
    page.set_input_files("input[type=file]", [SCENE] * count)
    expect(page.get_by_role("application")).to_have_count(count)


def test_a_pose_is_drawn_with_its_skeleton(page: Page, words: Told) -> None:
    says(words, POSE)
    give(page)
    ask(page, "Detect the key points.")
    picture = page.get_by_role("application").first
    limbs = picture.locator("line.limb:not(.halo)")
    expect(limbs).to_have_count(1)
    ends = limbs.evaluate("l => [l.x1, l.y1, l.x2, l.y2].map((v) => v.baseVal.value)")
    wanted = [*words.placed[0].region.bounds()[:2], *words.placed[1].region.bounds()[:2]]
    assert max(abs(a - b) for a, b in zip(ends, wanted, strict=True)) < 0.1
    # Names of key points would hide the body: one is written while it is pointed at.
    places = picture.locator("g.answer")
    expect(places).to_have_count(3)
    expect(picture.locator("g.answer .badge")).to_have_text(["left_elbow"])
    page.get_by_role("button", name="nose").first.hover()
    expect(places.first).to_have_class("answer hue-0 on")
    expect(picture.locator("g.answer .badge")).to_have_text(["nose", "left_elbow"])


def test_a_place_is_drawn_on_its_own_picture_alone(page: Page, words: Told) -> None:
    words.placed = (Placed(0, Box(10, 10, 60, 60), 0, 1, 1),)
    give(page, 2)
    ask(page)
    expect(page.get_by_role("application").nth(0).locator("g.answer")).to_have_count(0)
    expect(page.get_by_role("application").nth(1).locator("g.answer")).to_have_count(1)
