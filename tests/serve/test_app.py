"""The routes: what is answered, and how what cannot be answered is refused."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

import omnimix
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import MediaError
from omnimix.generate.answers import Answer
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.serve.app import Settings, create_app
from omnimix.serve.engine import OneAtATime, Piece, limited, whole
from omnimix.serve.fetch import Fetched, Fetcher
from omnimix.serve.items import ItemReader
from omnimix.types import Box, Media, Sample, Turn
from omnimix_scenes import Scenes

OPTIONS = Options(max_new_tokens=6)


@pytest.fixture(scope="module")
def assistant(tiny_model: MultimodalLM, tiny_processor: Processor) -> Assistant:
    return Assistant(tiny_model, tiny_processor)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture, one beside it, and links of both kinds."""
    place = tmp_path_factory.mktemp("served")
    folder = place / "root"
    (folder / "deep").mkdir(parents=True)
    for i, path in enumerate((folder / "a.png", folder / "deep" / "b.png", place / "outside.png")):
        Scenes(7, "heldout").question("list", i).media("image")[0].data.save(path)
    (folder / "out.png").symlink_to(place / "outside.png")
    (folder / "in.png").symlink_to(folder / "a.png")
    (folder / "away").symlink_to(place)
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "text.png").write_text("this is no picture")
    (folder / "empty.png").touch()
    return folder


class Far(Fetcher):
    """A fetcher without a network."""

    def get(self, address: str) -> Fetched:
        if "inside" in address:
            raise MediaError("the address leads to a network that is not public")
        return Fetched(base64.b64decode(PIXEL), "image/png", address)


def pixel(size: tuple[int, int] = (40, 30)) -> str:
    held = io.BytesIO()
    Image.new("RGB", size, "red").save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()


PIXEL = pixel()


@pytest.fixture(scope="module")
def client(assistant: Assistant, root: Path) -> Iterator[TestClient]:
    settings = Settings(ItemReader(root), OPTIONS, max_bytes=100_000, max_items=3)
    engine = OneAtATime(limited(assistant, max_pixels=1_000_000), "tiny")
    with TestClient(create_app(engine, settings), raise_server_exceptions=False) as made:
        yield made


def ask(text: str, **lists: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **lists}


def test_answers_are_those_of_python(
    client: TestClient, assistant: Assistant, root: Path, tmp_path: Path
) -> None:
    body = ask("What is in <image>?", images=["a.png"])
    answer = client.post("/generate", json=body)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    turn = Turn("user", ("What is in ", Media.image(str(root / "a.png")), "?"))
    assert answer.json() == {"output": assistant.reply([turn], max_new_tokens=6).text}


def test_the_ways_to_name_a_file_give_one_answer(client: TestClient, root: Path) -> None:
    content = base64.b64encode((root / "a.png").read_bytes()).decode()
    ways = [
        "a.png",
        "deep/../a.png",
        "in.png",
        str(root / "a.png"),
        {"path": "a.png"},
        f"data:image/png;base64,{content}",
        {"url": f"data:;base64,{content}"},
    ]
    answers = [client.post("/generate", json=ask("<image>Hm?", images=[way])) for way in ways]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1


def test_regions_and_turns(client: TestClient, assistant: Assistant, root: Path) -> None:
    body = {
        "messages": [
            {"role": "user", "content": "<image>What is in <region>?"},
            {"role": "assistant", "content": "a cup"},
            {"role": "user", "content": "And now?"},
        ],
        "images": ["a.png"],
        "regions": [{"box": [10, 10, 60, 60]}],
    }
    picture = Media.image(str(root / "a.png"))
    turns = [
        Turn("user", (picture, "What is in ", Media.region(Box(10, 10, 60, 60)), "?")),
        Turn("assistant", ("a cup",)),
        Turn("user", ("And now?",)),
    ]
    expected = assistant.reply(turns, max_new_tokens=6).text
    assert client.post("/generate", json=body).json() == {"output": expected}


