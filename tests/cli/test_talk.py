"""Talking at the terminal: what is taken back, kept and gone on with, here and with a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.serve.live import live
from typer.testing import CliRunner

from omnimix.cli import inline, messages
from omnimix.cli.main import app
from omnimix.cli.remote import Remote
from omnimix.cli.session import Session
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import OmnimixError
from omnimix.generate.assistant import Assistant
from omnimix.serve.app import Settings, create_app
from omnimix.serve.engine import OneAtATime
from omnimix.types import Box, Media, Point, Turn
from omnimix_scenes import Scenes

WRITING = {"max_new_tokens": 8}


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Scenes(7, "heldout").question("list", 0).media("image")[0].data.save(path)
    return path


@pytest.fixture(scope="module")
def assistant(tiny_model: MultimodalLM, tiny_processor: Processor) -> Assistant:
    return Assistant(tiny_model, tiny_processor)


@pytest.fixture(scope="module")
def address(assistant: Assistant) -> Iterator[str]:
    settings = Settings(keys=("the-key-of-tests",))
    with live(create_app(OneAtATime(assistant, "tiny"), settings)) as found:
        yield found


@pytest.fixture
def remote(address: str) -> Remote:
    return Remote(f"{address}/v1/", "the-key-of-tests")


def asked(session: Session, text: str) -> str:
    turns = session.asking(text)
    answer = session.assistant.reply(turns, **session.options)
    session.answer(turns, answer)
    return answer.text


def talked(session: Session, picture: Path) -> list[str]:
    session.add(Media("image", picture, label=str(picture)))
    session.mark(Box(10, 10, 60, 60))
    first = asked(session, "What is in the box?")
    session.mark(Point(20, 20))
    return [first, asked(session, "And here?")]


def test_a_server_answers_as_the_model_does(
    remote: Remote, assistant: Assistant, picture: Path
) -> None:
    there, here = Session(remote, WRITING), Session(assistant, WRITING)
    assert talked(there, picture) == talked(here, picture)
    streamed = remote.stream(there.asking("And?"), **WRITING)
    said = "".join(streamed)
    assert said == streamed.answer.text == here.assistant.reply(here.asking("And?"), **WRITING).text


@pytest.mark.parametrize("where", ["here", "there"])
def test_a_conversation_is_kept_and_gone_on_with(
    where: str, remote: Remote, assistant: Assistant, picture: Path, tmp_path: Path
) -> None:
    first = Session(remote if where == "there" else assistant, WRITING)
    talked(first, picture)
    file = tmp_path / "talk.json"
    first.save(file)
    assert {m["role"] for m in json.loads(file.read_text())["messages"]} == {"user", "assistant"}
    again = Session(first.assistant, WRITING)
    again.open(file)
    again.mark(Box(3, 3, 30, 30))
    first.mark(Box(3, 3, 30, 30))
    assert asked(again, "What is in the box?") == asked(first, "What is in the box?")


def test_what_was_done_last_is_taken_back(assistant: Assistant, picture: Path) -> None:
    session = Session(assistant, WRITING)
    session.add(Media("image", picture))
    alone = asked(session, "What is it?")
    session.mark(Box(1, 1, 9, 9))
    session.mark(Box(10, 10, 60, 60))
    session.undo()
    assert session.regions == [Box(1, 1, 9, 9)]
    session.undo()
    assert session.undo().endswith("taken back; 1 item for the next question")
    assert not session.history and asked(session, "What is it?") == alone
    session.undo()
    assert "item" in session.undo() and not session.has_picture
    with pytest.raises(OmnimixError, match="nothing to take back"):
        session.undo()
    session.add(Media("image", picture))
    assert asked(session, "What is it?") == alone
    session.undo()
    session.mark(Box(10, 10, 60, 60))
    marked = asked(session, "What is in the box?")
    assert session.undo().endswith("1 item and 1 mark for the next question")
    assert asked(session, "What is in the box?") == marked
    second = Media.image(Image.new("RGB", (20, 20)))
    session.add(second)
    session.undo()
    session.mark(Box(100, 100, 200, 200))  # which lies on the first alone


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no JSON"),
        ('{"a": 1}', "no messages"),
        ('[{"role": "user"}]', "messages.0: the message has no content"),
        ('[{"role": "robot", "content": "x"}]', "unknown role"),
        (
            '[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]',
            "data",
        ),
        ('[{"role": "user", "content": [{"type": "x"}]}]', "unknown type 'x'"),
    ],
)
def test_files_that_are_no_conversation(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(OmnimixError, match=says):
        messages.read(tmp_path / "a.json")


def test_items_of_every_kind_come_back(tmp_path: Path) -> None:
    items = [Media(kind, b"\x00\xff", label=kind) for kind in messages.TYPES]
    turns = [Turn("user", (*items, "What?", Media.region(Point(1, 2), on=0)))]
    (tmp_path / "a.json").write_text(json.dumps(messages.written(turns)), encoding="utf-8")
    (turn,) = messages.read(tmp_path / "a.json")
    found: list[Any] = [part for part in turn.content if isinstance(part, Media)]
    assert [(one.kind, one.data) for one in found[:-1]] == [(i.kind, i.data) for i in items]
    assert found[-1].data == Point(1, 2) and found[-1].on == 0 and "What?" in turn.content


def test_servers_that_do_not_answer(address: str) -> None:
    with pytest.raises(OmnimixError, match="API key is needed"):
        Remote(address)
    with pytest.raises(OmnimixError, match="cannot ask the server"):
        Remote("http://127.0.0.1:9")
    with pytest.raises(OmnimixError, match="no address"):
        Remote("localhost:9")


def test_the_command(
    address: str, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNIMIX_API_KEY", "the-key-of-tests")
    monkeypatch.chdir(tmp_path)
    lines = [f"/image {picture}", "/box 10 10 60 60", "What is in the box?", "/save a.json"]
    lines += ["/undo", "/undo", "/undo", "/undo", f"/image {picture}", "/point 5 5"]
    lines += [f"/image {picture}", "/open a.json", "/model tinny", "/point 5 5", "/model tiny"]
    lines += ["/save", "/quit"]
    words = ["chat", "--server", address, "--max-new-tokens", "4"]
    told = CliRunner().invoke(app, words, input="\n".join(lines))
    output = " ".join(told.output.split())
    assert told.exit_code == 0, told.output
    for words_ in ("tiny: ask away", "saved: a.json", "are taken back", "nothing to take back"):
        assert words_ in output
    for words_ in (
        "2 messages; go on",
        "did you mean 'tiny'",
        "before (1) are gone",
        "go on; left behind: 2 items",
        "tiny answers; a new conversation; left behind: 1 mark",
        "/save needs a file",
    ):
        assert words_.lower() in output.lower()


def test_pictures_in_the_terminal(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 90).save(tmp_path / "a.png")
    assert inline.way({"KITTY_WINDOW_ID": "1"}) == "kitty" and inline.way({}) is None
    assert inline.way({"TERM_PROGRAM": "iTerm.app"}) == "iterm"
    assert inline.way({"TERM_PROGRAM": "iTerm.app", "TMUX": "x"}) is None
    kitty = inline.shown(tmp_path / "a.png", "kitty")
    assert kitty.count("\033_G") == kitty.count("\033\\") > 1 and kitty.count("m=0") == 1
    assert inline.shown(tmp_path / "a.png", "iterm").startswith("\033]1337;File=inline=1")


def test_options_of_a_local_model_are_refused_for_a_server() -> None:
    words = ["chat", "--server", "http://127.0.0.1:9", "--quantization", "nf4", "--device", "cpu"]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2 and "--device, --quantization cannot be chosen" in refused.output
