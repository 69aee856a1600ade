"""The words of the field: every one that `docs/words.md` lists is there, every earlier one is refused by its new name."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import omnimix
import omnimix_scenes
from omnimix import config, registry
from omnimix.compose import recipe as recipes
from omnimix.config import Spec, validate
from omnimix.errors import OmnimixError, RecipeError
from omnimix.generate.assistant import load
from omnimix.renamed import ELSEWHERE, RENAMED
from omnimix.train.objectives import Sft
from omnimix.train.settings import Training

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\|(.*)\|$", re.MULTILINE)


def specs() -> dict[str, type[Spec]]:
    """Every class of settings by name, whichever modules were imported before."""
    for package in (omnimix, omnimix_scenes):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    for table in (t for t in registry.TABLES if t.name != "readings"):
        for row in table:
            table.load(row)
    found: dict[str, type[Spec]] = {}
    waiting: list[type[Spec]] = [Spec]
    while waiting:
        cls = waiting.pop()
        found[cls.__name__] = cls
        waiting += cls.__subclasses__()
    return found


def listed() -> Iterator[tuple[list[str], list[str]]]:
    """The new and the old words of each row of the tables of training files and recipes."""
    text = (ROOT / "docs" / "words.md").read_text(encoding="utf-8").split("## Calls")[0]
    for table in text.split("\n\n"):
        rows = [[cell.strip() for cell in row.split("|")] for row in ROW.findall(table)]
        if rows:
            head = rows[0]
            for cells in rows[2:]:
                yield (
                    re.findall(r"`([\w]+)`", cells[head.index("word")]),
                    re.findall(r"`([\w]+)`", cells[head.index("was")]),
                )


def test_every_listed_word_is_a_word_of_some_settings() -> None:
    fields = {name for cls in specs().values() for name in cls.model_fields}
    rows = list(listed())
    assert len(rows) > 50
    assert [word for new, _ in rows for word in new if word not in fields] == []


def test_the_list_and_the_table_of_renamed_words_agree() -> None:
    table = {
        (new, old)
        for name, words in RENAMED.items()
        if name != "load"
        for old, new in words.items()
    }
    assert {(word, old) for new, was in listed() for word in new for old in was} == table


@pytest.mark.parametrize("name", [name for name in RENAMED if name != "load"])
def test_an_earlier_word_is_refused_by_its_new_name(name: str) -> None:
    cls = specs()[name]
    for old, new in RENAMED[name].items():
        assert new in cls.model_fields and old not in cls.model_fields
        with pytest.raises(RecipeError, match=rf"file: {old}: `{old}` is called `{new}` now"):
            validate(cls, {old: 1}, "file")


@pytest.mark.parametrize("name", [*ELSEWHERE])
def test_a_word_of_other_trainers_is_answered(name: str) -> None:
    cls = specs()[name]
    for other, ours in ELSEWHERE[name].items():
        assert ours in cls.model_fields and other not in cls.model_fields
        with pytest.raises(RecipeError, match=f"`{other}` is called `{ours}` here"):
            validate(cls, {other: 1}, "file")


def test_the_place_in_the_file_is_named() -> None:
    stage = {"mixture": [{"data": "scenes"}], "max_steps": 1, "optimizer": {"rate": 0.1}}
    words = {"name": "n", "recipe": "nano", "output_dir": "o", "stages": [stage]}
    with pytest.raises(RecipeError, match=r"a\.yaml: stages\.0\.optimizer\.rate: `rate` is called"):
        validate(Training, words, "a.yaml")


def test_calls_refuse_an_earlier_word() -> None:
    with pytest.raises(OmnimixError, match="`quantize` is called `quantization` now"):
        load("nano", quantize="nf4")


@pytest.mark.parametrize("name", recipes.names())
def test_saved_recipes_write_their_defaults_out(name: str) -> None:
    recipe = recipes.load(name)
    saved = config.parse_yaml(recipes.dump(recipe), name)
    assert recipes.parse(saved, name) == recipe
    assert saved.keys() == type(recipe).model_fields.keys()
    for modality, spec in recipe.modalities.items():
        for branch, words in zip(
            spec.branches, saved["modalities"][modality]["branches"], strict=True
        ):
            made = [*branch.encoders, branch.connector]
            for one, written in zip(made, [*words["encoders"], words["connector"]], strict=True):
                assert written.keys() == type(one).model_fields.keys()


def test_a_value_that_had_another_name_is_told_the_new_one() -> None:
    with pytest.raises(RecipeError, match="`average: part` is called `average: micro_batch` now"):
        validate(Sft, {"average": "part"}, "my.yaml")


def test_a_hint_that_is_a_question_ends_once() -> None:
    assert str(OmnimixError("no word 'a'; did you mean 'b'?")) == "no word 'a'; did you mean 'b'?"
    assert str(OmnimixError("wrong", hint="did you mean 'b'?")) == "wrong. Did you mean 'b'?"
    assert str(OmnimixError("wrong", hint="mend it")) == "wrong. Mend it."
