"""The reference of all words: each has a line, and the pages are those that the docstrings give."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest

from omnimix import config
from omnimix.compose import recipe as recipes
from omnimix.config import Spec
from omnimix.train import settings
from tests.test_docs import PAGES, Block, blocks
from tests.test_words import specs

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    place = importlib.util.spec_from_file_location("reference", ROOT / "tools" / "reference.py")
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def public() -> list[type[Spec]]:
    """Every class of settings of ours whose words are written by users."""
    ours = ("omnimix", "omnimix_scenes")
    return [
        cls
        for name, cls in specs().items()
        if cls.__module__.split(".")[0] in ours and not name.startswith("_")
    ]


def test_every_word_has_a_line(tool: ModuleType) -> None:
    found = public()
    assert {"Recipe", "Training", "Stage", "Mlp"} <= {cls.__name__ for cls in found}
    missing = [
        f"{cls.__module__}.{cls.__name__}.{word}"
        for cls in found
        for word in cls.model_fields
        if word != "kind" and not tool.explained(cls).get(word)
    ]
    assert not missing, "say what they mean under 'Attributes:'"


def test_no_line_explains_a_word_that_is_gone(tool: ModuleType) -> None:
    gone = [
        f"{cls.__module__}.{cls.__name__}.{word}"
        for cls in public()
        for word in tool.explained(cls).keys() - cls.model_fields.keys()
        if not hasattr(cls, word) and word not in cls.__annotations__
    ]
    assert not gone


def test_the_pages_are_what_the_docstrings_say(tool: ModuleType) -> None:
    folder = ROOT / "docs" / "reference"
    stored = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    assert stored == tool.pages(), "run `make reference`"


def test_links_of_the_pages_lead_somewhere(tool: ModuleType) -> None:
    pages = tool.pages()
    heads = {
        name: {f"#{head.strip('`').lower()}" for head in re.findall(r"^#+ (.+)$", text, re.M)}
        for name, text in pages.items()
    }
    for name, text in pages.items():
        for page, anchor in re.findall(r"\]\((\w+\.md)?(#\w+)?\)", text):
            assert (page or name) in pages
            assert not anchor or anchor in heads[page or name], f"{name}: {page}{anchor}"


def trainings(block: Block, page: str) -> Iterator[dict[str, Any]]:
    """The training files in a block: itself, or texts in a program; what only shows stages is made whole."""
    texts = [block.text] if block.word == "yaml" else []
    if block.word == "python":
        nodes = ast.walk(ast.parse(block.text))
        constants = (node.value for node in nodes if isinstance(node, ast.Constant))
        texts = [one for one in constants if isinstance(one, str) and "stages:" in one]
    for text in texts:
        words = config.parse_yaml(text, page)
        if isinstance(words, dict) and "stages" in words:
            filled = [{"max_steps": 1, **stage} for stage in words["stages"]]
            yield {
                "name": "shown",
                "recipe": "nano",
                "output_dir": "run",
                **words,
                "stages": filled,
            }


def test_training_files_of_the_pages_follow_the_schema() -> None:
    check = jsonschema.Draft202012Validator(settings.schema())
    seen = set()
    for page in PAGES:
        for block in blocks(page.read_text(encoding="utf-8")):
            for words in trainings(block, page.name):
                seen.add(page.name)
                place = f"{page.name}, line {block.line}"
                assert not [error.message for error in check.iter_errors(words)], place
    assert seen >= {"adapters.md", "rows.md", "training.md"}


@pytest.mark.parametrize(
    "data", ["rows.json", {"path": "rows", "media": ["a"]}, {"kind": "jsonl", "path": "a.jsonl"}]
)
def test_data_is_said_alike_in_a_mixture_and_to_validate_with(data: Any) -> None:
    stage = {"mixture": [{"data": data}], "validate": {"data": data}, "max_steps": 1}
    words = {"name": "n", "recipe": "nano", "output_dir": "o", "stages": [stage]}
    jsonschema.Draft202012Validator(settings.schema()).validate(words)
    read = config.validate(settings.Training, words, "t.yaml").stages[0]
    assert read.validate is not None and read.validate.data == read.mixture[0].data


@pytest.mark.parametrize("schema", [recipes.schema, settings.schema])
def test_the_schemas_are_schemas(schema: object) -> None:
    assert callable(schema)
    jsonschema.Draft202012Validator.check_schema(schema())
