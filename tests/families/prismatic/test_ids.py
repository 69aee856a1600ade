"""Recipes of the ids that Prismatic's models go by, over the pretrained parts that they were made from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from omnimix.checkpoints import releases
from omnimix.compose import recipe as recipes
from omnimix.compose.modality import Modality
from omnimix.errors import CheckpointError
from omnimix.registry import CHECKPOINTS
from omnimix.train import settings
from tests import hub

LANGUAGE = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1}


def test_every_id_gives_a_recipe() -> None:
    family = CHECKPOINTS.load("prismatic")()
    seen: dict[tuple[str, ...], recipes.Recipe] = {}
    for one in releases.releases("prismatic"):
        words = family.untrained(*one.ids, one.connector, one.resize)
        assert words["language"]["weights"] == one.parts["llm"]
        words["language"] = {"kind": "causal_lm", "config": LANGUAGE}
        found = seen[(*one.ids[:1], str(one.resize))] = recipes.parse(words, one.id)
        encoders = found.modalities["image"].branches[0].encoders
        assert len(encoders) == len(one.encoder.parts) and all(
            "." in str(e.weights) for e in encoders
        )
    assert len(seen) > 10
    for key in (("siglip-vit-so400m", "letterbox"), ("dinosiglip-vit-so-384px", "resize-naive")):
        found = seen[key]
        with torch.device("meta"):
            tokens = Modality(found.modalities["image"], 64).tokens_per_tile
        assert found.model_max_length == 2048 + tokens


def test_a_stage_file_takes_any_id_as_one_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.language(tmp_path / "lm")
    words = [
        "recipe=siglip-224px+7b",
        'set=["language.weights=lm", "language.config.vocab_size=800"]',
    ]
    branch = "modalities.image.branches.0.encoders.0"
    words[1] = (
        words[1][:-1]
        + f', "{branch}.steps=[{{kind: resize, size: 224}}]", "{branch}.weights=null"]'
    )
    training, _ = settings.load("prismatic.train.yaml", words)
    found, _ = training.model(tmp_path)
    assert found.template.name == "vicuna_v15" and found.language.hf_config().vocab_size == 800
    assert found.modalities["image"].branches[0].encoders[0].layer == -2  # type: ignore[attr-defined]


def test_a_family_that_is_not_begun_so_says_what_to_do() -> None:
    with pytest.raises(CheckpointError, match="initial_checkpoint"):
        CHECKPOINTS.load("sphinx")().untrained("a", "b", "c", "d")
