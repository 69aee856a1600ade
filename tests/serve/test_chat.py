"""`POST /chat`: the server's own schema, strict and in reading order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.registry import WIRES
from omnimix.serve.app import Settings, create_app
from omnimix.serve.engine import OneAtATime
from omnimix.serve.items import ItemReader
from omnimix.types import Box, Media, Turn
from omnimix_scenes import Scenes


@pytest.fixture(scope="module")
def assistant(tiny_model: MultimodalLM, tiny_processor: Processor) -> Assistant:
    return Assistant(tiny_model, tiny_processor)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    Scenes(7, "heldout").question("list", 0).media("image")[0].data.save(folder / "a.png")
    return folder


@pytest.fixture(scope="module")
def client(assistant: Assistant, root: Path) -> Iterator[TestClient]:
    settings = Settings(ItemReader(root), Options(max_new_tokens=6), max_items=2)
    app = create_app(OneAtATime(assistant, "tiny"), settings)
    with TestClient(app, raise_server_exceptions=False) as made:
        yield made


def ask(*content: Any, **words: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}], **words}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


PICTURE = {"type": "image", "source": "a.png"}
BOX = {"type": "region", "region": {"box": [10, 10, 60, 60]}}


def test_parts_stand_in_reading_order(client: TestClient, assistant: Assistant, root: Path) -> None:
    body = ask(PICTURE, text("What is in "), BOX, text("?"))
    body["messages"] += [
        {"role": "assistant", "content": "a cup"},
        {"role": "user", "content": "And now?"},
    ]
    picture = Media.image(str(root / "a.png"))
    expected = assistant.reply(
        [
            Turn("user", (picture, "What is in ", Media.region(Box(10, 10, 60, 60)), "?")),
            Turn("assistant", ("a cup",)),
            Turn("user", ("And now?",)),
        ],
        max_new_tokens=6,
    )
    answer = client.post("/chat", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "message": {"role": "assistant", "content": expected.text},
        "regions": answer.json()["regions"],
        "finish_reason": "stop" if expected.finished else "length",
        "usage": {"completion_tokens": expected.tokens},
    }


def test_both_formats_say_the_same(client: TestClient) -> None:
    named = {"type": "item", "modality": "image", "source": {"path": "a.png"}}
    theirs = {"messages": [{"role": "user", "content": "<image>Hm?"}], "images": ["a.png"]}
    wanted = client.post("/generate", json=theirs).json()["output"]
    for part in (PICTURE, named):
        said = client.post("/chat", json=ask(part, text("Hm?"))).json()
        assert said["message"]["content"] == wanted


def test_options_are_the_servers_with_the_requests_over_them(
    client: TestClient, assistant: Assistant
) -> None:
    short = client.post("/chat", json=ask(text("Hello"), options={"max_new_tokens": 2})).json()
    assert short["usage"]["completion_tokens"] <= 2
    words = {"temperature": 1.0, "seed": 3, "top_p": 0.9}
    drawn = client.post("/chat", json=ask(text("Hello"), options=words)).json()
    expected = assistant.reply([Turn("user", ("Hello",))], max_new_tokens=6, **words)
    assert drawn["message"]["content"] == expected.text


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({}, 400, "messages: this word is required"),
    ({"messages": []}, 400, "messages"),
    ({"messages": "Hello"}, 400, "messages"),
    (ask(text("a"), option={}), 400, "unknown word 'option'; did you mean 'options'?"),
    (ask(text("a"), stream=True), 400, "unknown word 'stream'"),
    (ask({"type": "text", "txt": "a"}), 400, "messages.0.content.0: unknown word 'txt'"),
    (ask({"type": "text", "text": "a", "on": 0}), 400, "unknown word 'on'"),
    (ask({"type": "text", "text": 7}), 400, "messages.0.content.0.text"),
    (ask({"type": "picture", "source": "a.png"}), 400, "unknown type 'picture'"),
    (ask({"text": "a"}), 400, "a part needs a word 'type'"),
    (ask("a"), 400, "a part needs a word 'type'"),
    (ask({"type": "image"}), 400, "source: this word is required"),
    ({"messages": [{"role": "tool", "content": "a"}]}, 400, "role"),
    ({"messages": [{"role": "user", "content": "a", "name": "x"}]}, 400, "unknown word 'name'"),
    (ask(text("a"), options={"max_new_tokens": 7}), 400, "more than the 6"),
    (ask(text("a"), options={"max_new_tokens": "3"}), 400, "options.max_new_tokens"),
    (ask(text("a"), options={"max_new_tokens": True}), 400, "options.max_new_tokens"),
    (ask(text("a"), options={"temperature": -1.0}), 400, "options.temperature"),
    (ask(text("a"), options={"top_k": 5}), 400, "unknown word 'top_k'"),
    (ask(PICTURE, PICTURE, PICTURE), 400, "3 items in one request"),
    (ask({"type": "video", "source": "a.mp4"}), 400, "the model takes no video"),
    (ask({"type": "item", "modality": "imag", "source": "a"}), 400, "Did you mean 'image'?"),
    (ask({"type": "image", "source": "b.png"}), 400, "messages[0].content[0]: there is no file"),
    (ask({"type": "image", "source": "b.png", "label": "cat"}), 400, "cat: there is no file"),
    (ask({"type": "image", "source": "../a.png"}), 403, "out of the server's folder"),
    (ask(PICTURE, {"type": "region", "region": {"box": [1, 2]}}), 400, "messages[0].content[1]"),
    (ask(PICTURE, {**BOX, "on": 4}), 400, "picture"),
    (ask(BOX), 400, "picture"),
    (ask(), 400, "the message says nothing"),
    ({"messages": [{"role": "user", "content": " "}]}, 400, "the message says nothing"),
    (
        ask(text("a"), options={"min_new_tokens": 5, "max_new_tokens": 2}),
        400,
        "min_new_tokens is 5",
    ),
    (ask(text("a"), options={"min_new_tokens": 99}), 400, "min_new_tokens is 99"),
]


@pytest.mark.parametrize(("body", "status", "says"), BAD, ids=range(len(BAD)))
def test_refusals(client: TestClient, body: dict[str, Any], status: int, says: str) -> None:
    answer = client.post("/chat", json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert says in error["message"], error
    assert error["hint"], error


@pytest.mark.parametrize("escaped", [b'"hi \\ud83d"', b'"hi \xed\xa0\xbd"'])
@pytest.mark.parametrize("path", ["/chat", "/generate"])
def test_half_a_character_is_refused(client: TestClient, path: str, escaped: bytes) -> None:
    body = b'{"messages": [{"role": "user", "content": %s}]}' % escaped
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and "half of a character" in answer.json()["error"]["message"]
    whole = body.replace(escaped, b'"hi \\ud83d\\ude00"')
    answer = client.post(path, content=whole, headers={"content-type": "application/json"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (ask(text("Hi"), options={"temperature": "hot"}), "options are max_new_tokens"),
        (ask({"type": "text", "text": 3}), "A part is {"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "Roles are system, user and"),
        ({"messages": [{"role": "user", "content": 3}]}, "Write a text, or a list of parts"),
        ({"messages": 3}, 'Write {"messages"'),
    ],
)
def test_the_way_out_fits_the_fault(client: TestClient, body: dict[str, Any], hint: str) -> None:
    message = client.post("/chat", json=body).json()["error"]["message"]
    assert hint.lower() in message.lower() and "?." not in message
    assert ("write {" in message.lower()) == hint.startswith("Write {")


def test_every_row_of_the_table_is_mounted(client: TestClient) -> None:
    paths = {WIRES.load(name).path for name in WIRES}
    assert paths <= set(client.get("/health").json()["paths"])
    for path in paths:
        assert client.post(path, json={}).status_code == 400
        assert client.get(path).status_code == 405
