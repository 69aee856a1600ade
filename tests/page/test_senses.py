"""Pictures, sounds, videos and documents on the page: each stands where the question says, and is there to be seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

import omnimix
from omnimix.generate.assistant import Assistant
from omnimix.types import Media
from tests.compose import senses
from tests.media.test_video import film
from tests.page.conftest import Scripted, Told, Visit, served
from tests.page.test_drawing import by_mouse
from tests.page.test_talking import ask

NOTES = b"one two three four"


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Assistant:
    """A tiny model of every sense, with random weights."""
    place = tmp_path_factory.mktemp("senses")
    return omnimix.load(senses.saved(place), device="cpu")


@pytest.fixture(scope="module")
def senses_address(hearing: Assistant, told: Told) -> Iterator[str]:
    with served(Scripted(hearing, told)) as address:
        yield address


@pytest.fixture
def open_page(visit: Visit, senses_address: str, words: Told) -> Page:
    return visit(senses_address)


def give(page: Page, name: str, kind: str, content: bytes) -> None:
    page.set_input_files("input[type=file]", {"name": name, "mimeType": kind, "buffer": content})


def content(words: Told, turn: int = -1) -> list[str]:
    """What a turn holds: its texts, and of items what they are."""
    parts = words.samples[-1].turns[turn].content
    return [part.kind if isinstance(part, Media) else part for part in parts]


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    senses.picture(0).save(tmp_path / "a.png")
    return (tmp_path / "a.png").read_bytes()


def test_each_item_stands_where_the_question_says(
    open_page: Page, words: Told, picture: bytes
) -> None:
    page = open_page
    give(page, "a.png", "image/png", picture)
    give(page, "ask.wav", "audio/wav", senses.wave())
    give(page, "clip.webm", "video/webm", film(12, "webm", "libvpx"))
    give(page, "notes.txt", "text/plain", NOTES)
    expect(page.locator(".composer figure")).to_have_count(4)
    expect(page.locator(".composer audio")).to_have_attribute("aria-label", "ask.wav")
    box = page.get_by_label("Ask about it")
    for text, name in [("Read", "notes.txt"), ("then hear", "ask.wav"), ("and watch", "clip.webm")]:
        box.press("End")
        box.press_sequentially(text)
        page.get_by_role("button", name=f"Mention {name}").click()
    expect(box).to_have_value("Read [item 4] then hear [item 2] and watch [item 3] ")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("tokens in")).to_have_count(1)
    # The picture is not mentioned: it stands before the question.
    assert content(words) == [
        "image",
        "Read ",
        "document",
        " then hear ",
        "audio",
        " and watch ",
        "video",
    ]
    question = page.locator("article.user")
    expect(question.locator("figure")).to_have_count(4)
    expect(question.locator("audio, video")).to_have_count(2)
    # Another turn goes on about them, and its own items are counted anew.
    give(page, "more.txt", "text/plain", NOTES)
    ask(page, "And [item 1]?")
    assert content(words) == ["And ", "document", "?"]
    assert content(words, 0)[0] == "image"


def test_a_frame_of_a_video_becomes_a_picture(open_page: Page, words: Told) -> None:
    page = open_page
    give(page, "clip.webm", "video/webm", film(12, "webm", "libvpx"))
    page.locator("video").evaluate(
        "v => new Promise((done) => { v.onseeked = done; v.currentTime = 0.6; })"
    )
    page.get_by_role("button", name="Take this frame as a picture").click()
    expect(page.get_by_role("application")).to_have_attribute(
        "aria-label",
        "Picture 2: clip.webm at 0.6 s.png. Free-hand: press Enter to begin and end, "
        "arrow keys to move (with Shift: faster), Escape to leave off.",
    )
    expect(page.locator(".composer figcaption").last).to_contain_text("64")
    page.get_by_role("button", name="Remove", exact=True).first.click()
    ask(page)
    assert content(words) == ["image", "What is it?"]


def test_a_video_that_the_browser_cannot_show_is_sent_all_the_same(
    open_page: Page, words: Told
) -> None:
    page = open_page
    give(page, "clip.mp4", "video/mp4", film(12))
    expect(page.get_by_text("This browser cannot play clip.mp4")).to_be_visible()
    expect(page.get_by_role("button", name="Take this frame")).to_have_count(0)
    ask(page)
    assert content(words) == ["video", "What is it?"]


def test_too_much_is_refused_before_it_is_sent(
    visit: Visit, hearing: Assistant, words: Told, picture: bytes
) -> None:
    with served(Scripted(hearing, words), max_bytes=400_000, max_items=3) as address:
        page = visit(address)
        alert = page.get_by_role("alert").last
        give(page, "long.wav", "audio/wav", b"RIFF" + bytes(2**20))
        expect(alert).to_contain_text("long.wav has 1.0 MB; this server takes at most 0.2 MB.")
        give(page, "a.txt", "text/plain", bytes(150_000))
        give(page, "b.txt", "text/plain", bytes(150_000))
        expect(alert).to_contain_text("With b.txt the conversation's files have 0.3 MB")
        give(page, "a.png", "image/png", picture)
        svg = page.get_by_role("application")
        page.get_by_role("button", name="Point", exact=True).click()
        for spot in [(5, 5), (9, 9)]:
            by_mouse(page, svg, [spot, spot], False)
        expect(alert).to_contain_text("at most 3 items and marks in a conversation")
        expect(svg.locator("g.mark")).to_have_count(1)
        give(page, "c.txt", "text/plain", NOTES)
        expect(page.get_by_role("alert")).to_have_count(4)
        assert words.samples == []
        # All that was let in is taken.
        ask(page)
        assert content(words)[:3] == ["document", "image", "region"]
