"""What an answer shows on its pictures: skeletons of bodies, places on one of several pictures, masks of a segmenter."""

from __future__ import annotations

import base64
import json
import tarfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from omnimix.generate.answers import Placed
from omnimix.generate.assistant import Assistant
from omnimix.media.poses import joined
from omnimix.media.tiles import View
from omnimix.regions import Box, Point, Region
from omnimix.registry import CODECS
from omnimix.segment.base import Segmenter, load_segmenter
from omnimix.types import Media
from tests.page.conftest import Scripted, Told, Visit, served
from tests.page.test_drawing import by_mouse
from tests.page.test_talking import SCENE, ask
from tests.segment.models import tiny_sam, tiny_sam_file

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
    # The convention's tags are gone, and its words are one link each.
    assert page.locator("button.words").all_inner_texts() == [
        "nose[0.500, 0.300]",
        "left_eye[0.520, 0.280]",
        "left_elbow[0.700, 0.600]",
    ]
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


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    folder = tmp_path_factory.mktemp("sam")
    return load_segmenter(tiny_sam_file(tiny_sam(folder), folder / "sam_vit_x.pth"), "cpu")


def test_masks_of_marks_and_answers_stand_beside_the_answer(
    visit: Visit, assistant: Assistant, words: Told, segmenter: Segmenter
) -> None:
    with served(Scripted(assistant, words), segmenter=segmenter) as address:
        page = visit(address)
        ask(page)
        page.get_by_role("button", name="Show masks").click()
        expect(page.get_by_role("alert")).to_contain_text("There is no mark and no place")
        words.placed = (Placed(0, Box(134, 30, 236, 132, label="a"), 0, 1, 0),)
        page.get_by_role("button", name="Conversations").click()
        page.get_by_role("button", name="New conversation").click()
        give(page)
        page.get_by_role("button", name="Point", exact=True).click()
        by_mouse(page, page.get_by_role("application"), [(20, 30), (20, 30)], False)
        ask(page)
        page.get_by_role("button", name="Show masks").click()
        masks = page.locator("article.model path.mask")
        expect(masks).to_have_count(2)
        labels = page.locator("article.model g.answer")
        assert [one.get_attribute("aria-label") for one in labels.all()] == ["#1", "a"]
        for mask, wanted in zip(masks.all(), segmenter.segment(SCENE, shown(words)), strict=True):
            x1, y1, x2, y2 = wanted.bounds()
            box = mask.evaluate(
                "m => { const b = m.getBBox(); return [b.x, b.y, b.width, b.height]; }"
            )
            assert box == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1)
        # The mask of a place lights up with its words.
        page.locator("button.words").hover()
        expect(labels.nth(1)).to_have_class("answer hue-1 on")
        page.get_by_role("button", name="Show masks").click()
        expect(masks).to_have_count(0)


def shown(words: Told) -> list[Region]:
    marks = [part.data for part in words.samples[-1].turns[-1].content if isinstance(part, Media)]
    return [*(one for one in marks if isinstance(one, Point)), words.placed[0].region]


def test_two_settings_of_one_model_answer_side_by_side(page: Page, words: Told) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Compare with").select_option(label="the same model, other settings")
    second = page.get_by_role("group", name="Beside it: the same model, other settings")
    second.get_by_label("Temperature").fill("0.7")
    second.get_by_label("Marks reach the model as").select_option("text")
    give(page)
    page.get_by_role("button", name="Point", exact=True).click()
    by_mouse(page, page.get_by_role("application"), [(20, 30), (20, 30)], False)
    ask(page)
    heads = page.locator("article.model .by").all_inner_texts()
    assert heads == [
        "nano · Temperature 0 · Marks reach the model as the model's best way",
        "nano · Temperature 0.7 · Marks reach the model as text",
    ]
    assert sorted(options.temperature for options in words.options) == [0, 0.7]
    assert sorted(str(options.pointing) for options in words.options) == ["None", "text"]
    expect(page.locator(".columns > section")).to_have_count(2)


def test_marks_reach_the_model_where_they_are_named_and_as_was_chosen(
    page: Page, words: Told
) -> None:
    give(page)
    page.get_by_role("button", name="Point", exact=True).click()
    svg = page.get_by_role("application")
    for spot in [(40, 50), (200, 180), (100, 20)]:
        by_mouse(page, svg, [spot, spot], False)
    page.get_by_label("Ask about it").fill("Is #3 in front of #2, or #9?")
    page.get_by_role("button", name="Settings").click()
    ways = page.get_by_label("Marks reach the model as")
    assert ways.locator("option").first.inner_text() == "the model's best way (tokens)"
    for way in ("tokens", "text", "marks"):
        ways.select_option(way)
        page.get_by_role("button", name="The prompt as the model sees it").click()
        expect(page.get_by_text(f"Marks reach the model as: {way}")).to_be_visible()
        seen = page.locator(".map").inner_text()
        assert ("region: 1" in seen) == (way == "tokens")
        assert ("[" in seen) == (way == "text"), seen
        assert ("mark 3" in seen) == (way == "marks"), seen
        page.get_by_role("button", name="Settings").click()
    ask(page, "Is #3 in front of #2, or #9?")
    assert words.options[-1].pointing == "marks"
    parts = words.samples[-1].turns[-1].content
    said = [
        (round(part.data.x), round(part.data.y))
        if isinstance(part.data, Point)
        else part.kind
        if isinstance(part, Media)
        else part
        for part in parts
        if not isinstance(part, str)
    ]
    # The mark that the question does not name stands behind its picture; a number that nothing has stays text.
    assert said == ["image", (40, 50), (100, 20), (200, 180)]
    assert [part for part in parts if isinstance(part, str)] == ["Is ", " in front of ", ", or #9?"]


