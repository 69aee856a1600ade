"""One conversation of every sense through every door: Python, the terminal in both forms, and HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient
from typer.testing import CliRunner

import omnimix
from omnimix.cli.main import app
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.serve.app import Settings, create_app
from omnimix.serve.engine import OneAtATime, limited
from omnimix.serve.items import ItemReader
from omnimix.types import Media, Sample, Turn
from tests.compose import senses
from tests.media.test_video import film

NOTES = "one two three four two one"
WORDS = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a tiny model of every sense, with random weights."""
    place = tmp_path_factory.mktemp("senses")
    return senses.saved(place)


@pytest.fixture(scope="module")
def assistant(model: Path) -> Assistant:
    return omnimix.load(model, device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures, a spoken question, a clip and a document."""
    place = tmp_path_factory.mktemp("files")
    senses.picture(0).save(place / "a.png")
    senses.picture(1).save(place / "b.png")
    (place / "question.wav").write_bytes(senses.wave())
    (place / "clip.mp4").write_bytes(film(12))
    (place / "notes.txt").write_text(NOTES)
    return place


@pytest.fixture(scope="module")
def parts(files: Path) -> list[Any]:
    """The question as Python says it, item by item in its place."""
    return [
        "Given ",
        Media.image(files / "a.png"),
        " and ",
        Media.image(files / "b.png"),
        ", answer ",
        Media("speech", files / "question.wav"),
        ". Watch ",
        Media.video(files / "clip.mp4"),
        ", read ",
        Media.document(NOTES),
        ".",
    ]


@pytest.fixture(scope="module")
def expected(assistant: Assistant, parts: list[Any]) -> str:
    answer = assistant.answer(parts, **WORDS)
    assert answer, "the tiny model says something"
    return answer


def run(*words: object, text: str | None = None) -> str:
    result = CliRunner().invoke(app, [*map(str, words)], input=text)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_python_takes_items_by_their_names(
    assistant: Assistant, files: Path, expected: str
) -> None:
    marked = "Given {image:1} and {image:2}, answer {speech:1}. Watch {video:1}, read {document:1}."
    found = assistant.answer(
        marked,
        images=[files / "a.png", files / "b.png"],
        media=[Media("speech", files / "question.wav")],
        video=files / "clip.mp4",
        document=NOTES,
        **WORDS,
    )
    assert found == expected
    aside = assistant.answer("Hm?", audio=files / "question.wav", **WORDS)
    assert aside == assistant.answer([Media("speech", files / "question.wav"), "Hm?"], **WORDS)
    assert aside != assistant.answer("Hm?", **WORDS)


def test_the_terminal_asks_once(model: Path, files: Path, expected: str) -> None:
    marked = "Given {image:1} and {image:2}, answer {audio:1}. Watch {video:1}, read {document:1}."
    said = run(
        *("chat", model, "--document", files / "notes.txt", "--image", files / "a.png"),
        *("--video", files / "clip.mp4", f"--audio={files / 'question.wav'}"),
        *("--image", files / "b.png", "--ask", marked, "--max-new-tokens", 12, "--json"),
    )
    assert json.loads(said)["answer"] == expected


def test_the_terminal_keeps_the_order_of_the_line(
    model: Path, files: Path, assistant: Assistant
) -> None:
    sound, picture = Media("sound", files / "question.wav"), Media.image(files / "a.png")
    said = run(
        *("chat", model, "--item", f"sound={files / 'question.wav'}", "--image", files / "a.png"),
        *("--ask", "Hm?", "--max-new-tokens", 12, "--json"),
    )
    assert json.loads(said)["answer"] == assistant.answer([sound, picture, "Hm?"], **WORDS)
    other = assistant.answer([picture, sound, "Hm?"], **WORDS)
    assert json.loads(said)["answer"] != other, "the order is heard"


def test_the_terminal_talks(model: Path, files: Path, expected: str) -> None:
    lines = [
        f"/image {files / 'a.png'}",
        f"/audio {files / 'question.wav'}",
        f"/image {files / 'b.png'}",
        f"/video {files / 'clip.mp4'}",
        f"/document {files / 'notes.txt'}",
        f"/audio {files / 'nothing.wav'}",
        f"/audio {files / 'notes.txt'}",
        f"/item smell={files / 'notes.txt'}",
        "/item smell",
        "Given {image:1} and {image:2}, answer {audio:1}. Watch {video:1}, read {document:1}.",
        "/quit",
    ]
    said = run("chat", model, "--max-new-tokens", 12, text="\n".join(lines))
    said = " ".join(said.split())
    assert " ".join(expected.split()) in said
    assert "the sound goes with your next question" in said
    assert "there is no such sound" in said
    assert "no sound that can be opened" in said or "no sound" in said
    assert "has no place for an item of kind 'smell'. It takes image, speech" in said
    assert "an item is NAME=PATH" in said


def test_what_a_model_has_no_place_for(tiny_folder: Path, files: Path) -> None:
    words = ["chat", tiny_folder, "--audio", files / "question.wav", "--ask", "Hm?"]
    result = CliRunner().invoke(app, [*map(str, words)])
    said = " ".join(result.output.split())
    assert result.exit_code == 2
    assert "has no place for an item of kind 'audio'. It takes image, region." in said


@pytest.fixture(scope="module")
def client(assistant: Assistant, files: Path) -> Iterator[TestClient]:
    engine = OneAtATime(limited(assistant, max_pixels=1_000_000), "senses")
    with TestClient(create_app(engine, Settings(ItemReader(files), Options(**WORDS)))) as made:
        yield made


def asked(**lists: Any) -> dict[str, Any]:
    text = "Given <image> and <image>, answer <speech>. Watch <video>, read <document>."
    return {"messages": [{"role": "user", "content": text}], **lists}


def test_http_by_paths_and_inline(client: TestClient, files: Path, expected: str) -> None:
    by_path = asked(
        images=["a.png", "b.png"],
        speech_audios=[{"path": "question.wav"}],
        videos=["clip.mp4"],
        documents=[NOTES],
    )

    def inline(name: str) -> str:
        content = base64.b64encode((files / name).read_bytes()).decode()
        return f"data:application/octet-stream;base64,{content}"

    by_value = asked(
        images=[inline("a.png"), {"url": inline("b.png")}],
        speech_audios=[inline("question.wav")],
        videos=[inline("clip.mp4")],
        documents=[{"path": "notes.txt"}],
    )
    for body in (by_path, by_value):
        answer = client.post("/generate", json=body)
        assert (answer.status_code, answer.json()) == (200, {"output": expected}), answer.text


def test_http_takes_texts_and_samples(client: TestClient, assistant: Assistant) -> None:
    array = [0.01 * (i % 50) for i in range(8000)]
    body = {
        "messages": [{"role": "user", "content": "<imagebind><sound>Hm?"}],
        "imagebinds": [{"text": "four three two"}],
        "sounds": [{"array": array, "sampling_rate": 8000}],
    }
    heard = Media("sound", {"array": torch.tensor(array).numpy(), "sampling_rate": 8000})
    wanted = assistant.answer([Media("imagebind", "four three two"), heard, "Hm?"], **WORDS)
    answer = client.post("/generate", json=body)
    assert answer.json() == {"output": wanted}


@pytest.mark.parametrize(
    ("lists", "status", "says"),
    [
        # A text is never taken for the name of a file, whatever lies there.
        ({"speech_audios": [{"text": "question.wav"}]}, 400, "a text is no item"),
        ({"imagebinds": [{"path": "/etc/passwd"}]}, 403, "out of the server's folder"),
        ({"speech_audios": ["notes.txt"]}, 400, "speech_audios[0]"),
        ({"videos": ["question.wav"]}, 400, "videos[0]"),
        ({"videos": ["a.m3u8"]}, 400, "there is no file"),
        ({"speech_audios": [{"array": [0.1, 0.2]}]}, 400, "speech_audios[0]"),
        (
            {"speech_audios": [{"array": [0.1], "sampling_rate": "fast"}]},
            400,
            "no whole number of hertz",
        ),
        ({"documents": [""]}, 400, "documents[0]"),
        ({"documents": [{"url": "file:///etc/passwd"}]}, 403, "not opened"),
    ],
)
def test_http_refusals(client: TestClient, lists: dict[str, Any], status: int, says: str) -> None:
    tokens = {"speech_audios": "<speech>", "imagebinds": "<imagebind>", "videos": "<video>"}
    (key,) = lists
    text = tokens.get(key, "<document>")
    body = {"messages": [{"role": "user", "content": text}], **lists}
    answer = client.post("/generate", json=body)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]["message"]


def test_a_text_that_is_the_name_of_a_file_stays_text(
    client: TestClient, assistant: Assistant, files: Path
) -> None:
    name = str(files / "notes.txt")
    for key, token in (("documents", "<document>"), ("imagebinds", "<imagebind>")):
        body = {"messages": [{"role": "user", "content": token}], key: [{"text": name}]}
        answer = client.post("/generate", json=body).json()["output"]
        kind = token[1:-1]
        assert answer == assistant.answer([Media(kind, name.encode())], **WORDS), key


def test_the_token_map_proves_the_places(model: Path, files: Path) -> None:
    content = [
        "Given ",
        {"image": "a.png"},
        " and ",
        {"image": "b.png"},
        ", answer ",
        {"item": {"speech": "question.wav"}},
        ". Watch ",
        {"video": "clip.mp4"},
        ", read ",
        {"document": "notes.txt"},
        ".",
    ]
    file = files / "record.json"
    file.write_text(json.dumps({"id": "7", "turns": [{"role": "user", "content": content}]}))
    said = run("show", model, "--sample", file)
    wanted = (
        "Given <image: 2> and <image: 2>, answer <speech: 3>. Watch <video: 3>, read <document: 4>."
    )
    assert wanted.replace("<", "\u2039").replace(">", "\u203a") in said, said


def test_a_batch_of_eight_answers_as_one_at_a_time(
    assistant: Assistant, files: Path, parts: list[Any]
) -> None:
    picture, sound = Media.image(files / "a.png"), Media("sound", files / "question.wav")
    history = [Turn("user", (picture, "What?")), Turn("assistant", ("This.",))]
    eight: list[Any] = [
        parts,
        "Only words.",
        [sound, "Hm?"],
        [picture, "and", Media.document("three " * 40), "?"],
        [*history, Turn("user", ("And ", Media.video(files / "clip.mp4"), "?"))],
        Sample((Turn("user", (Media("imagebind", senses.picture(2)), "or", sound)),), "seven"),
        [Media("imagebind", senses.wave(3)), Media("imagebind", "one two"), "Which?"],
        [Media("speech", files / "question.wav"), picture],
    ]
    alone = [assistant.answers([one], **WORDS)[0] for one in eight]
    assert len(set(alone)) > 4, "the conversations are told apart"
    for size in (8, 3):
        assert assistant.answers(eight, batch_size=size, **WORDS) == alone
