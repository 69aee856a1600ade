"""The example of every sense in one conversation (examples/senses): nano with small untrained parts beside it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from omnimix.cli.main import app
from omnimix.compose import recipe as recipes
from omnimix.compose.processor import Processor
from omnimix.generate.assistant import Assistant
from omnimix.types import Media, Part, Sample, Turn
from tests.models import random_model

SENSES = Path(__file__).parent.parent / "examples" / "senses"
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
def assistant() -> Assistant:
    """All weights random, and large enough that every item counts."""
    recipe = recipes.load(SENSES / "recipe.yaml")
    return Assistant(random_model(recipe, 0.08), Processor.from_recipe(recipe))


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
