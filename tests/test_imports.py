"""Imports point down, and never in a circle (docs/architecture.md, "Floors")."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "omnimix"

# From the ground up; the names are files and folders right under src/omnimix. Floors import only what
# stands below them, and the entries of a floor never import each other. "omnimix" is the public face.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "config",
            "registry",
            "types",
            "regions",
            "masks",
            "errors",
            "_torchvision",
            "_transformers",
            "versions",
        }
    ),
    frozenset({"media", "encoders", "connectors", "language", "prompts"}),
    frozenset({"compose"}),
    frozenset({"parallel"}),
    frozenset({"data", "checkpoints"}),
    frozenset({"generate", "segment"}),
    frozenset({"convert"}),
    frozenset({"train", "evaluate", "serve"}),
    frozenset({"families"}),
    frozenset({"omnimix"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)

# The ground is one floor, but its files lie in an order of their own: errors, then masks, regions, types and
# registry, then config. Circles among them are caught by the second test.
TOGETHER = 0

# Two modules of `media` are words that all parts share: `tiles` says what a step and a tile are (an
# encoder has steps, coordinates are written in a tile's frame), `region` says how wide a region's row
# of numbers is (the region encoders read it). Neither opens or draws anything.
SHARED = frozenset({"omnimix.media.tiles", "omnimix.media.region"})


@dataclass(frozen=True)
class Import:
    """One import statement: who, what, on which line, and whether it runs when the module is read."""

    module: str
    target: str
    line: int
    at_once: bool


def name_of(path: Path, source: Path) -> str:
    parts = path.relative_to(source.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def walk(node: ast.AST, at_once: bool = True) -> Iterator[tuple[ast.stmt, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_once
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from walk(child, at_once and not inside)


def targets(statement: ast.stmt, modules: set[str], module: str, is_package: bool) -> Iterator[str]:
    """The modules that a statement names; `from a import b` is `a.b` where that is a module."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        base = statement.module or ""
        if statement.level:
            up = module.split(".")
            up = up[: len(up) - statement.level + is_package]
            base = ".".join([*up, base] if base else up)
        for alias in statement.names:
            inner = f"{base}.{alias.name}"
            yield inner if inner in modules else base


def imports(source: Path = SOURCE) -> list[Import]:
    """All imports of omnimix inside omnimix, those in functions and for type checkers included."""
    files = {name_of(path, source): path for path in sorted(source.rglob("*.py"))}
    found = []
    for module, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        package = path.name == "__init__.py"
        for statement, at_once in walk(tree):
            for target in targets(statement, set(files), module, package):
                if target.split(".")[0] == "omnimix":
                    found.append(Import(module, target, statement.lineno, at_once))
    return found


def room(module: str) -> str:
    """The first component below omnimix; the public face itself is `omnimix`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def floor(name: str) -> int:
    found = [i for i, floor in enumerate(FLOORS) if name in floor]
    assert found, f"{name!r} stands on no floor: give it one in {Path(__file__).name}"
    return found[0]


def is_allowed(found: Import) -> bool:
    here, there = room(found.module), room(found.target)
    if here == there or floor(there) < floor(here):
        return True
    if floor(there) == floor(here) == TOGETHER:
        return True
    return floor(there) == floor(here) and found.target in SHARED


def circle(found: list[Import]) -> list[str]:
    """The modules of one circle, in order; empty where there is none."""
    graph: dict[str, set[str]] = {}
    for one in found:
        if one.at_once and one.module != one.target:
            graph.setdefault(one.module, set()).add(one.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def test_no_import_points_up() -> None:
    wrong = [
        f"src/{f.module.replace('.', '/')}, line {f.line}: imports {f.target}"
        for f in imports()
        if not is_allowed(f)
    ]
    assert not wrong, "imports that do not point down:\n" + "\n".join(wrong)


def test_no_imports_in_a_circle() -> None:
    assert circle(imports()) == []


def test_the_command_line_starts_without_torch() -> None:
    """`omnimix --help` is instant: the doors are imported when one is opened."""
    code = "import sys, omnimix.cli.main; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small house with one fault of each kind."""
    files = {
        "__init__.py": "",
        "errors.py": "",
        "media/__init__.py": "",
        "media/tiles.py": "from omnimix import errors",
        "media/steps.py": "from omnimix.media import tiles\nfrom . import tiles as again",
        "encoders/__init__.py": "",
        "encoders/base.py": "from omnimix.media.tiles import Tile\nfrom omnimix.media import steps",
        "language/__init__.py": "",
        "language/lm.py": "def f():\n    import omnimix.compose.one",
        "compose/__init__.py": "",
        "compose/one.py": "import typing\nif typing.TYPE_CHECKING:\n    from ..train import loop",
        "train/__init__.py": "",
        "train/loop.py": "from omnimix.train.report import r",
        "train/report.py": "from omnimix.train.loop import l",
    }
    for name, text in files.items():
        path = tmp_path / "omnimix" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "omnimix"


def test_the_check_sees_faults(house: Path) -> None:
    found = imports(house)
    wrong = {(f.module, f.target) for f in found if not is_allowed(f)}
    assert wrong == {
        ("omnimix.encoders.base", "omnimix.media.steps"),
        ("omnimix.language.lm", "omnimix.compose.one"),
        ("omnimix.compose.one", "omnimix.train.loop"),
    }
    assert set(circle(found)) == {"omnimix.train.loop", "omnimix.train.report"}
