"""Recipes as data: reading, writing, overriding, and the way out of a typing mistake."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from omnimix import config, registry
from omnimix.compose import recipe as recipes
from omnimix.errors import RecipeError, RegistryError
from omnimix.registry import Registry

NAMES = recipes.names()


@pytest.mark.parametrize("name", NAMES)
def test_yaml_round_trip(name: str) -> None:
    recipe = recipes.load(name)
    text = recipes.dump(recipe)
    again = recipes.parse(config.parse_yaml(text, name), name)
    assert again == recipe
    assert recipes.dump(again) == text


def test_a_file_and_a_model_folder_are_found(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(recipes.dump(recipes.load("nano")))
    assert recipes.load(tmp_path) == recipes.load(tmp_path / "recipe.yaml") == recipes.load("nano")
    with pytest.raises(RecipeError, match="no such file"):
        recipes.load(tmp_path / "other.yaml")
    with pytest.raises(RecipeError, match=r"unknown recipe 'nanno'. Did you mean 'nano'"):
        recipes.load("nanno")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "model_max_lenght=3",
            r"nano\.yaml: unknown word 'model_max_lenght'; did you mean 'model_max_length'",
        ),
        ("modalities.image.limmit=3", r"modalities\.image: unknown word 'limmit'.*'limit'"),
        (
            "modalities.image.branches.0.encoders.0.img_sise=3",
            r"modalities\.image\.branches\.0\.encoders\.0: unknown word 'img_sise'.*'img_size'",
        ),
        (
            "modalities.image.branches.0.connector.kind=mpl",
            r"branches\.0\.connector\.kind: unknown connector 'mpl'; did you mean 'mlp'",
        ),
        ("modalities.image.steps.0={fill: [1, 2, 3]}", r"steps\.0: a step needs a word 'kind'"),
        ("modalities.image.steps.0.fill=[1, 2]", r"steps\.0\.fill.*required"),
        ("model_max_length=many", r"nano\.yaml: model_max_length: .*integer"),
        ("template=vicunna_v15", r"template: .*unknown template 'vicunna_v15'.*vicuna_v15"),
        ("language.config=3", r"language\.config: .*dictionary"),
    ],
)
def test_a_wrong_word_is_named_with_its_place(override: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        recipes.load("nano", [override])


def test_overrides_reach_everything() -> None:
    recipe = recipes.load(
        "nano",
        [
            "modalities.image.steps.1.size=112",
            "modalities.image.place=start",
            "modalities.image.frame={start: true, end: false}",
            "template=sphinx",
            "language.config.rope_theta=5000.0",
        ],
    )
    assert recipe.modalities["image"].steps[1].size == 112  # type: ignore[attr-defined]
    assert recipe.modalities["image"].place == "start"
    assert recipe.modalities["image"].frame is not None
    assert recipe.template.name == "sphinx"
    assert recipe.language.config["rope_theta"] == 5000.0
    made = config.with_overrides({"a": [1, 2]}, ["b.c.d=x", "a.1=[3]", "e=", "f=a=b"])
    assert made == {"a": [1, [3]], "b": {"c": {"d": "x"}}, "e": None, "f": "a=b"}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model_max_length", "written path.to.word=value"),
        ("=3", "written path.to.word=value"),
        ("a.2=1", "'2' is no place in a list of 2"),
        ("a.x=1", "'x' is no place in a list of 2"),
        ("a.-1=1", "'-1' is no place"),
        ("a.5.b=1", "'5' is no place"),
        ("b.c=1", "b is no table"),
        ("b.c.d=1", "nothing inside before 'c'"),
        ("b=[", "line 1"),
    ],
)
def test_overrides_that_lead_nowhere(override: str, words: str) -> None:
    before = {"a": [1, 2], "b": 3}
    with pytest.raises(RecipeError, match=words):
        config.with_overrides(before, [override])
    assert before == {"a": [1, 2], "b": 3}


def test_a_base_is_laid_below() -> None:
    words = {
        "base": "nano",
        "name": "mine",
        "language": {"config": {"hidden_size": 64}},
        "modalities": {"image": {"limit": 5, "steps": []}},
    }
    mine, nano = recipes.parse(words, "mine"), recipes.load("nano")
    assert mine.name == "mine"
    assert mine.language.config == {**nano.language.config, "hidden_size": 64}
    assert mine.modalities["image"].limit == 5 and mine.modalities["image"].steps == ()
    assert mine.modalities["region"] == nano.modalities["region"]


def test_another_kind_replaces_the_table_below() -> None:
    below = {"x": {"kind": "a", "old": 1}, "y": {"kind": "a", "old": 1}, "z": 1}
    above = {"x": {"kind": "b", "new": 2}, "y": {"new": 2}}
    assert config.merge(below, above) == {
        "x": {"kind": "b", "new": 2},
        "y": {"kind": "a", "old": 1, "new": 2},
        "z": 1,
    }


def test_a_base_of_a_base_is_refused() -> None:
    with pytest.raises(RecipeError, match="'sphinx_1k' has a base itself"):
        recipes.parse({"base": "sphinx_1k", "name": "mine"}, "mine")
    with pytest.raises(RecipeError, match="Did you mean 'nano'"):
        recipes.parse({"base": "nan", "name": "mine"}, "mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\nname: b\n", r"x\.yaml: line 2, column 1: the word 'name' stands twice"),
        ("a: {b: 1, b: 2}", "the word 'b' stands twice"),
        ("a: [1, 2\nb: 3", r"x\.yaml: line 2"),
    ],
)
def test_broken_yaml_is_named_by_line(text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        config.parse_yaml(text, "x.yaml")


@pytest.mark.parametrize("data", [None, 3, ["a"], "text"])
def test_a_recipe_is_a_table(data: object) -> None:
    with pytest.raises(RecipeError, match="a recipe is a table of words"):
        recipes.parse(data, "x")


@pytest.mark.parametrize("name", ["language", "two words"])
def test_names_that_no_modality_may_have(name: str) -> None:
    data = config.read_yaml(recipes.shipped("nano"))
    data["modalities"] = {name: data["modalities"]["image"]}
    with pytest.raises(RecipeError, match=f"'{name}' cannot name a modality"):
        recipes.parse(data, "x")


def test_the_schema_has_every_row() -> None:
    schema = recipes.schema()
    bases = {
        "Step": registry.STEPS,
        "EncoderSpec": registry.ENCODERS,
        "Finish": registry.FINISHES,
        "ConnectorSpec": registry.CONNECTORS,
        "Arrange": registry.ARRANGES,
        "TokenizerSpec": registry.TOKENIZERS,
    }
    for base, table in bases.items():
        refs = {c["$ref"] for c in schema["$defs"][base]["anyOf"] if "$ref" in c}
        assert refs == {f"#/$defs/{base}.{row}" for row in table}
        assert all(f"{base}.{row}" in schema["$defs"] for row in table)
    assert recipes.load("nano").dump().keys() <= schema["properties"].keys()


def test_tables_know_the_nearest_name() -> None:
    with pytest.raises(RegistryError, match=r"unknown encoder 'tim'. Did you mean 'timm'"):
        registry.ENCODERS.load("tim")
    with pytest.raises(RegistryError, match="Known are: "):
        registry.ENCODERS.load("qqqqq")
    broken = Registry("nothing", "thing", {"x": "no.such.module:X", "y": "omnimix.errors:Nothing"})
    for row in broken:
        with pytest.raises(RegistryError, match=f"the thing '{row}' could not be imported"):
            broken.load(row)


def test_other_packages_add_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def points(group: str) -> list[EntryPoint]:
        return [EntryPoint("theirs", "omnimix.connectors.mlp:Mlp", group)]

    monkeypatch.setattr(registry, "entry_points", points)
    table = Registry("connectors", "connector", {"mine": "omnimix.connectors.mlp:Linear"})
    assert list(table) == ["mine", "theirs"] and len(table) == 2 and "theirs" in table
    assert table.load("theirs").__name__ == "Mlp"
    clash = Registry("connectors", "connector", {"theirs": "omnimix.connectors.mlp:Linear"})
    with pytest.raises(RegistryError, match="two packages register the connector 'theirs'"):
        list(clash)
