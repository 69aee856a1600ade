"""Every sense in one conversation, through every door: pictures, a spoken question, a video and a document.

The model is nano with small untrained parts beside it (examples/senses), so that its answers mean little and
turn on everything that they are made of.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from starlette.testclient import TestClient
from typer.testing import CliRunner

from omnimix.cli.main import app
from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.data.sources import JsonlSource
from omnimix.generate.assistant import Assistant
from omnimix.generate.writing import Options
from omnimix.serve.app import Settings, create_app
from omnimix.serve.engine import OneAtATime
from omnimix.serve.items import Items
from omnimix.types import Media, Part, Sample, Turn

SENSES = Path(__file__).parent.parent / "examples" / "senses"
LENGTH = 8
ORDER = ("image", "image", "speech", "video", "document")


def media(kind: str, file: str) -> Media:
    return Media.image(str(SENSES / file)) if kind == "image" else Media(kind, SENSES / file)


def everything() -> list[Part]:
    return [
        *("The first picture is ", media("image", "left.png")),
        *(" and the second ", media("image", "right.png")),
        *(". Listen to the question ", media("speech", "question.wav")),
        *(", watch ", media("video", "clip.mp4")),
        *(", read ", media("document", "note.md"), " and answer."),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe as a model folder: all weights random, and large enough that every item counts."""
    recipe = recipes.load(SENSES / "recipe.yaml")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MultimodalLM.from_recipe(recipe)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.08)
    place = tmp_path_factory.mktemp("senses") / "model"
    model.save_pretrained(place)
    Processor.from_recipe(recipe).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def assistant(folder: Path) -> Assistant:
    from omnimix.generate.assistant import load

    return load(str(folder))


@pytest.fixture(scope="module")
def answer(assistant: Assistant) -> str:
    found = assistant.answer(everything(), max_new_tokens=LENGTH)
    assert found
    return found


def run(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


def test_items_stand_at_their_places(assistant: Assistant) -> None:
    woven = assistant.processor.weave(
        Sample((Turn("user", tuple(everything())),)), open_answer=True
    )
    names = (None, *assistant.processor.recipe.modalities)
    holes = [
        (names[owner], len(list(run))) for owner, run in groupby(woven.owner.tolist()) if owner
    ]
    assert holes == list(zip(ORDER, (49, 49, 10, 10, 4), strict=True))


def test_the_token_map_shows_them() -> None:
    shown = run("show", SENSES / "recipe.yaml", "--sample", SENSES / "record.json").output
    text = " ".join(shown.split()).replace("\u2039", "<").replace("\u203a", ">")
    assert (
        "The first picture is <image: 49> and the second <image: 49>. Listen to the question "
        "<speech: 10>, watch <video: 10>, read <document: 4> and answer." in text
    )


def test_every_item_counts(assistant: Assistant) -> None:
    parts = everything()
    whole = logits(assistant, parts)
    for at in [i for i, part in enumerate(parts) if isinstance(part, Media)]:
        kind = parts[at].kind  # type: ignore[union-attr]
        changed = [*parts[:at], OTHERS[kind], *parts[at + 1 :]]
        assert (logits(assistant, changed) - whole).abs().max() > 1e-4, kind


def logits(assistant: Assistant, parts: Sequence[Part]) -> torch.Tensor:
    woven = assistant.processor.weave(Sample((Turn("user", tuple(parts)),)), open_answer=True)
    with torch.no_grad():
        found: torch.Tensor = assistant.model(**assistant.processor.batch([woven]).inputs()).logits
    return found[0, -1]


_RAMP = np.linspace(-0.5, 0.5, 8000, dtype=np.float32)
OTHERS = {
    "image": Media.image(str(SENSES.parent / "scene.png")),
    "speech": Media("speech", {"array": _RAMP, "sampling_rate": 16000}),
    "video": Media("video", [SENSES / "left.png"] * 8),
    "document": Media("document", "A green square."),
}


def test_the_terminal_gives_the_same_answer(folder: Path, answer: str, tmp_path: Path) -> None:
    question = (
        "The first picture is {image:1} and the second {image:2}. Listen to the question {speech:1}, "
        "watch {video:1}, read {document:1} and answer."
    )
    files = [
        *("--image", SENSES / "left.png", "--image", SENSES / "right.png"),
        *("--item", f"speech={SENSES / 'question.wav'}", "--video", SENSES / "clip.mp4"),
        *("--document", SENSES / "note.md", "--draw", tmp_path / "drawn.png"),
    ]
    result = run("chat", folder, *files, "--ask", question, "--max-new-tokens", LENGTH, "--json")
    assert json.loads(result.output)["answer"] == answer


def test_http_gives_the_same_answer(assistant: Assistant, answer: str) -> None:
    settings = Settings(items=Items(root=SENSES), options=Options(max_new_tokens=LENGTH))
    content = (
        "The first picture is <image> and the second <image>. Listen to the question <speech>, "
        "watch <video>, read <document> and answer."
    )
    request = {
        "messages": [{"role": "user", "content": content}],
        "images": ["left.png", "right.png"],
        "speech_audios": ["question.wav"],
        "videos": ["clip.mp4"],
        "documents": [{"path": "note.md"}],
    }
    with TestClient(create_app(OneAtATime(assistant, "senses"), settings)) as client:
        response = client.post("/generate", json=request)
    assert response.status_code == 200, response.text
    assert response.json()["output"] == answer


def test_the_record_is_the_same_conversation(tmp_path: Path) -> None:
    for file in SENSES.iterdir():
        shutil.copy(file, tmp_path)
    line = json.dumps(json.loads((SENSES / "record.json").read_text(encoding="utf-8")))
    (tmp_path / "records.jsonl").write_text(line, encoding="utf-8")
    sample = JsonlSource(path="records.jsonl").open(tmp_path)[0]
    assert [item.kind for item in sample.media()] == list(ORDER)


def test_eight_mixed_conversations_answer_as_alone(assistant: Assistant) -> None:
    image, speech = media("image", "left.png"), media("speech", "question.wav")
    video, document = media("video", "clip.mp4"), media("document", "note.md")
    other = media("image", "right.png")
    questions: list[list[Part]] = [
        everything(),
        ["What do you hear in ", speech, "?"],
        [image, other, "Which is larger?"],
        ["Say something."],
        [document, " sums it up. And ", Media("document", "One red square, " * 60), "?"],
        [video, speech, "Does the sound fit?"],
        [speech, speech, image, "Which of the two?"],
        ["Read ", document, ", then look: ", other, video],
    ]
    alone = [assistant.answer(question, max_new_tokens=LENGTH) for question in questions]
    assert len(set(alone)) > 4, "the answers should tell conversations apart"
    assert assistant.answers(questions, max_new_tokens=LENGTH) == alone
    assert assistant.answers(questions, batch_size=3, max_new_tokens=LENGTH) == alone
