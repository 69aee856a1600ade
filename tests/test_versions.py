"""The ranges, the pins, and what is said of packages outside of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from typer.testing import CliRunner

from omnimix import versions
from omnimix.cli import env
from omnimix.cli.main import app
from omnimix.compose.model import MultimodalLM
from omnimix.compose.recipe import Recipe
from omnimix.versions import Package, UntriedVersionWarning

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = ("constraints.txt", "constraints-oldest.txt")

OLD = Package("transformers", ">=5.23,<5.25", "5.22.0")
NEW = Package("numpy", ">=2.1,<2.5", "9.0")
GOOD = Package("torch", ">=2.13,<2.14", "2.13.0+cpu")
GONE = Package("peft", ">=0.20,<0.22", None, ("train",))


BUILT = {"llama-cpp"}
"""Extras that compilers make in minutes: no part of any set-up, tested by a script of their own (tests/peers)."""
EXTRAS = {
    name: lines
    for name, lines in PROJECT["optional-dependencies"].items()
    if name not in {"dev", *BUILT}
}
ASKED = [
    Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines
]
"""What the library and its extras for users ask for."""


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    rows = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(row) == 2 for row in rows), "a line is a name and a version"
    return {canonicalize_name(row[0]): row[1] for row in rows}


def bounds(one: Requirement) -> dict[str, Version]:
    return {part.operator: Version(part.version) for part in one.specifier}


def test_set_ups_name_extras_that_exist() -> None:
    """pip only warns of an unknown extra, and what it would have installed is then missing."""
    tools = PROJECT["optional-dependencies"]["dev"]
    named = [*Requirement(tools[0]).extras]
    assert Requirement(tools[0]).name == "omnimix" and set(named) == EXTRAS.keys()
    made = re.search(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert made is not None and set(made[1].split(",")) == {*EXTRAS, "dev"}
    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("docs/*.md"), ROOT / "README.md"]:
        for words in re.findall(r"'omnimix\[([a-z,]+)\]'", path.read_text(encoding="utf-8")):
            assert set(words.split(",")) <= {*EXTRAS, *BUILT, "dev"}, f"{path}: omnimix[{words}]"


@pytest.mark.parametrize("one", ASKED, ids=str)
def test_every_range_has_two_ends(one: Requirement) -> None:
    wanted = {">="} if one.name == "packaging" else {">=", "<"}  # versions by the calendar
    assert bounds(one).keys() == wanted


@pytest.mark.parametrize("one", ASKED, ids=str)
def test_the_oldest_are_the_lower_ends(one: Requirement) -> None:
    assert Version(pins("constraints-oldest.txt")[canonicalize_name(one.name)]) in one.specifier
    lowest = Version(pins("constraints-oldest.txt")[canonicalize_name(one.name)])
    end = bounds(one)[">="]
    assert lowest.release[: len(end.release)] == end.release, "the first release of the range"


@pytest.mark.parametrize("one", ASKED, ids=str)
def test_the_pins_lie_in_the_ranges(one: Requirement) -> None:
    assert one.specifier.contains(pins("constraints.txt")[canonicalize_name(one.name)])


@pytest.mark.parametrize("name", PINS)
def test_pins_are_names_and_versions_only(name: str) -> None:
    """So that they hold on any machine: no build of a place, no address, no path."""
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"#.*|[a-z0-9][a-z0-9._-]*==[0-9][0-9a-z.]*", line), line
    names = list(pins(name))
    assert names == sorted(names) and "omnimix" not in names


def test_what_is_installed_is_read_from_the_metadata() -> None:
    found = {one.name: one for one in versions.packages()}
    assert {"torch", "transformers", "timm"} <= found.keys() and "pytest" not in found
    assert found["transformers"].extras == () and found["transformers"].inside in (True, False)
    assert found["peft"].extras == ("train",)
    assert found["accelerate"].extras == ("quantize", "train")


def test_inside_and_outside() -> None:
    assert [one.inside for one in (OLD, NEW, GOOD, GONE)] == [False, False, True, None]
    assert versions.untried([OLD, NEW, GOOD, GONE]) == [OLD, NEW]
    assert versions.missing_extras([GOOD, GONE]) == {"train": ["peft"]}
    assert Package("odd", ">=1", "unknown version").inside is False


def test_one_warning_a_process(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "packages", lambda: [OLD, NEW, GOOD])
    versions.warn_of_untried.cache_clear()
    try:
        with pytest.warns(UntriedVersionWarning, match=r"transformers 5\.22\.0 \(tried: ") as said:
            MultimodalLM.on_meta(tiny_recipe)
        assert len(said) == 1 and "numpy 9.0" in str(said[0].message)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            MultimodalLM.on_meta(tiny_recipe)
    finally:
        versions.warn_of_untried.cache_clear()


def shown(*words: str) -> str:
    result = CliRunner().invoke(app, ["env", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without importing every package."""
    monkeypatch.setattr(env, "_fault", lambda package, modules: None)


@pytest.mark.usefixtures("quick")
def test_env_says_what_is_to_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "packages", lambda: [OLD, GOOD, GONE])
    text = shown()
    assert "devices  cpu" in text and "threads" in text and "2.13.0+cpu" in text
    assert "pip install 'transformers>=5.23,<5.25'" in text
    assert "the extra train is not complete (peft): pip install 'omnimix[train]'" in text
    facts: dict[str, Any] = json.loads(shown("--json"))
    assert facts["missing_extras"] == {"train": ["peft"]}
    assert [row["inside"] for row in facts["packages"]] == [False, True, None]


@pytest.mark.usefixtures("quick")
def test_env_without_an_installed_omnimix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "OWN", "no-such-package-is-installed")
    assert "omnimix is not installed here" in shown()


def test_env_works_where_packages_are_broken() -> None:
    """torch and timm raise when they are imported, in a process of their own."""
    code = """
import sys
from importlib.abc import MetaPathFinder

class Broken(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("torch", "timm"):
            raise OSError("libtorch.so: no such file")

sys.meta_path.insert(0, Broken())
from omnimix import versions
needed = [one for one in versions.packages() if one.name in ("torch", "timm", "numpy")]
versions.packages = lambda: needed
sys.argv = ["omnimix", "env", "--json"]
from omnimix.cli.main import run
run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    faults = {row["name"]: row["fault"] for row in facts["packages"]}
    assert faults["numpy"] is None
    assert "cannot be imported (OSError: libtorch.so" in faults["torch"]
    assert "libtorch.so" in faults["timm"] and "unknown: torch" in facts["devices"][0]
