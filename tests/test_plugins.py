"""Packages that plug in by entry points: omnimix works without them and says so by name."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.cases import case_path

ROOT = Path(__file__).parent.parent

# A process in which a package is not installed: it cannot be imported, and its entry points are not there.
HIDING = """
import importlib.metadata, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
installed = importlib.metadata.entry_points

def entry_points(**words):
    kept = [p for p in installed(**words) if p.module.split(".")[0] != {package!r}]
    return importlib.metadata.EntryPoints(kept)

importlib.metadata.entry_points = entry_points
{code}
assert {package!r} not in sys.modules
"""

# Commands one after another, since starting a process takes longest.
COMMANDS = """
import json
from omnimix.cli.main import app
from typer.testing import CliRunner

done = [CliRunner().invoke(app, words) for words in {commands!r}]
print(json.dumps([(one.exit_code, one.stdout, one.stderr, repr(one.exception)) for one in done]))
"""


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str
    error: str

    @property
    def sentence(self) -> str:
        return " ".join(self.err.split())


def without(package: str, *commands: list[str]) -> list[Said]:
    """What the commands say in a process where the package is not installed."""
    code = HIDING.format(package=package, code=COMMANDS.format(commands=commands))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return [Said(*one) for one in json.loads(done.stdout.splitlines()[-1])]


def test_the_library_works_without_the_drawn_world(tmp_path: Path) -> None:
    picture = ["--image", "examples/scene.png", "--box", "134 30 236 132"]
    *running, benchmark, dataset = without(
        "omnimix_scenes",
        ["show", "sphinx_1k"],
        ["chat", *picture, "--ask", "What is it?"],
        [
            "evaluate",
            "nano",
            "--data",
            "examples/questions.jsonl",
            "--metric",
            "exact",
            "--limit",
            "1",
        ],
        ["evaluate", "nano", "scenes"],
        ["train", "nano.train.yaml", "--out", str(tmp_path / "run")],
    )
    assert all(said.code == 0 and said.out.strip() for said in running), running
    assert benchmark.code == dataset.code == 2
    assert "unknown benchmark 'scenes'" in benchmark.sentence
    assert "unknown dataset 'scenes'" in dataset.sentence
    assert not (tmp_path / "run").exists()


def test_golden_cases_are_refused_where_their_readings_are_not_installed() -> None:
    (said,) = without("omnimix_golden", ["verify", str(case_path("prismatic/preprocess"))])
    assert said.code == 2
    assert "read in a checkout of omnimix: `pip install -e golden` there" in said.sentence


@pytest.mark.parametrize("folder", [".", "golden"])
def test_what_is_installed_is_what_the_checkout_says(folder: str) -> None:
    stated = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    groups = {**stated.get("entry-points", {}), "console_scripts": stated.get("scripts", {})}
    wanted = {(group, *row) for group, rows in groups.items() for row in rows.items()}
    points = distribution(stated["name"]).entry_points
    installed = {(point.group, point.name, point.value) for point in points}
    assert installed == wanted, (
        f"the installed {stated['name']} knows other rows than {folder}/pyproject.toml: "
        "install it again, `pip install -e . -e golden`"
    )
