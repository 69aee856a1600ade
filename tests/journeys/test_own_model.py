"""The whole way: pretrained parts and rows to a model, and equal answers at every door."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def say(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, f"{words}: {done.output} {done.exception!r}"
    return str(done.stdout)


def rows(folder: Path, count: int = 40) -> Path:
    """LLaVA rows over pictures of another folder: one in twenty is broken; and a file of good ones."""
    folder.mkdir()
    store = folder.parent / "store/pictures"
    store.mkdir(parents=True)
    found: list[dict[str, Any]] = []
    for i in range(count):
        colour = ("red", "green", "blue")[i % 3]
        Image.new("RGB", (80, 60), colour).save(store / f"{i}.png")
        asked = {"from": "human", "value": f"<image>\n{ASKED}"}
        told = {"from": "gpt", "value": f"It is {colour}."}
        found.append({"id": i, "image": f"pictures/{i}.png", "conversations": [asked, told]})
    (folder / "held-out.json").write_text(json.dumps(found[:3]))
    found[7]["image"] = "pictures/gone.png"
    found[29]["conversations"][1]["value"] = " "
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
    say("new", "wrong", *parts, "--data", str(data), code=2)  # the pictures are not beside the rows
    say("new", "mine", *parts, "--data", str(data), "--media", "store", "--lora")
    monkeypatch.chdir(tmp_path / "mine")
    page = Path("README.md").read_text()
    commands = [shlex.split(one) for one in re.findall(r"^omnimix (.*)$", page, re.M)]
    check, train, chat, evaluate = commands
    # The model of the recipe answers before it has learned anything.
    untrained = ["evaluate", "recipe.yaml", *evaluate[2:], "--json", "--max-new-tokens", "4"]
    assert json.loads(say(*untrained))["n"] == 2
    faults_are_named_and_mended(check, data)
    trained_in_two_stages(train)

    elsewhere = tmp_path / "elsewhere" / "model"
    elsewhere.parent.mkdir()
    before = say(*chat, "--max-new-tokens", "6")
    Path("run/model").rename(elsewhere)
    (tmp_path / "parts").rename(tmp_path / "gone")
    monkeypatch.chdir(elsewhere.parent)
    picture = tmp_path / "store/pictures/0.png"
    model = load("model")
    first, ids = answer(model, picture)
    shown = ("--image", str(picture), "--ask", ASKED, "--max-new-tokens", "6")
    assert first and before == say("chat", "model", *shown)
    assert first in before

    say("merge", "model", "merged")
    say("convert", "merged", "again")
    assert answer(load("merged"), picture)[1] == answer(load("again"), picture)[1] == ids
    for name in ("model", "merged"):
        from transformers import AutoModel, AutoProcessor

        auto, processor = AutoModel.from_pretrained(name), AutoProcessor.from_pretrained(name)
        assert isinstance(auto, MultimodalLM)
        assert answer(Assistant(auto.eval(), processor), picture)[1] == ids
        assert generated(auto, processor, picture) == list(ids)
    assert served(elsewhere, picture) == first
    predicted_and_scored(data.with_name("held-out.json"), first)


def faults_are_named_and_mended(check: list[str], data: Path) -> None:
    """The check of the page names the two broken rows (counted from 1) and passes what it mended."""
    say(*check, "--fix", "--workers", "0", code=1)
    for found in json.loads(Path("check/report.json").read_text())["datasets"]:
        named = {(fault["row"], fault["code"]) for fault in found["faults"]}
        assert named == {(8, "item"), (30, "empty-answer")}
    mended = data.with_name("rows.clean.jsonl")
    assert len(mended.read_text().splitlines()) == 38
    words = Path("train.yaml")
    words.write_text(words.read_text().replace("rows.json", mended.name))
    say(*check, "--workers", "0")


def trained_in_two_stages(train: list[str]) -> None:
    """The connector, then adapters; held-out rows are looked at in both."""
    extra = ["--set", "num_workers=0"]
    held = "{data: {path: ../data/held-out.json, media: ../store}, measures: [exact], max_new_tokens: 4}"
    for stage in ("stages.0", "stages.1"):
        extra += ["--set", f"{stage}.batch_size=8", "--set", f"{stage}.validate={held}"]
        extra += ["--set", f"{stage}.logging_steps=1"]
    say(*train, *extra)
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    looks = [line for line in lines if "validation" in line]
    assert {line["stage"] for line in looks} == {0, 1}
    assert looks[-1]["validation"] < looks[0]["validation"]
    assert not Path("run/dropped.jsonl").exists()


def generated(model: Any, processor: Any, picture: Path) -> list[int]:
    """What transformers' own calls write."""
    content = [{"type": "image", "path": str(picture)}, {"type": "text", "text": ASKED}]
    batch = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    written = model.generate(**batch, max_new_tokens=6, do_sample=False)
    new: list[int] = written[0, batch["input_ids"].shape[1] :].tolist()
    return new


def predicted_and_scored(data: Path, first: str) -> None:
    """Answers in a file, and their score: that of the answers themselves, taken for right, is 1."""
    media = ("--media", str(data.parent.parent / "store"))
    say("predict", "model", str(data), *media, "--out", "short.jsonl", "--max-new-tokens", "6")
    assert json.loads(Path("short.jsonl").read_text().splitlines()[0])["answer"] == first
    say("predict", "model", str(data), *media, "--out", "answers.jsonl")
    answers = [
        json.loads(line)["answer"] for line in Path("answers.jsonl").read_text().splitlines()
    ]
    told = json.loads(data.read_text())
    for row, said in zip(told, answers, strict=True):
        row["conversations"][1]["value"] = said
    data.write_text(json.dumps(told))
    for name in ("model", "merged"):
        scored = say("evaluate", name, "--data", str(data), *media, "--metric", "exact", "--json")
        assert json.loads(scored)["score"] == 1
    swapped = (*media, "--metric", "exact", "--swap-pictures", "--json")
    assert json.loads(say("evaluate", "model", "--data", str(data), *swapped))["swapped"] is True


def served(folder: Path, picture: Path) -> str:
    """What the server answers."""
    settings = Settings(ItemReader(picture.parent), Options(max_new_tokens=6))
    content = [{"type": "image", "source": picture.name}, {"type": "text", "text": ASKED}]
    with TestClient(create_app(OneAtATime(load(folder), "own"), settings)) as client:
        said = client.post("/chat", json={"messages": [{"role": "user", "content": content}]})
    assert said.status_code == 200, said.text
    return str(said.json()["message"]["content"])


def test_the_tiny_parts_of_the_page_are_made_in_a_fresh_process(tmp_path: Path) -> None:
    file = Path(__file__).parents[2] / "examples" / "tiny_parts.py"
    done = subprocess.run(
        [sys.executable, str(file)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "rows.json").is_file() and (tmp_path / "parts" / "vit").is_dir()
