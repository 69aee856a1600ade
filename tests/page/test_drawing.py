"""What is drawn on the page is what the server gets: every kind, by every hand, on odd pictures, at three zooms."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page

from omnimix.regions import Box, Point, Polygon, Region, Stroke
from omnimix.types import Media
from tests.page.conftest import Told

Spot = tuple[float, float]
PICTURES = {"wide": (1600, 200), "tall": (150, 900), "turned": (320, 240), "tiny": (24, 16)}


def picture(name: str) -> bytes:
    """`turned` lies on its side in the file, and its EXIF says so."""
    width, height = PICTURES[name]
    out = io.BytesIO()
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    exif = Image.Exif()
    if name == "turned":
        exif[0x0112] = 6
    image.save(out, "JPEG", exif=exif)
    return out.getvalue()


def seen(name: str) -> tuple[int, int]:
    width, height = PICTURES[name]
    return (height, width) if name == "turned" else (width, height)


def surface(page: Page, name: str) -> Locator:
    page.set_input_files(
        "input[type=file]",
        {"name": f"{name}.jpg", "mimeType": "image/jpeg", "buffer": picture(name)},
    )
    svg = page.get_by_role("application")
    svg.wait_for()
    return svg


def screen(svg: Locator, spot: Spot) -> Spot:
    """Where a place of the picture is on the screen."""
    script = """(svg, [x, y]) => {
      const at = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
      return [at.x, at.y];
    }"""
    x, y = svg.evaluate(script, list(spot))
    return x, y


def view(svg: Locator) -> tuple[float, float, float, float]:
    """What of the picture is seen: left, top, width, height."""
    return tuple(map(float, (svg.get_attribute("viewBox") or "").split()))  # type: ignore[return-value]


def within(svg: Locator, x: float, y: float) -> Spot:
    """A place by shares of what is seen, in pixels of the picture."""
    left, top, width, height = view(svg)
    return left + x * width, top + y * height


def by_mouse(page: Page, svg: Locator, spots: list[Spot], closed: bool) -> None:
    at = [screen(svg, spot) for spot in spots]
    if closed:
        for x, y in [*at, at[0]]:
            page.mouse.click(x, y)
        return
    page.mouse.move(*at[0])
    page.mouse.down()
    for x, y in at[1:]:
        page.mouse.move(x, y)
    page.mouse.up()


def by_touch(page: Page, svg: Locator, spots: list[Spot], closed: bool) -> None:
    client = page.context.new_cdp_session(page)

    def touch(kind: str, at: Spot | None = None) -> None:
        points = [] if at is None else [{"x": at[0], "y": at[1]}]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    at = [screen(svg, spot) for spot in spots]
    for line in [[one] for one in [*at, at[0]]] if closed else [at]:
        touch("touchStart", line[0])
        for one in line[1:]:
            touch("touchMove", one)
        touch("touchEnd")


def kinds(svg: Locator) -> dict[str, tuple[str, list[Spot], Callable[[list[Spot]], Region]]]:
    """Each kind: its tool, the way of the hand, and what comes of it."""
    a, b, c = within(svg, 0.2, 0.25), within(svg, 0.7, 0.3), within(svg, 0.55, 0.75)
    return {
        "point": ("Point", [c], lambda s: Point(*s[-1])),
        "box": ("Box", [a, c], lambda s: Box(*s[0], *s[-1])),
        "polygon": ("Outline", [a, b, c], lambda s: Polygon(tuple(s))),
        "stroke": ("Free-hand", [a, b, c], lambda s: Stroke(tuple(s))),
    }


def regions(told: Told) -> list[Region]:
    parts = [part for part in told.samples[-1].turns[-1].content if isinstance(part, Media)]
    return [part.data for part in parts if part.kind == "region"]


def apart(one: Region, other: Region) -> float:
    """The farthest that two regions of one kind are from another, in pixels."""
    assert type(one) is type(other)
    if isinstance(one, Polygon | Stroke):
        assert isinstance(other, Polygon | Stroke)
        assert len(one.points) == len(other.points)
        return max(math.dist(a, b) for a, b in zip(one.points, other.points, strict=True))
    return max(abs(a - b) for a, b in zip(one.bounds(), other.bounds(), strict=True))


def ask(page: Page, told: Told, count: int) -> None:
    page.get_by_label("Ask about it").fill("What is it?")
    page.get_by_role("button", name="Send").click()
    page.get_by_text("tokens in").nth(count - 1).wait_for()


@pytest.mark.parametrize("hand", [by_mouse, by_touch], ids=["mouse", "touch"])
@pytest.mark.parametrize("name", PICTURES)
def test_a_drawing_arrives_within_a_pixel(
    page: Page, words: Told, name: str, hand: Callable[..., None]
) -> None:
    svg = surface(page, name)
    drawn: list[Region] = []
    for _ in range(3):
        for tool, spots, region in kinds(svg).values():
            page.get_by_role("button", name=tool, exact=True).click()
            hand(page, svg, spots, tool == "Outline")
            drawn.append(region(spots))
        before = view(svg)
        page.get_by_role("button", name="Zoom in").click()
        assert view(svg)[2] < before[2]
    ask(page, words, 1)
    got = regions(words)
    assert len(got) == len(drawn)
    width, height = seen(name)
    for sent, made in zip(got, drawn, strict=True):
        assert apart(sent, made) <= 1, (sent, made)
        assert sent.bounds()[2] <= width
        assert sent.bounds()[3] <= height


def test_the_keyboard_draws_every_kind(page: Page, words: Told) -> None:
    svg = surface(page, "wide")
    tools = {
        "Point": ["Enter"],
        "Box": ["Enter", *["Shift+ArrowRight"] * 4, *["ArrowDown"] * 4, "Enter"],
        "Outline": [
            "Enter",
            *["Shift+ArrowLeft"] * 3,
            "Enter",
            *["Shift+ArrowUp"] * 2,
            "Enter",
            *["Shift+ArrowRight"] * 3,
            *["Shift+ArrowDown"] * 2,
            "Enter",
        ],
        "Free-hand": ["Enter", *["ArrowLeft"] * 6, "Enter"],
    }
    for made, (tool, keys) in enumerate(tools.items(), 1):
        page.get_by_role("button", name=tool, exact=True).click()
        svg.focus()
        for key in keys:
            page.keyboard.press(key)
        assert page.locator("g.mark").count() == made, tool
    page.get_by_role("button", name="Move and pan").click()
    mark = page.locator("g.mark").nth(1)
    mark.focus()
    for key in ["ArrowRight", "Shift+ArrowRight", "ArrowDown", "Alt+ArrowRight"]:
        page.keyboard.press(key)
    page.keyboard.press("Enter")  # mentions it
    assert page.get_by_label("Ask about it").input_value() == "#2 "
    page.locator("g.mark").nth(0).focus()
    page.keyboard.press("Delete")
    assert page.locator("g.mark").count() == 3
    ask(page, words, 1)
    assert [type(region) for region in regions(words)] == [Box, Polygon, Stroke]


def test_a_mark_is_moved_reshaped_erased_and_comes_back(page: Page, words: Told) -> None:
    svg = surface(page, "wide")
    page.get_by_role("button", name="Box", exact=True).click()
    by_mouse(page, svg, [(400, 50), (800, 150)], False)
    page.get_by_role("button", name="Move and pan").click()
    by_mouse(page, svg, [(600, 100), (700, 110)], False)
    by_mouse(page, svg, [(900, 160), (1000, 180)], False)  # its right bottom corner
    marks = page.locator("g.mark")
    label = marks.first.get_attribute("aria-label") or ""
    assert label.startswith("#1, Box, 500, 60, 1000, 180")
    page.get_by_role("button", name="Eraser").click()
    page.mouse.click(*screen(svg, (700, 100)))
    assert marks.count() == 0
    for back in range(3):
        page.get_by_role("button", name="Undo").click()
        assert marks.count() == 1, back
    assert (marks.first.get_attribute("aria-label") or "").startswith("#1, Box, 400, 50, 800, 150")
    page.get_by_role("button", name="Undo").click()
    assert marks.count() == 0
    for _ in range(3):
        page.get_by_role("button", name="Redo").click()
    ask(page, words, 1)
    (box,) = regions(words)
    assert apart(box, Box(500, 60, 1000, 180)) <= 1
