"""The wheel, built offline: what ships is in it, and no test is."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
BUILD = "from setuptools import build_meta; import sys; build_meta.build_wheel(sys.argv[1])"
LEFT_OUT = ("__pycache__", ".egg-info")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files of a wheel of this tree, which is copied first: a build leaves files behind."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, tree / name)
    shutil.copytree(
        SOURCE, tree / "src", ignore=shutil.ignore_patterns(*(f"*{x}" for x in LEFT_OUT))
    )
    # What discovery could pick up by mistake.
    for name in ("tests", "golden", "benchmarks", "tools"):
        if (ROOT / name).is_dir():
            (tree / name).mkdir()
            (tree / name / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(tree)],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tree.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        return file.namelist()


def test_only_the_packages_of_src_are_in_it(names: list[str]) -> None:
    tops = {PurePosixPath(name).parts[0] for name in names}
    packages = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file()}
    assert {top for top in tops if not top.endswith(".dist-info")} == packages


def test_no_test_code_is_in_it(names: list[str]) -> None:
    parts = [PurePosixPath(name) for name in names]
    wrong = [
        str(path)
        for path in parts
        if {"tests", "golden", "omnimix_golden", "cases"} & set(path.parts)
        or path.parts[0] == "benchmarks"
        or path.name.startswith(("test_", "conftest"))
    ]
    assert not wrong


def test_every_file_of_src_is_in_it(names: list[str]) -> None:
    """Code, and what is read at run time: recipes, templates, lists, the model that ships."""
    wanted = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*")
        if path.is_file() and not any(x in part for part in path.parts for x in LEFT_OUT)
    }
    assert not sorted(wanted - set(names)), "add a glob to [tool.setuptools.package-data]"
    shipped = {"py.typed", "models/nano/model.safetensors", "models/nano/scene.png"}
    assert {f"omnimix/{name}" for name in shipped} <= set(names)


def test_the_source_distribution_is_whole() -> None:
    """Every file of the repository that its manifest does not leave out by name is in it."""
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()
    grafted = {line.split()[1] for line in manifest if line.startswith("graft ")}
    named = {name for line in manifest if line.startswith("include ") for name in line.split()[1:]}
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    built = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "MANIFEST.in",
    }  # setuptools takes these by itself
    left = {name for name in listed.stdout.splitlines() if not name.startswith(".")}
    missing = [
        name for name in left if name.partition("/")[0] not in grafted and name not in named | built
    ]
    assert not missing
