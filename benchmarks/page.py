"""How soon the page is there, and how soon a hand is followed: a picture of 12 megapixels with 50 marks, in Chromium.

    python -m benchmarks.page [--rounds 5]

Prints the first paint, how long a picture takes to be shown, and the time from a pointer's event to the frame that shows
it, as medians with the largest, in milliseconds. Needs `chromium` and the package playwright.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import time

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from tests.page.conftest import FLAGS, served

import omnimix
from omnimix.serve.engine import OneAtATime

FOLLOWED = """async () => {
  const svg = document.querySelector('svg[role=application]');
  const box = svg.getBoundingClientRect();
  const send = (kind, x, y) => svg.dispatchEvent(new PointerEvent(kind, {
    clientX: box.x + x * box.width, clientY: box.y + y * box.height, pointerId: 1, bubbles: true, button: 0,
  }));
  svg.setPointerCapture = () => {};
  const times = [];
  send('pointerdown', 0.3, 0.3);
  for (let i = 1; i <= 60; i++) {
    const before = performance.now();
    send('pointermove', 0.3 + i / 200, 0.3 + i / 300);
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - before);
  }
  send('pointerup', 0.6, 0.5);
  return times;
}"""


def picture() -> bytes:
    """4000 x 3000 pixels that do not compress away."""
    small = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((4000, 3000)).save(out, "JPEG", quality=90)
    return out.getvalue()


def once(page: Page, address: str, photo: bytes) -> tuple[float, float, list[float]]:
    page.goto(address)
    page.get_by_role("button", name="Send").wait_for()
    script = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    paint = page.evaluate(script)
    began = time.perf_counter()
    file = {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": photo}
    page.set_input_files("input[type=file]", file)
    svg = page.get_by_role("application")
    svg.wait_for()
    shown = (time.perf_counter() - began) * 1000
    page.get_by_role("button", name="Box", exact=True).click()
    box = svg.bounding_box()
    assert box is not None
    for i in range(50):
        x, y = box["x"] + box["width"] / 2 - 290 + (i % 10) * 60, box["y"] + 20 + (i // 10) * 60
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 40, y + 40)
        page.mouse.up()
    assert page.locator("g.mark").count() == 50
    return paint, shown, page.evaluate(FOLLOWED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    photo = picture()
    with (
        served(OneAtATime(omnimix.load("nano"), "nano")) as address,
        sync_playwright() as playwright,
    ):
        place = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=place, args=FLAGS)
        found = []
        for _ in range(rounds):
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            found.append(once(page, address, photo))
            page.close()
        browser.close()
    rows = {
        "first paint": [one[0] for one in found],
        "a 12-megapixel picture is shown": [one[1] for one in found],
        "a pointer is followed, 50 marks": [value for one in found for value in one[2]],
    }
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {rounds} rounds, milliseconds")
    for name, values in rows.items():
        print(f"{name:34} median {statistics.median(values):7.1f}   most {max(values):7.1f}")


if __name__ == "__main__":
    main()