def test_text_alone_empty_lists_and_what_the_old_server_passed_over(client: TestClient) -> None:
    alone = client.post("/generate", json=ask("Hello"))
    assert alone.status_code == 200
    for words in (
        {"images": []},
        {"images": None},
        {"images": ["a.png"]},  # more items than placeholders
        {"temperature": 9, "max_new_tokens": 1, "id": "7"},
        {"documents": []},
        {"videos": None},
    ):
        answer = client.post("/generate", json=ask("Hello", **words))
        assert (answer.status_code, answer.json()) == (200, alone.json()), words
    marked = client.post("/generate", json=ask("[INST] a [/INST] <noise> </s>"))
    assert marked.status_code == 200 and isinstance(marked.json()["output"], str)


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({}, 400, "there are no messages"),
    ({"messages": []}, 400, "there are no messages"),
    ({"messages": "hello"}, 400, "the messages are no list"),
    ({"messages": [{"role": "user"}]}, 400, "message 1: a message has a role and content"),
    ({"messages": [{"role": "tool", "content": ""}]}, 400, "unknown role 'tool'"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "'user' was expected"),
    (
        {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
        400,
        "'assistant' was expected",
    ),
    (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        400,
        "the assistant's already",
    ),
    (ask("<image>"), 400, "1 placeholders <image> in the messages, but 0 items in images"),
    (ask("<image><image>", images=["a.png"]), 400, "2 placeholders <image>"),
    (ask("a", images="a.png"), 400, "images is a list, not a text"),
    (ask("a", images={"path": "a.png"}), 400, "images is a list, not a table"),
    (ask("a", images=["a.png"] * 4), 400, "4 items in one request"),
    (ask("<image>", images=["b.png"]), 400, "images[0]: there is no file 'b.png'"),
    (ask("<image>", images=[""]), 400, "there is no file"),
    (ask("<image>", images=["deep"]), 400, "there is no file"),
    (ask("<image>", images=["a\0.png"]), 400, "there is no file"),
    (ask("<image>", images=["x" * 9000]), 400, "there is no file"),
    (ask("<image>", images=["circle.png"]), 400, "there is no file"),
    (ask("<image>", images=["text.png"]), 400, "images[0]"),
    (ask("<image>", images=["empty.png"]), 400, "the file is empty"),
    (ask("<image>", images=["../outside.png"]), 403, "out of the server's folder"),
    (ask("<image>", images=["../missing.png"]), 403, "out of the server's folder"),
    (ask("<image>", images=["out.png"]), 403, "out of the server's folder"),
    (ask("<image>", images=["away/outside.png"]), 403, "out of the server's folder"),
    (ask("<image>", images=["/etc/passwd"]), 403, "out of the server's folder"),
    (ask("a", images=["/etc/passwd"]), 403, "out of the server's folder"),
    (ask("<image>", images=["file:///etc/passwd"]), 403, "addresses of the kind 'file'"),
    (ask("<image>", images=["file:/etc/passwd"]), 403, "addresses of the kind 'file'"),
    (ask("<image>", images=["FTP://example.com/a"]), 403, "addresses of the kind 'FTP'"),
    (ask("<image>", images=[{"url": "a.png"}]), 403, "addresses of the kind"),
    (ask("<image>", images=["http://example.com/a.png"]), 403, "this server fetches nothing"),
    (ask("<image>", images=["data:image/png"]), 400, "this is no data URL"),
    (ask("<image>", images=["data:image/png;base64,%%%"]), 400, "holds no base64"),
    (ask("<image>", images=["data:image/png;base64,aGVsbG8="]), 400, "images[0]"),
    (ask("<image>", images=[7]), 400, "cannot be made of a number"),
    (ask("<image>", images=[None]), 400, "cannot be made of null"),
    (ask("<image>", images=[{"file": "a.png"}]), 400, "an item of the words file"),
    (ask("<image>", images=[{}]), 400, "an item of the words none"),
    (ask("<image>", images=[{"text": "a.png"}]), 400, "a text is no item"),
    (ask("<image>", images=[{"path": 7}]), 400, "the path is no text"),
    (ask("<image>", images=[["a", "b"]]), 400, "not made of numbers alone"),
    (ask("<image>", images=[[[1], [1, 2]]]), 400, "not made of numbers alone"),
    (ask("<image>", images=[f"data:;base64,{pixel((1100, 1000))}"]), 400, "1100"),
    (ask("<image><region>", images=["a.png"], regions=[{"box": [1, 2]}]), 400, "regions[0]"),
    (ask("<image><region>", images=["a.png"], regions=[{"png": "a.png"}]), 400, "regions[0]"),
    (ask("<region>", regions=[{"box": [1, 2, 30, 40]}]), 400, "picture"),
    (ask("hello " * 3000), 400, "the context of"),
    (ask("a", imagse=["a.png"]), 400, "Did you mean 'images'?"),
    (ask("a", stream=True), 400, "unknown word 'stream'"),
    (ask("a", documents=["b"]), 400, "the model takes no documents"),
    (ask("<video>What?", videos=["a.mp4"]), 400, "the model takes no videos"),
    (ask("<video>What?"), 400, "the placeholder <video> is of a modality that the model lacks"),
]