def test_an_answer_is_liked_and_copied(visit: Visit, address: str, words: Told) -> None:
    for permissions in (["clipboard-read", "clipboard-write"], []):
        page = visit(address, permissions=permissions)
        if not permissions:  # as on a page without https, which has no clipboard
            page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
        ask(page)
        page.evaluate(
            "document.addEventListener('copy', () => (window.copied = getSelection().toString()))"
        )
        page.get_by_role("button", name="Copy").last.click()
        expect(page.get_by_text("Copied")).to_be_visible()
        script = "() => window.copied ?? navigator.clipboard.readText()"
        assert page.evaluate(script) == "a plain answer"
        for name in ("Good answer", "Bad answer"):
            page.get_by_role("button", name=name).click()
            expect(page.get_by_role("button", name=name)).to_have_attribute("aria-pressed", "true")
        expect(page.get_by_role("button", name="Good answer")).to_have_attribute(
            "aria-pressed", "false"
        )


def test_a_box_of_an_answer_is_corrected_for_training(
    page: Page, words: Told, tmp_path: Path
) -> None:
    says(words, "A <p>cup</p>[0.200, 0.300, 0.400, 0.500] and <p>a 3</p>[0.100, 0.200].")
    give(page)
    ask(page, "Where?")
    page.get_by_role("button", name="Correct").click()
    svg = page.locator("article.model").get_by_role("application")
    svg.scroll_into_view_if_needed()
    x1, y1, x2, y2 = words.placed[0].region.bounds()
    box, middle = words.placed[0].region, ((x1 + x2) / 2, (y1 + y2) / 2)
    by_mouse(page, svg, [middle, (middle[0] + 31.5, middle[1] + 51)], False)
    (x, y) = words.placed[1].region.bounds()[:2]
    by_mouse(page, svg, [(x, y), (x + 63, y)], False)
    text = "A <p>cup</p>[0.300, 0.500, 0.500, 0.700] and <p>a 3</p>[0.300, 0.200]."
    expect(page.get_by_label("Correct").first).to_have_value(text)
    page.get_by_role("button", name="Save", exact=True).click()
    moved = page.locator("article.user rect.shape").evaluate(
        "r => [r.x, r.y].map((v) => v.baseVal.value)"
    )
    assert moved == pytest.approx([box.bounds()[0] + 31.5, box.bounds()[1] + 51], abs=1)
    page.get_by_role("button", name="Keep and share").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as training rows (LLaVA)").click()
    download.value.save_as(tmp_path / "rows.tar")
    with tarfile.open(tmp_path / "rows.tar") as tar:
        (row,) = json.load(tar.extractfile("rows.json"))  # type: ignore[arg-type]
    assert row["conversations"][1] == {"from": "gpt", "value": text}


def test_an_imported_file_stays_text(page: Page, words: Told) -> None:
    bad = "<img src=x onerror=alert(1)> <script>alert(2)</script> \u202egnp " + "w" * 100_000
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9' onload='alert(3)'/>"
    url = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    size = {"width": 9, "height": 9}
    item = {"id": bad, "kind": "image", "name": bad, "url": url, "size": size}
    region = {"point": [1, 2], "label": bad, "joined": [bad], "index": bad}
    place = {"region": region, "item": bad, "start": 0, "end": 5, "label": bad}
    common = {"shown": 0, "marks": [], "items": [], "versions": [], "text": bad}
    mark = {"number": 1, "item": bad, "region": region}
    question = {**common, "id": "q", "parent": None, "role": "user"}
    answer = {"by": bad, "text": bad, "regions": [place], "state": "done"}
    turns = [
        {**question, "items": [item], "marks": [mark]},
        {**common, "id": "a", "parent": "q", "role": "assistant", "versions": [answer]},
    ]
    file = {"form": "omnimix-conversation-1", "title": bad, "leaf": "a", "turns": turns}
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.get_by_role("button", name="Keep and share").click()
    content = {"name": "a.json", "mimeType": "", "buffer": json.dumps(file).encode()}
    page.set_input_files("input.import", content)
    expect(page.locator("article")).to_have_count(2)
    page.get_by_role("button", name="Conversations").click()
    for text in ("article.user .said", "article.model .markdown", ".sidebar li bdi"):
        expect(page.locator(text)).to_contain_text("<script>alert(2)</script>")
    assert page.locator("img[src=x], script:not([src])").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
