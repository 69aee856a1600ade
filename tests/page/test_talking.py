"""A conversation on the page: what streams, what is drawn back, what is kept, and what others' text cannot do."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from omnimix.generate.answers import Placed
from omnimix.generate.assistant import Assistant
from omnimix.regions import Box, Mask
from omnimix.types import Media
from tests.page.conftest import Scripted, Told, served, until
from tests.page.test_drawing import by_mouse

SCENE = Path(__file__).parents[2] / "examples" / "scene.png"
LOOKS = Path(__file__).parents[2] / "docs" / "images" / "page"
HOSTILE = "<img src=x onerror=alert(1)> <script>alert(2)</script> \u202egnp.exe " + "w" * 100_000


def ask(page: Page, question: str = "What is it?") -> None:
    done = page.get_by_text("tokens in").count()
    page.get_by_label("Ask about it").fill(question)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("tokens in")).to_have_count(done + 1)


def last(page: Page) -> str:
    return page.locator("article.model .markdown").last.inner_text()


def test_an_answer_is_seen_growing(page: Page, words: Told) -> None:
    words.pieces, words.allowed = ["one ", "two ", "three ", "four"], 2
    page.get_by_label("Ask about it").fill("count")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".markdown")).to_have_text("one two")
    expect(page.locator("article.model")).to_have_attribute("aria-busy", "true")
    words.allowed = 3
    expect(page.locator(".markdown")).to_have_text("one two three")
    words.allowed = 4
    expect(page.locator(".markdown")).to_have_text("one two three four")
    expect(page.locator("article.model")).to_have_attribute("aria-busy", "false")


def test_stopping_leaves_what_there_is_and_ends_the_writing(page: Page, words: Told) -> None:
    words.pieces, words.allowed = ["word "] * 200, 3
    page.get_by_label("Ask about it").fill("go on")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".markdown")).to_have_text("word word word")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    until(page, lambda: words.cancelled == 1)
    words.allowed = 200
    ask(page, "and on")
    assert page.locator(".markdown").first.inner_text().split() == ["word"] * 3


def test_a_place_in_the_answer_is_drawn_and_linked_with_its_words(page: Page, words: Told) -> None:
    mask = Mask.of(Box(20, 30, 40, 60), 315, 255)
    words.pieces = ["A cup [1, 2] and a **mug**."]
    words.placed = (
        Placed(0, Box(134.5, 30, 236, 132, label="cup"), 2, 5, 0),
        Placed(1, mask, 17, 24, 0),
    )
    page.set_input_files("input[type=file]", SCENE)
    page.get_by_role("application").wait_for()
    ask(page)
    svg = page.get_by_role("application").first
    rect = svg.locator("g.answer rect.shape")
    place = rect.evaluate("r => [r.x, r.y, r.width, r.height].map((v) => v.baseVal.value)")
    assert place == pytest.approx([134.5, 30, 101.5, 102], abs=0.01)
    box, on = (
        rect.bounding_box(),
        svg.evaluate(
            "s => { const a = new DOMPoint(134.5, 30).matrixTransform(s.getScreenCTM()); return [a.x, a.y]; }"
        ),
    )
    assert box is not None
    assert [box["x"], box["y"]] == pytest.approx(on, abs=2)
    assert svg.locator("g.answer path.mask").count() == 1
    page.locator("button.words").first.hover()
    expect(svg.locator("g.answer").first).to_have_class("answer hue-0 on")
    svg.locator("g.answer").nth(1).focus()
    expect(page.locator("button.words").nth(1)).to_have_class("words hue-1 on")
    assert page.locator("button.words").first.inner_text() == "cup"


def test_retrying_editing_and_branches(page: Page, words: Told) -> None:
    ask(page, "first")
    words.pieces = ["another answer"]
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".markdown")).to_have_text("another answer")
    page.get_by_role("group", name="Answer 2 of 2").get_by_role("button", name="Previous").click()
    expect(page.locator(".markdown")).to_have_text("a plain answer")
    page.get_by_role("button", name="Edit").first.click()
    assert page.get_by_label("Ask about it").input_value() == "first"
    ask(page, "second")
    expect(page.get_by_role("group", name="Question 2 of 2")).to_be_visible()
    page.get_by_role("group", name="Question 2 of 2").get_by_role("button", name="Previous").click()
    expect(page.locator("p.said")).to_have_text("first")
    page.get_by_role("button", name="Good answer").click()
    expect(page.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")


def test_two_turns_are_one_conversation_and_earlier_pictures_are_drawn_on(
    page: Page, words: Told
) -> None:
    page.set_input_files("input[type=file]", SCENE)
    page.get_by_role("application").wait_for()
    ask(page, "first")
    page.get_by_role("button", name="Draw on this picture").click()
    svg = page.get_by_role("application").last
    box = svg.bounding_box()
    assert box is not None
    page.get_by_role("button", name="Point", exact=True).click()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    ask(page, "and #1?")
    turns = words.samples[-1].turns
    assert [turn.role for turn in turns] == ["user", "assistant", "user"]
    region = next(part for part in turns[2].content if isinstance(part, Media))
    assert region.kind == "region"
    assert region.on == 0


def test_what_is_kept_comes_back(page: Page, words: Told, tmp_path: Path) -> None:
    page.set_input_files("input[type=file]", SCENE)
    page.get_by_role("application").wait_for()
    ask(page, "kept?")
    page.get_by_role("button", name="Correct").click()
    page.get_by_label("Correct").first.fill("a better answer")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_role("button", name="Keep and share").click()

    def saved(name: str) -> Path:
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        download.value.save_as(tmp_path / download.value.suggested_filename)
        return tmp_path / download.value.suggested_filename

    data, html = saved("Save as JSON"), saved("Save as a page")
    assert "a better answer" in html.read_text()
    rows = saved("Save as training rows (LLaVA)")
    with tarfile.open(rows) as tar:
        tar.extractall(tmp_path / "rows", filter="data")
    (row,) = json.loads((tmp_path / "rows" / "rows.json").read_text())
    assert row["conversations"][1] == {"from": "gpt", "value": "a better answer"}
    assert (tmp_path / "rows" / row["image"]).read_bytes() == SCENE.read_bytes()
    page.get_by_role("button", name="This request in Python").click()
    expect(page.locator("pre.code")).to_contain_text("client.chat.completions.create(")
    page.reload()
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("button", name="kept?", exact=True).click()
    expect(page.locator(".markdown")).to_have_text("a better answer")
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("button", name="Remove the conversation kept?").click()
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("button", name="Keep and share").click()
    page.set_input_files("input.import", data)
    expect(page.locator(".markdown")).to_have_text("a better answer")
    page.set_input_files("input.import", {"name": "bad.json", "mimeType": "", "buffer": b"[1]"})
    expect(page.get_by_text("bad.json is no saved conversation: it is no table.")).to_be_visible()


def test_rows_of_the_page_are_read_for_training(page: Page, words: Told, tmp_path: Path) -> None:
    page.set_input_files("input[type=file]", SCENE)
    svg = page.get_by_role("application")
    svg.wait_for()
    by_mouse(page, svg, [(40, 40), (200, 200)], False)
    ask(page, "What is #1?")
    page.get_by_role("button", name="Keep and share").click()
    for form in ("LLaVA", "MDVP"):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Save as training rows ({form})").click()
        download.value.save_as(tmp_path / "rows.tar")
        with tarfile.open(tmp_path / "rows.tar") as tar:
            tar.extractall(tmp_path / form, filter="data")
    from omnimix.registry import DATASETS

    marked = DATASETS.load("mdvp")(path="rows.yaml").open(tmp_path / "MDVP")
    assert len(marked.records) == 1
    sample = marked[0]
    assert [part.kind for part in sample.turns[0].content if isinstance(part, Media)] == [
        "image",
        "region",
    ]


def test_files_are_refused_before_anything_is_sent(page: Page, words: Told) -> None:
    def give(name: str, kind: str, content: bytes) -> None:
        file = {"name": name, "mimeType": kind, "buffer": content}
        page.set_input_files("input[type=file]", file)

    give("a.wav", "audio/wav", b"RIFF")
    expect(page.get_by_text("a.wav: this model takes no audio.")).to_be_visible()
    give("b.png", "image/png", b"no picture")
    expect(page.get_by_text("b.png cannot be opened as a picture.")).to_be_visible()
    give("c.xyz", "", b"?")
    expect(page.get_by_text("c.xyz is no file that this page knows.")).to_be_visible()
    assert words.samples == []


def test_a_file_given_before_limits_are_known_waits(
    browser: Browser, address: str, words: Told
) -> None:
    page = browser.new_page()
    held: list[Route] = []
    page.route("**/v1/models", lambda route: held.append(route))
    page.goto(address)
    until(page, lambda: len(held) == 1)
    sound = {"name": "a.wav", "mimeType": "audio/wav", "buffer": b"RIFF"}
    page.set_input_files("input[type=file]", sound)
    page.wait_for_timeout(200)
    expect(page.get_by_text("a.wav")).to_have_count(0)
    held[0].continue_()
    expect(page.get_by_text("a.wav: this model takes no audio.")).to_be_visible()
    page.close()


def asked_while_away(page: Page, address: str) -> int:
    """Ask a server that is gone; its port."""
    page.get_by_label("Ask about it").fill("while away")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".banner")).to_be_visible()
    return int(address.rsplit(":", 1)[1])


def test_another_model_behind_the_address_is_the_one_asked(
    browser: Browser, assistant: Assistant, words: Told
) -> None:
    page = browser.new_page()
    with served(Scripted(assistant, words)) as address:
        page.goto(address)
        ask(page, "before")
    port = asked_while_away(page, address)
    other = Scripted(assistant, words)
    other.name = "other"
    with served(other, port):
        expect(page.locator(".banner")).to_have_count(0, timeout=15_000)
        expect(page.get_by_role("combobox", name="Model")).to_have_value("other")
        page.get_by_role("button", name="Try again").last.click()
        expect(page.get_by_text("tokens in")).to_have_count(2)
    page.close()


def test_a_server_that_goes_away_and_comes_back(
    browser: Browser, assistant: Assistant, words: Told
) -> None:
    server = served(Scripted(assistant, words))
    page = browser.new_page()
    with server as address:
        page.goto(address)
        ask(page, "before")
    port = asked_while_away(page, address)
    expect(page.locator("article.model").last).to_contain_text("does not answer")
    with served(Scripted(assistant, words), port):
        expect(page.locator(".banner")).to_have_count(0, timeout=15_000)
        page.get_by_role("button", name="Try again").last.click()
        expect(page.get_by_text("tokens in")).to_have_count(2)
    page.close()


def test_text_of_others_stays_text(page: Page, words: Told) -> None:
    words.pieces = [HOSTILE, "\n\n[x](javascript:alert(3)) ![y](http://example.com/a.png)"]
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    out = io.BytesIO()
    Image.new("RGB", (40, 30)).save(out, "PNG")
    name = "<img src=x onerror=alert(4)>.png"
    page.set_input_files(
        "input[type=file]", {"name": name, "mimeType": "image/png", "buffer": out.getvalue()}
    )
    page.get_by_role("application").wait_for()
    ask(page, HOSTILE[:5000])
    article = page.locator("article.model")
    assert article.locator("img, script, a[href^=javascript]").count() == 0
    assert "<script>alert(2)</script>" in article.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")


def test_the_prompt_as_the_model_sees_it(page: Page, words: Told) -> None:
    page.set_input_files("input[type=file]", SCENE)
    page.get_by_role("application").wait_for()
    page.get_by_label("Ask about it").fill("What is it?")
    page.get_by_role("button", name="The prompt as the model sees it").click()
    expect(page.get_by_text("of 1024 tokens")).to_be_visible()
    expect(page.locator(".map .piece.item")).to_have_count(1)


def test_nano_answers_about_what_was_circled(browser: Browser, assistant: Assistant) -> None:
    from omnimix.serve.engine import OneAtATime

    with served(OneAtATime(assistant, "nano")) as address:
        page = browser.new_page()
        page.goto(address)
        page.get_by_role("button", name="What is there?").click()
        svg = page.get_by_role("application")
        svg.wait_for()
        page.get_by_role("button", name="Free-hand", exact=True).click()
        script = "s => { const m = s.getScreenCTM(); return [m.a, m.e, m.f]; }"
        scale, left, top = svg.evaluate(script)
        ring = [(185, 40), (230, 85), (185, 125), (140, 85), (185, 40)]
        page.mouse.move(left + scale * ring[0][0], top + scale * ring[0][1])
        page.mouse.down()
        for x, y in ring[1:]:
            page.mouse.move(left + scale * x, top + scale * y, steps=8)
        page.mouse.up()
        ask(page, "What is in #1?")
        assert last(page) == omnimix_says(assistant)
        page.close()


def omnimix_says(assistant: Assistant) -> str:
    """Nano's own words for the thing that is circled."""
    return assistant.answer("What is in the box?", SCENE, [Box(140, 40, 230, 125)])


