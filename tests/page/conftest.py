"""A browser, and a server whose answers the tests choose, so that what is looked at is the page."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

import omnimix
from omnimix.generate.answers import Answer, Placed
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.serve.app import Settings, create_app
from omnimix.serve.engine import OneAtATime, Piece
from omnimix.types import Sample

# A loaded machine is slow and not wrong: what is waited for may take its time.
expect.set_options(timeout=20_000)

# Chromium's own calls home are off, and it needs no sandbox of its own in a container.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Told:
    """What the next answers are.

    Attributes:
        pieces: of text, one after another.
        placed: regions that close with the last piece.
        allowed: how many pieces may be told yet; a test lets on the rest when it has seen these.
        samples: what was asked, as the engine got it.
        options: how each was to be answered.
        cancelled: answers that nobody listened to any more.
    """

    pieces: list[str] = field(default_factory=lambda: ["a ", "plain ", "answer"])
    placed: tuple[Placed, ...] = ()
    allowed: float = float("inf")
    samples: list[Sample] = field(default_factory=list)
    options: list[Options] = field(default_factory=list)
    cancelled: int = 0


class Scripted(OneAtATime):
    """An engine that says what a test wants; the prompt is woven by the real processor."""

    def __init__(self, assistant: Assistant, told: Told) -> None:
        super().__init__(assistant, "nano")
        self.told = told

    async def stream(self, sample: Sample, options: Options) -> AsyncGenerator[Piece, None]:
        self.told.samples.append(sample)
        self.told.options.append(options)
        text = "".join(self.told.pieces)
        try:
            for count, piece in enumerate(self.told.pieces):
                while count >= self.told.allowed:
                    await asyncio.sleep(0.01)
                yield Piece(piece)
        except GeneratorExit:
            self.told.cancelled += 1
            raise
        except asyncio.CancelledError:
            self.told.cancelled += 1
            raise
        regions = tuple(one.region for one in self.told.placed)
        answer = Answer(text, regions, 3, True, placed=self.told.placed, prompt_tokens=7)
        yield Piece("", self.told.placed, answer=answer)


class Served(uvicorn.Server):
    """A server in a thread."""

    def __enter__(self) -> str:
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        while not self.started:
            time.sleep(0.01)
        port = self.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *_: object) -> None:
        self.should_exit = True
        self.thread.join(10)


def until(page: Page, true: Callable[[], bool]) -> None:
    """Waits for what happens outside of the page, however slow the machine is."""
    for _ in range(1000):
        if true():
            return
        page.wait_for_timeout(20)
    raise AssertionError("it did not happen in 20 seconds")


def served(engine: Any, port: int = 0, **settings: Any) -> Served:
    return Served(config(create_app(engine, Settings(**settings)), port))


def config(app: Any, port: int = 0) -> uvicorn.Config:
    return uvicorn.Config(app, port=port, timeout_graceful_shutdown=1, log_level="error")


@pytest.fixture(scope="package")
def assistant() -> Assistant:
    return omnimix.load("nano")


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    place = shutil.which("chromium") or shutil.which("google-chrome")
    if place is None:
        pytest.skip("needs Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=place, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def told() -> Told:
    return Told()


@pytest.fixture(scope="package")
def address(assistant: Assistant, told: Told) -> Iterator[str]:
    with served(Scripted(assistant, told)) as address:
        yield address


@pytest.fixture
def words(told: Told) -> Told:
    """What is told, fresh for every test."""
    told.__dict__.update(Told().__dict__)
    return told


Visit = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens the page of an address; a script error or a request to anywhere else fails the test."""
    pages, errors, strangers = [], [], []

    def opened(address: str, **context: Any) -> Page:
        words = {"viewport": {"width": 1200, "height": 900}, "has_touch": True, **context}
        page = browser.new_context(**words).new_page()
        pages.append(page)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: said.type == "error" and errors.append(said.text))
        known = (address, "blob:", "data:")
        page.on("request", lambda asked: asked.url.startswith(known) or strangers.append(asked.url))
        page.expected_errors = []  # type: ignore[attr-defined]
        page.goto(address)
        page.get_by_role("button", name="Send").wait_for()
        return page

    yield opened
    expected = [word for page in pages for word in page.expected_errors]
    for page in pages:
        page.context.close()
    assert [e for e in errors if not any(word in e for word in expected)] == []
    assert strangers == []


@pytest.fixture
def page(visit: Visit, address: str, words: Told) -> Page:
    """The page, opened."""
    return visit(address)
