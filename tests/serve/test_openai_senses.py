"""Sounds, videos and documents in the words of OpenAI's API, asked by its own client of a model that takes them."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.serve.app import Settings, create_app
from omnimix.serve.batched import Batched
from omnimix.serve.items import ItemReader
from omnimix.types import Media, Sample, Turn
from tests.compose import senses
from tests.compose.shrunk import processor_of, shrunk
from tests.media.test_video import FILM
from tests.models import random_model
from tests.serve.live import live

WAVE = senses.wave(1)
SHORT = Options(max_new_tokens=12, stop_strings=())
SAID = "one two three four. " * 3


def inline(data: bytes, kind: str = "") -> str:
    coded = base64.b64encode(data).decode()
    return f"data:{kind};base64,{coded}" if kind else coded


@pytest.fixture(scope="module")
def assistant(tmp_path_factory: pytest.TempPathFactory) -> Assistant:
    recipe = shrunk("multi_token_any")
    processor = processor_of(recipe, tmp_path_factory.mktemp("words"))
    return Assistant(random_model(recipe), processor)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    (folder / "a.mp4").write_bytes(FILM)
    (folder / "a.wav").write_bytes(WAVE)
    (folder / "a.txt").write_text(SAID)
    (folder / "a.html").write_text(f"<html><body><p>{html.escape(SAID)}</p></body></html>")
    return folder


@pytest.fixture(scope="module")
def client(assistant: Assistant, root: Path) -> Iterator[openai.OpenAI]:
    app = create_app(Batched(assistant, "any"), Settings(ItemReader(root), SHORT))
    with live(app) as address, openai.OpenAI(base_url=f"{address}/v1", api_key="none") as made:
        yield made


def parts() -> list[tuple[dict[str, Any], Media]]:
    """Parts of messages, and what each is here."""
    wav = {"data": inline(WAVE), "format": "wav"}
    heard, seen, read = Media("audio", WAVE), Media("video", FILM), Media.document(SAID)
    return [
        ({"type": "input_audio", "input_audio": wav}, heard),
        ({"type": "audio_url", "audio_url": {"url": inline(WAVE, "audio/wav")}}, heard),
        ({"type": "audio_url", "audio_url": "a.wav"}, heard),
        ({"type": "item", "modality": "sound", "source": "a.wav"}, Media("sound", WAVE)),
        ({"type": "video_url", "video_url": {"url": inline(FILM, "video/mp4")}}, seen),
        ({"type": "video_url", "video_url": {"url": "a.mp4"}}, seen),
        ({"type": "file", "file": {"file_data": inline(SAID.encode(), "text/plain")}}, read),
        ({"type": "file", "file": {"file_data": inline(SAID.encode()), "filename": "a"}}, read),
        ({"type": "file", "file": {"file_url": "a.txt"}}, read),
        ({"type": "file", "file": {"file_url": "a.html"}}, read),
    ]


def asked(client: openai.OpenAI, *content: Any, **words: Any) -> Any:
    messages: Any = [{"role": "user", "content": [*content]}]
    return client.chat.completions.create(**{"model": "any", **words}, messages=messages)


@pytest.mark.parametrize("number", range(10))
def test_an_item_of_every_kind_is_what_it_is_here(
    number: int, client: openai.OpenAI, assistant: Assistant
) -> None:
    part, media = parts()[number]
    text = {"type": "text", "text": "What?"}
    wanted = assistant.reply(Sample((Turn("user", (media, "What?")),)), SHORT)
    nothing = assistant.reply(Sample((Turn("user", ("What?",)),)), SHORT)
    answer = asked(client, part, text)
    assert answer.choices[0].message.content == wanted.text != nothing.text
    assert answer.usage.prompt_tokens == wanted.prompt_tokens > nothing.prompt_tokens
    chunks = asked(client, part, text, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == wanted.text


def test_all_kinds_in_one_question_and_by_their_names(
    client: openai.OpenAI, assistant: Assistant
) -> None:
    every = [parts()[number] for number in (0, 3, 4, 6)]
    named = [{**part, "uuid": f"item-{i}"} for i, (part, _) in enumerate(every) if i != 1]
    wanted = assistant.reply(Sample((Turn("user", (*(m for _, m in every), "And?")),)), SHORT)
    content = [named[0], every[1][0], *named[1:], {"type": "text", "text": "And?"}]
    assert asked(client, *content).choices[0].message.content == wanted.text
    again = [{"type": p["type"], p["type"]: None, "uuid": p["uuid"]} for p in named]
    content = [again[0], every[1][0], *again[1:], {"type": "text", "text": "And?"}]
    assert asked(client, *content).choices[0].message.content == wanted.text


def test_responses_take_files_and_sounds(client: openai.OpenAI, assistant: Assistant) -> None:
    heard, read = Media("audio", WAVE), Media.document(SAID)
    wanted = assistant.reply(Sample((Turn("user", (read, heard, "What?")),)), SHORT)
    content: Any = [
        {"type": "input_file", "file_data": inline(SAID.encode(), "text/plain"), "filename": "a"},
        {"type": "input_audio", "input_audio": {"data": inline(WAVE), "format": "wav"}},
        {"type": "input_text", "text": "What?"},
    ]
    told: Any = [{"role": "user", "content": content}]
    assert client.responses.create(model="any", input=told).output_text == wanted.text


def test_a_damaged_item_is_named(client: openai.OpenAI) -> None:
    text = {"type": "text", "text": "What?"}
    broken = inline(b"RIFF no sound")
    for part, says in (
        ({"type": "input_audio", "input_audio": {"data": broken}}, "content[0]"),
        ({"type": "input_audio", "input_audio": {"data": "%%%"}}, "base64"),
        ({"type": "video_url", "video_url": {"url": inline(WAVE, "video/mp4")}}, "content[0]"),
        ({"type": "file", "file": {"file_data": inline(b"\x00\x01\x02")}}, "content[0]"),
        ({"type": "file", "file": {"filename": "a.txt"}}, "file"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            asked(client, part, text)
        assert says in json.dumps(caught.value.body)