def test_the_policy_is_strict(page: Page, address: str) -> None:
    headers = page.request.get(address).headers
    policy = headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'self'" in policy


def test_two_models_answer_side_by_side(page: Page, words: Told) -> None:
    def facts(route: Route) -> None:
        found = route.fetch().json()
        found["data"].append({**found["data"][0], "id": "other"})
        route.fulfill(json=found)

    def other(route: Route) -> None:
        if route.request.post_data_json["model"] != "other":
            route.continue_()
            return
        delta = {"choices": [{"index": 0, "delta": {"content": "the other says"}}]}
        body = f"data: {json.dumps(delta)}\n\ndata: [DONE]\n\n"
        route.fulfill(body=body, content_type="text/event-stream")

    page.route("**/v1/models", facts)
    page.route("**/v1/chat/completions", other)
    page.reload()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Compare with").select_option("other")
    ask(page)
    expect(page.locator(".beside")).to_contain_text("the other says")
    assert page.locator("article.model .by").all_inner_texts() == ["nano", "other"]
    first, second = (one.bounding_box() for one in page.locator(".columns > section").all())
    assert first is not None and second is not None
    assert first["y"] == second["y"] and first["x"] < second["x"]


def test_several_answers_and_a_pasted_picture(page: Page, words: Told) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Answers to each question").fill("3")
    page.get_by_role("button", name="Close", exact=True).click()
    script = """async (url) => {
      const blob = await (await fetch(url)).blob();
      const data = new DataTransfer();
      data.items.add(new File([blob], "pasted.png", { type: "image/png" }));
      document.querySelector("textarea").dispatchEvent(
        new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(script, "./example.png")
    expect(page.locator("figcaption")).to_contain_text("pasted.png")
    ask(page)
    expect(page.get_by_role("group", name="Answer 1 of 3")).to_be_visible()
    assert len(words.samples) == 3
