"""Parts out of a file that is no package: used, saved by their name, and named when they are missing."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from omnimix import registry
from omnimix.compose import recipe as recipes
from omnimix.compose.processor import Processor
from omnimix.errors import RecipeError, RegistryError
from tests.conftest import TINY
from tests.models import random_model

FILE = """
from typing import Literal
from omnimix.connectors.base import Connector, ConnectorSpec
from omnimix.connectors.mlp import Mlp


class PoolMlp(Mlp):
    kind: Literal["pool_mlp"] = "pool_mlp"


class Bare(ConnectorSpec):
    def build(self, tokens_in, width_in, width_out):
        return Mlp().build(tokens_in, width_in, width_out)
"""
CHANGE = "modalities.image.branches.0.connector={kind: pool_of_mine:%s}"


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "pool_of_mine.py"
    file.write_text(FILE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "pool_of_mine", raising=False)
    registry.plug_in(file)
    yield file
    sys.modules.pop("pool_of_mine", None)


@pytest.mark.parametrize("name", ["PoolMlp", "Bare"])
def test_a_part_of_a_file_is_saved_by_its_name(name: str, plugin: Path, tmp_path: Path) -> None:
    recipe = recipes.load("nano", [*TINY, CHANGE % name])
    connector = recipe.modalities["image"].branches[0].connector
    assert type(connector).__name__ == name and connector.row_name() == f"pool_of_mine:{name}"
    assert pickle.loads(pickle.dumps(connector)).row_name() == connector.row_name()
    random_model(recipe).save_pretrained(tmp_path / "model")
    Processor.from_recipe(recipe).save_pretrained(tmp_path / "model")
    again = recipes.load(tmp_path / "model")
    assert again.plugins == {f"pool_of_mine:{name}": "pool_of_mine.py"}
    assert again.modalities == recipe.modalities
    assert recipes.parse(recipe.dump(), "short").modalities == recipe.modalities


def test_the_command_line_takes_the_file_and_says_its_name(plugin: Path, tmp_path: Path) -> None:
    recipe = recipes.load("nano", [*TINY, CHANGE % "PoolMlp"])
    random_model(recipe).save_pretrained(tmp_path / "model")
    Processor.from_recipe(recipe).save_pretrained(tmp_path / "model")
    ask = ["chat", str(tmp_path / "model"), "--ask", "Hi", "--max-new-tokens", "1"]
    code = "from omnimix.cli.main import run; run()"
    done = subprocess.run([sys.executable, "-c", code, *ask], capture_output=True, text=True)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "the model needs pool_of_mine.py" in said and "--plugin pool_of_mine.py" in said
    given = [*ask, "--plugin", str(plugin)]
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_package_that_is_missing_is_named() -> None:
    words = recipes.load("nano").dump()
    words["modalities"]["image"]["branches"][0]["connector"] = {"kind": "gated"}
    with pytest.raises(
        RecipeError, match=r"needs mine 1\.2, which brings 'gated'\. .*pip install mine"
    ):
        recipes.parse({**words, "plugins": {"gated": "mine 1.2"}}, "recipe.yaml")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("gone.py", None, "no such file of Python"),
        ("broken_of_mine.py", "1 / 0", "ZeroDivisionError: division by zero"),
        ("json.py", "", "another module 'json'"),
    ],
)
def test_files_that_are_no_plugin(
    name: str, text: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(RegistryError, match=said):
        registry.plug_in(tmp_path / name)
    with pytest.raises(RecipeError, match=r"--plugin nowhere_of_mine\.py"):
        recipes.load("nano", ["modalities.image.branches.0.connector={kind: nowhere_of_mine:A}"])
