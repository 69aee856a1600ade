"""What is saved is whole: a folder that was moved opens with the same answer, and names nothing outside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from omnimix import config
from omnimix.compose import recipe as recipes, saving
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.generate.assistant import load
from omnimix.media.text_steps import Tokenize
from tests.models import random_model

TEXT = {"model_type": "bert", "vocab_size": 712, "hidden_size": 32, "intermediate_size": 32}
TEXT |= {"num_hidden_layers": 1, "num_attention_heads": 2}


def words(tokenizer: str, step: str) -> dict[str, object]:
    """nano, small, with a sense for texts whose step has a tokenizer of its own."""
    return {
        "base": "nano",
        "name": "small",
        "language": {
            "config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
        },
        "tokenizer": {"path": tokenizer},
        "modalities": {
            "image": None,
            "region": None,
            "document": {
                "opens": "document",
                "steps": [{"kind": "tokenize", "path": step}],
                "branches": [{"encoders": [{"kind": "text", "config": TEXT}], "connector": "mlp"}],
            },
        },
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder `source` with a language model's folder and an encoder's, each with a tokenizer.json."""
    nano = recipes.FOLDER / "nano.tokenizer.json"
    for name in ("lm", "text", "text/again"):
        (tmp_path / "source" / name).mkdir(parents=True)
        shutil.copy(nano, tmp_path / "source" / name / "tokenizer.json")
    (tmp_path / "source" / "lm" / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "source" / "lm" / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    return tmp_path / "source"


@pytest.mark.parametrize(
    ("tokenizer", "step"),
    [
        ("lm/tokenizer.json", "text/tokenizer.json"),
        ("lm", "tokenizer.json"),
        ("{source}/lm/tokenizer.json", "{source}/text/tokenizer.json"),
        ("../source/lm", "../source/text/tokenizer.json"),
    ],
)
def test_a_moved_folder_answers_as_before(
    tokenizer: str, step: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(source / "text" / "tokenizer.json", source / "tokenizer.json")
    (source / "recipe.yaml").write_text(
        config.to_yaml(words(tokenizer.format(source=source), step.format(source=source)))
    )
    recipe = recipes.load(source / "recipe.yaml")
    # What lies elsewhere is handed over by name; a recipe alone reaches its folder and no further.
    outside = {
        name: source / "text" / "tokenizer.json" for name in recipe.files() if source.name in name
    }
    processor = Processor.from_recipe(recipe, source, files=outside)
    model = random_model(recipe)
    model.save_pretrained(tmp_path / "out")
    processor.save_pretrained(tmp_path / "out")
    asked = {"document": "a b c", "max_new_tokens": 4}
    before = load(tmp_path / "out").answer("What?", **asked)

    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(tmp_path / "out", moved)
    shutil.rmtree(source)
    shutil.rmtree(tmp_path / "out")
    monkeypatch.chdir(moved.parent)
    assert load("moved").answer("What?", **asked) == before
    written = config.read_yaml(moved / "recipe.yaml")
    told = json.loads((moved / "config.json").read_text())["recipe"]
    assert written["tokenizer"]["path"] == told["tokenizer"]["path"] == "tokenizer.json"
    assert written["modalities"] == told["modalities"]
    assert (moved / "chat_template.jinja").is_file()
    assert str(tmp_path) not in (moved / "recipe.yaml").read_text()
    assert str(tmp_path) not in (moved / "config.json").read_text()
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and not p.is_relative_to(moved)]


def test_files_of_two_steps_stay_two(source: Path) -> None:
    recipe = recipes.parse(words("lm", f"{source}/text/tokenizer.json"), "test")
    document = recipe.modalities["document"]
    both = (*document.steps, Tokenize(path=f"{source}/text/again/tokenizer.json"))
    twice = document.model_copy(update={"steps": both})
    named = recipe.model_copy(update={"modalities": {"document": twice}})
    assert len(set(saving.names(named).values())) == 2
    again = saving.saved(named)
    assert again.files() == sorted(saving.names(named).values())
    assert saving.saved(again) == again


@pytest.mark.parametrize("name", recipes.names())
def test_shipped_recipes_are_saved_as_they_are(name: str) -> None:
    recipe = recipes.load(name)
    assert saving.saved(recipe) == recipe
    assert isinstance(recipe, Recipe)


def test_a_sentencepiece_file_that_became_a_fast_tokenizer_is_named_so(tmp_path: Path) -> None:
    from tests.cases import case_path

    given = case_path("sphinx/ens_1shard/checkpoint") / "tokenizer.model"
    recipe = recipes.parse(
        {
            **config.read_yaml(recipes.shipped("nano")),
            "tokenizer": {"kind": "fast", "path": str(given)},
            "language": {"config": {**recipes.load("nano").language.config, "vocab_size": 40000}},
            "modalities": {},
        },
        "test",
    )
    Processor.from_recipe(recipe).save_pretrained(tmp_path)
    again = Processor.from_pretrained(tmp_path)
    assert again.recipe.tokenizer is not None and again.recipe.tokenizer.path == "tokenizer.json"
    assert (
        again.tokenizer.encode("a b")[0] == Processor.from_recipe(recipe).tokenizer.encode("a b")[0]
    )
