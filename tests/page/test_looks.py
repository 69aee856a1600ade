"""The page in five states, as README and docs show it: `OMNIMIX_LOOKS=1` writes the pictures anew. And its size."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page

from omnimix.generate.answers import Placed
from omnimix.regions import Box, Mask, Polygon
from omnimix.serve import app as serving
from tests.page.conftest import Told
from tests.page.test_drawing import by_mouse
from tests.page.test_talking import SCENE, ask

ROOT = Path(__file__).parents[2]
BUILT = Path(serving.__file__).parent / "page"


def drawn(page: Page, words: Told) -> None:
    page.set_input_files("input[type=file]", SCENE)
    svg = page.get_by_role("application")
    svg.wait_for()
    page.get_by_role("button", name="Box", exact=True).click()
    by_mouse(page, svg, [(134, 30), (236, 132)], False)
    page.get_by_role("button", name="Free-hand", exact=True).click()
    by_mouse(page, svg, [(30, 60), (60, 40), (100, 70), (110, 120), (60, 140), (25, 110)], False)
    page.get_by_label("Ask about it").fill("How do #1 and #2 differ?")


def answered(page: Page, words: Told) -> None:
    said = "The **circle** is purple and striped, the cross is white with dots; the star below is green."
    words.pieces = [said]
    cross = Polygon(
        (
            (56, 47),
            (83, 53),
            (78, 78),
            (109, 90),
            (104, 121),
            (73, 118),
            (66, 147),
            (35, 139),
            (43, 109),
            (11, 102),
            (18, 72),
            (49, 78),
        )
    )
    outline = ((160, 155), (171, 183), (205, 189), (184, 203), (189, 239), (161, 223))
    outline += ((133, 239), (138, 203), (116, 189), (150, 183))
    star = Mask.of(Polygon(outline), 315, 255)

    def at(name: str) -> tuple[int, int]:
        return said.index(name), said.index(name) + len(name)

    words.placed = (
        Placed(0, Box(134, 30, 236, 132, label="circle"), *at("circle"), 0),
        Placed(1, cross, *at("cross"), 0),
        Placed(2, star, *at("star"), 0),
    )
    drawn(page, words)
    ask(page, "How do #1 and #2 differ?")
    page.locator("button.words").first.hover()


def dark(page: Page, words: Told) -> None:
    page.emulate_media(color_scheme="dark")
    answered(page, words)
    page.get_by_role("button", name="The prompt as the model sees it").click()
    page.locator(".map").wait_for()


def phone(page: Page, words: Told) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    answered(page, words)


STATES: dict[str, Callable[[Page, Told], None]] = {
    "empty": lambda page, words: page.get_by_role("button", name="What is there?").wait_for(),
    "drawn": drawn,
    "answered": answered,
    "phone": phone,
    "dark": dark,
}


@pytest.mark.parametrize("state", STATES)
def test_a_state_is_pictured(page: Page, words: Told, state: str, tmp_path: Path) -> None:
    STATES[state](page, words)
    page.wait_for_timeout(200)
    folder = ROOT / "docs" / "images" / "page" if os.environ.get("OMNIMIX_LOOKS") else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{state}.png")
    with Image.open(folder / f"{state}.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 30  # not blank


def test_the_script_is_small() -> None:
    sizes = [len(gzip.compress(path.read_bytes())) for path in BUILT.glob("*.js")]
    assert 0 < sum(sizes) <= 120 * 1024


def test_the_types_are_of_the_server_as_it_is() -> None:
    spec = importlib.util.spec_from_file_location("openapi", ROOT / "tools" / "openapi.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    stored = json.loads(tool.PLACE.read_text(encoding="utf-8"))
    assert stored == json.loads(tool.written()), "run tools/openapi.py, then `make page`"