@pytest.mark.parametrize(("body", "status", "says"), BAD, ids=range(len(BAD)))
def test_refusals(
    client: TestClient, root: Path, body: dict[str, Any], status: int, says: str
) -> None:
    answer = client.post("/generate", json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert says in error["message"], error
    words = {"message", "type", "param", "code", "what", "where", "hint"}
    assert error.keys() == words and error["hint"]
    assert str(root) not in answer.text, "no folder of ours is told"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ({"content": b"{"}, 400),
        ({"content": b""}, 400),
        ({"content": b"[1]"}, 400),
        ({"content": b"\xff\xfe"}, 400),
        ({"content": b"[" * 90_000}, 400),
        ({"content": b"{}", "headers": {"content-type": "text/plain"}}, 415),
        ({"content": b"{}", "headers": {"content-type": ""}}, 415),
        ({"content": b"x" * 100_001}, 413),
        ({"content": iter([b"x" * 60_000, b"x" * 60_000])}, 413),
    ],
)
def test_bodies_that_are_none(client: TestClient, words: dict[str, Any], status: int) -> None:
    words = {"headers": {"content-type": "application/json"}, **words}
    answer = client.post("/generate", **words)
    assert answer.status_code == status
    assert answer.json()["error"]["what"]


def test_other_methods_and_places(client: TestClient) -> None:
    answer = client.get("/generate")
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"
    assert "POST" in answer.json()["error"]["hint"]
    for place in ("/docs", "/redoc", "/v1", "/../etc/passwd"):
        assert client.get(place).status_code == 404
        assert client.get(place).json()["error"]["what"]


def test_health(client: TestClient) -> None:
    facts = client.get("/health").json()
    assert facts["status"] == "ok" and facts["model"] == "tiny" and facts["waiting"] == 0
    told = {"type": "image", "placeholder": "<image>", "key": "images"}
    assert facts["modalities"]["image"] == told
    assert set(facts["paths"]) >= {"/chat", "/generate"}


def test_addresses_are_fetched_where_that_is_allowed(assistant: Assistant, root: Path) -> None:
    settings = Settings(ItemReader(None, Far()), OPTIONS)
    with TestClient(create_app(OneAtATime(assistant, "tiny"), settings)) as client:
        got = client.post("/generate", json=ask("<image>", images=["https://example.com/a.png"]))
        same = client.post("/generate", json=ask("<image>", images=[f"data:;base64,{PIXEL}"]))
        assert got.status_code == 200 and got.json() == same.json()
        bad = client.post("/generate", json=ask("<image>", images=["http://inside/a.png"]))
        assert bad.status_code == 400 and "images[0]" in bad.json()["error"]["message"]
        shut = client.post("/generate", json=ask("<image>", images=["a.png"]))
        assert shut.status_code == 403 and "opens no files" in shut.json()["error"]["message"]


class Broken:
    """An engine that fails, and one that says why."""

    def __init__(self, assistant: Assistant) -> None:
        self.name = "broken"
        self.processor = assistant.processor
        self.recipe = assistant.processor.recipe
        self.closed = False

    async def stream(self, sample: Sample, options: Options) -> AsyncGenerator[Piece, None]:
        raise RuntimeError("a secret of the house")
        yield Piece()

    async def generate(self, sample: Sample, options: Options) -> Answer:
        return await whole(self.stream(sample, options))

    def health(self) -> dict[str, Any]:
        return {"broken": True}

    async def close(self) -> None:
        self.closed = True


def test_faults_of_ours_are_told_to_the_log_alone(
    assistant: Assistant, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Broken(assistant)
    with TestClient(create_app(engine), raise_server_exceptions=False) as client:
        answer = client.post("/generate", json=ask("Hello"))
        assert answer.status_code == 500 and "secret" not in answer.text
        assert answer.json()["error"]["what"] == "the server failed"
        assert client.get("/health").json()["broken"] is True
    assert engine.closed and "a secret of the house" in caplog.text


def test_a_full_house_says_so(assistant: Assistant) -> None:
    settings = Settings(max_waiting=0)
    with TestClient(create_app(OneAtATime(assistant, "tiny"), settings)) as client:
        answer = client.post("/generate", json=ask("Hello"))
    assert answer.status_code == 429 and answer.headers["retry-after"] == "5"


def test_the_shipped_model_answers(tmp_path: Path) -> None:
    sample = Scenes(1000, "heldout").question("exists", 0)
    picture = sample.media("image")[0].data
    picture.save(tmp_path / "scene.png")
    model = omnimix.load("nano", device="cpu")
    engine = OneAtATime(model, "nano")
    with TestClient(create_app(engine, Settings(ItemReader(tmp_path), OPTIONS))) as client:
        text = sample.turns[0].text()
        got = client.post("/generate", json=ask(f"<image>{text}", images=["scene.png"]))
    assert got.json() == {"output": model.answer(text, picture, max_new_tokens=6)}
    assert got.json()["output"] in ("yes", "no", "Yes", "No", "Yes.", "No.", "yes.", "no.")
