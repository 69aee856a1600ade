"""The whole way: pretrained parts and rows to a model, and equal answers at every door."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

from omnimix.cli.main import app
from omnimix.compose.model import MultimodalLM
from omnimix.generate.assistant import Assistant, load
from omnimix.generate.decoding import Options
from omnimix.serve.app import Settings, create_app
from omnimix.serve.engine import OneAtATime
from omnimix.serve.items import ItemReader
from omnimix.types import Media, Turn
from tests import hub

ASKED = "What is this?"


def say(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, f"{words}: {done.output} {done.exception!r}"
    return str(done.stdout)


def rows(folder: Path, count: int = 8) -> Path:
    """LLaVA rows over a few pictures in a sub-folder."""
    (folder / "pictures").mkdir(parents=True)
    found = []
    for i in range(count):
        colour = ("red", "green", "blue")[i % 3]
        Image.new("RGB", (80, 60), colour).save(folder / "pictures" / f"{i}.png")
        asked = {"from": "human", "value": f"<image>\n{ASKED}"}
        told = {"from": "gpt", "value": f"It is {colour}."}
        found.append({"id": i, "image": f"pictures/{i}.png", "conversations": [asked, told]})
    (folder / "rows.json").write_text(json.dumps(found))
    return folder / "rows.json"


def answer(model: Assistant, picture: Path) -> tuple[str, tuple[int, ...]]:
    turn = Turn("user", (Media.image(str(picture)), ASKED))
    said = model.reply([turn], max_new_tokens=6)
    return said.text, said.ids


def test_from_parts_to_a_model_that_answers_the_same_at_every_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.language(tmp_path / "parts/lm")
    hub.timm_tower(tmp_path / "parts/vit")
    data = rows(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    parts = ["--vision", "parts/vit", "--connector", "mlp", "--language", "parts/lm"]
    say("new", "mine", *parts, "--data", str(data), "--lora")
    monkeypatch.chdir(tmp_path / "mine")
    page = Path("README.md").read_text()
    commands = [shlex.split(one) for one in re.findall(r"^omnimix (.*)$", page, re.M)]
    assert [words[0] for words in commands] == ["check", "train", "chat"]
    for words in commands:
        extra = ["--set", "num_workers=0"] if words[0] == "train" else []
        extra += ["--max-new-tokens", "6"] if words[0] == "chat" else []
        said = say(*words, *extra)

    elsewhere = tmp_path / "elsewhere" / "model"
    elsewhere.parent.mkdir()
    Path("run/model").rename(elsewhere)
    (tmp_path / "parts").rename(tmp_path / "gone")
    monkeypatch.chdir(elsewhere.parent)
    picture = tmp_path / "data/pictures/0.png"
    model = load("model")
    first, ids = answer(model, picture)
    assert first and first in say(
        "chat", "model", "--image", str(picture), "--ask", ASKED, "--max-new-tokens", "6"
    )
    assert first in said

    say("merge", "model", "merged")
    say("convert", "merged", "again")
    assert answer(load("merged"), picture)[1] == answer(load("again"), picture)[1] == ids
    for name in ("model", "merged"):
        from transformers import AutoModel, AutoProcessor

        auto, processor = AutoModel.from_pretrained(name), AutoProcessor.from_pretrained(name)
        assert isinstance(auto, MultimodalLM)
        assert answer(Assistant(auto.eval(), processor), picture)[1] == ids
    assert served(elsewhere, picture) == first


def served(folder: Path, picture: Path) -> str:
    """What the server answers."""
    settings = Settings(ItemReader(picture.parent), Options(max_new_tokens=6))
    content = [{"type": "image", "source": picture.name}, {"type": "text", "text": ASKED}]
    with TestClient(create_app(OneAtATime(load(folder), "own"), settings)) as client:
        said = client.post("/chat", json={"messages": [{"role": "user", "content": content}]})
    assert said.status_code == 200, said.text
    return str(said.json()["message"]["content"])
