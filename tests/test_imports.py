"""Imports point down, and never in a circle (docs/architecture.md, "Floors"); plug-ins are not imported at all."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "omnimix"

# Packages of this repository that plug in by entry points: they import omnimix, omnimix never imports them,
# and neither knows of the other.
PLUGINS = {
    "omnimix_scenes": ROOT / "src" / "omnimix_scenes",
    "omnimix_golden": ROOT / "golden" / "omnimix_golden",
}

# From the ground up; the names are files and folders right under src/omnimix. Floors import only what
# stands below them, and the entries of a floor never import each other. "omnimix" is the public face.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "config",
            "cache",
            "calls",
            "hf_config",
            "registry",
            "renamed",
            "types",
            "regions",
            "masks",
            "disk",
            "region_limits",
            "bearer",
            "errors",
            "hub",
            "_registration",
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

# The ground is one floor, but its files lie in an order of their own: errors, renamed, then masks, regions, types and
# registry, then config and hf_config. Circles among them are caught by the second test.
TOGETHER = 0

# Two modules of `media` are words that all parts share: `tiles` says what a step and a tile are (an
# encoder has steps, coordinates are written in a tile's frame), `region` says how wide a region's row
# of numbers is (the region encoders read it). Neither opens or draws anything.
SHARED = frozenset({"omnimix.media.tiles", "omnimix.media.region"})


@dataclass(frozen=True)
class Import:
    """One import statement: who, what, on which line."""

    module: str
    target: str
    line: int


def name_of(path: Path, source: Path) -> str:
    parts = path.relative_to(source.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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


def imports(source: Path = SOURCE, of: tuple[str, ...] = ("omnimix",)) -> list[Import]:
    """All imports of these packages inside one, those in functions and for type checkers included."""
    # A model's folder holds a file that transformers runs; it is no module of the package.
    paths = (
        path for path in sorted(source.rglob("*.py")) if (path.parent / "__init__.py").is_file()
    )
    files = {name_of(path, source): path for path in paths}
    found = []
    for module, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        package = path.name == "__init__.py"
        for statement in ast.walk(tree):
            if not isinstance(statement, ast.Import | ast.ImportFrom):
                continue
            for target in targets(statement, set(files), module, package):
                if target.split(".")[0] in of:
                    found.append(Import(module, target, statement.lineno))
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


def circles(found: list[Import]) -> list[list[str]]:
    """Modules that import each other, over however many others; an import inside a function counts."""
    graph: dict[str, set[str]] = {}
    for one in found:
        if one.module != one.target:
            graph.setdefault(one.module, set()).add(one.target)
    reached = {module: _reached(graph, module) for module in graph}
    groups = {
        tuple(sorted(other for other in reached[module] if module in reached.get(other, ())))
        for module in graph
        if module in reached[module]
    }
    return [list(group) for group in sorted(groups)]


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - seen
        seen |= new
        waiting += new
    return seen


# Circles that are still there. The list may only shrink, to nothing: what is mended must be struck off.
STILL_IN_CIRCLES: list[list[str]] = []


def test_no_import_points_up() -> None:
    wrong = [
        f"src/{f.module.replace('.', '/')}, line {f.line}: imports {f.target}"
        for f in imports()
        if not is_allowed(f)
    ]
    assert not wrong, "imports that do not point down:\n" + "\n".join(wrong)


def test_no_imports_in_a_circle() -> None:
    assert circles(imports()) == STILL_IN_CIRCLES


@pytest.mark.parametrize("plugin", PLUGINS)
def test_plugins_are_known_by_their_entry_points_alone(plugin: str) -> None:
    assert imports(SOURCE, (plugin,)) == [], f"omnimix imports {plugin}"
    named = [path for path in SOURCE.rglob("*.py") if plugin in path.read_text(encoding="utf-8")]
    assert not named, f"{plugin} is named in {named[0]}: rows of a plug-in are its own entry points"
    others = tuple(other for other in PLUGINS if other != plugin)
    assert imports(PLUGINS[plugin], others) == [], f"{plugin} imports another plug-in"
    assert imports(PLUGINS[plugin]), "the check sees no import at all"
    assert circles(imports(PLUGINS[plugin], (plugin,))) == []


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
        "data/__init__.py": "",
        "data/one.py": "def f():\n    from omnimix.data.two import g",
        "data/two.py": "from omnimix.data import one",
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
    assert circles(found) == [
        ["omnimix.data.one", "omnimix.data.two"],
        ["omnimix.train.loop", "omnimix.train.report"],
    ]
