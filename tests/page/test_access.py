"""The page for everybody: nothing for axe to find, right to left, less motion, forced colours, a prefix, a proxy, keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from omnimix.generate.answers import Placed
from omnimix.generate.assistant import Assistant
from omnimix.regions import Box
from omnimix.serve import app as serving
from tests.page.conftest import Scripted, Served, Told, Visit, config
from tests.page.test_drawing import apart, by_mouse, regions
from tests.page.test_talking import SCENE, ask

AXE = Path(__file__).parents[2] / "page" / "node_modules" / "axe-core" / "axe.min.js"
PHONE = {"viewport": {"width": 390, "height": 800}}
KINDS: dict[str, dict[str, Any]] = {
    "desktop-light": {},
    "desktop-dark": {"color_scheme": "dark"},
    "phone-light": PHONE,
    "phone-dark": {**PHONE, "color_scheme": "dark"},
    "forced-colors": {"forced_colors": "active"},
    "less-motion": {"reduced_motion": "reduce"},
}


def faults(page: Page) -> list[str]:
    """What axe finds. The policy lets no script in; what is evaluated by the test's own protocol is none of the page's."""
    if not AXE.is_file():
        pytest.skip("needs the page's packages (make page)")
    page.evaluate(AXE.read_text())
    found = page.evaluate("() => axe.run({resultTypes: ['violations']})")
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found["violations"]]


def give(page: Page) -> None:
    page.set_input_files("input[type=file]", SCENE)
    page.get_by_role("application").wait_for()


@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_nothing(visit: Visit, address: str, words: Told, kind: str) -> None:
    words.pieces = ["A **cup** and\n\n- a [link](https://example.com)\n- `code`"]
    words.placed = (Placed(0, Box(134, 30, 236, 132), 4, 7, 0),)
    page = visit(address, **KINDS[kind])
    assert faults(page) == []
    give(page)
    by_mouse(page, page.get_by_role("application"), [(40, 40), (200, 200)], False)
    assert faults(page) == []
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Compare with").select_option(label="the same model, other settings")
    page.get_by_role("button", name="Close", exact=True).click()
    ask(page)
    for panel in ("Settings", "The prompt as the model sees it", "Keep and share"):
        page.get_by_role("button", name=panel, exact=True).click()
        page.get_by_role("complementary", name=panel).wait_for()
        if panel.startswith("The prompt"):
            page.locator(".map").wait_for()
        assert faults(page) == [], panel
    page.get_by_role("button", name="Close", exact=True).click()
    page.get_by_role("button", name="Conversations").click()
    assert faults(page) == []


PREFIX = "/models/omnimix"


def cutting(inner: ASGIApp) -> ASGIApp:
    """A proxy that cuts the prefix off and asks under the name that it knows the server by."""

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = [
                (b"host", b"localhost:8000"),
                *(h for h in scope["headers"] if h[0] != b"host"),
            ]
            scope = {**scope, "path": scope["path"].removeprefix(PREFIX), "headers": headers}
            scope.pop("raw_path")
        await inner(scope, receive, send)

    return proxy


@pytest.mark.parametrize("outer", [lambda app: Starlette(routes=[Mount(PREFIX, app)]), cutting])
def test_below_a_prefix_behind_a_proxy_and_with_keys(
    visit: Visit, assistant: Assistant, words: Told, outer: Callable[[ASGIApp], ASGIApp]
) -> None:
    settings = serving.Settings(keys=("secret-key-of-tests",))
    inner = serving.create_app(Scripted(assistant, words), settings)
    with Served(config(outer(inner))) as address:
        page = visit(f"{address}/models/omnimix/")
        page.expected_errors.append("401")  # type: ignore[attr-defined]
        key = page.get_by_label("This server asks for an API key")
        key.wait_for()
        assert faults(page) == []
        key.fill("a wrong one")
        page.get_by_role("button", name="Save").click()
        expect(key).to_be_visible()
        key.fill("secret-key-of-tests")
        page.get_by_role("button", name="Save").click()
        expect(key).to_have_count(0)
        page.get_by_role("button", name="What is there?").click()
        page.get_by_role("application").wait_for()
        ask(page)
        page.get_by_role("button", name="The prompt as the model sees it").click()
        expect(page.locator(".map .piece.item")).to_have_count(1)
        page.get_by_role("button", name="Keep and share", exact=True).click()
        page.get_by_role("button", name="This request as curl").click()
        expect(page.locator("pre.code")).to_contain_text(
            f"curl {address}/models/omnimix/v1/chat/completions"
        )
        assert "secret-key" not in page.locator("pre.code").inner_text()


def test_from_right_to_left(page: Page, words: Told) -> None:
    words.pieces = ["\u0645\u0631\u062d\u0628\u0627 **\u0643\u0648\u0628** cup"]
    words.placed = (Placed(0, Box(134, 30, 236, 132), 8, 11, 0),)
    page.evaluate("document.documentElement.dir = 'rtl'")
    give(page)
    svg = page.get_by_role("application")
    page.get_by_role("button", name="Box", exact=True).click()
    by_mouse(page, svg, [(40, 50), (200, 180)], False)
    ask(page, "\u0645\u0627 \u0647\u0630\u0627\u061f")
    (box,) = regions(words)
    assert apart(box, Box(40, 50, 200, 180)) <= 1
    for text in ("article.user .said", "article.model .markdown"):
        assert page.locator(text).evaluate("e => getComputedStyle(e).direction") == "rtl"
    page.get_by_role("button", name="Settings").click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
    drawer = page.get_by_role("complementary", name="Settings").bounding_box()
    assert drawer is not None and drawer["x"] == 0
    assert faults(page) == []


def test_nothing_moves_for_those_who_want_less_motion(
    visit: Visit, address: str, words: Told
) -> None:
    words.allowed = 1
    for motion, moves in (("reduce", "none"), ("no-preference", "beat")):
        page = visit(address, reduced_motion=motion)
        page.get_by_label("Ask about it").fill("go on")
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".status", has_text="is writing")).to_be_visible()
        script = "e => getComputedStyle(e, '::after').animationName"
        assert moves in page.locator(".dots").evaluate(script)
        page.get_by_role("button", name="Stop").click()
