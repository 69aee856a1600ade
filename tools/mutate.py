"""Small wrong changes, one at a time, and whether a test notices: `make mutate`, or `python tools/mutate.py -n 20 --seed 1`.

mutmut and cosmic-ray run all tests of a project for a change, or want its layout. Here the tests run once with coverage,
which says whom each line concerns; a change is met by those first, the quickest at the front, and only what passes them
is met by all tests that name its module. Each change is made in a copy of the package, so that the tree stays as it is,
also when this is stopped.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import coverage
import pytest

from omnimix import _torchvision

ROOT = Path(__file__).parent.parent
PACKAGE = Path("src") / "omnimix"
MODULES = {
    "regions.py": ["tests/test_regions.py", "tests/prompts", "tests/media/test_region.py"],
    "masks.py": ["tests/test_regions.py", "tests/segment", "tests/media/test_region.py"],
    "prompts/codecs/*.py": ["tests/prompts"],
    "compose/*.py": ["tests/compose"],
    "train/step.py": [f"tests/train/test_{name}.py" for name in ("step", "trainer_words", "parts")],
}
"""What is changed, and the tests that are to notice."""

SLOW = {"test_generation_ways.py", "test_family_recipes.py", "test_citizen.py", "test_ranks.py"}
"""Left out: minutes for each change. What they alone would notice counts as survived."""

HEAVY = {"hypothesis", "numpy", "PIL", "pydantic", "safetensors", "timm", "torch", "transformers"}
"""What is imported once for all changes: packages that start no threads, so that a copy of the process is whole."""

LONGEST = 600
"""Seconds: a change that never ends is noticed too."""

QUICK = 60
"""Seconds: what the tests that run a changed line may take together, before all tests of its module are asked."""

TOLD = "told.json"
Runs = dict[tuple[str, int], list[str]]
"""File and line to the tests that run it, the quickest first."""

COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
COUNTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
}


@dataclass(frozen=True)
class Change:
    """One wrong change: `after` in place of `before` at a line of a file."""

    file: Path
    line: int
    before: str
    after: str
    text: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.before} -> {self.after}"


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place and is wrong, as a rule."""
    new = copy.deepcopy(node)
    if isinstance(new, ast.Compare) and type(new.ops[0]) in COMPARED:
        new.ops[0] = COMPARED[type(new.ops[0])]()
        yield new
    elif isinstance(new, ast.BinOp) and type(new.op) in COUNTED and not _text(new):
        new.op = COUNTED[type(new.op)]()
        yield new
    elif isinstance(new, ast.BoolOp):
        new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
        yield new
    elif isinstance(new, ast.UnaryOp) and isinstance(new.op, ast.Not):
        yield new.operand
    elif isinstance(new, ast.Constant) and isinstance(new.value, bool):
        yield ast.Constant(not new.value)
    elif isinstance(new, ast.Constant) and isinstance(new.value, int | float):
        yield ast.Constant(new.value + 1)
    elif isinstance(new, ast.If | ast.IfExp):
        new.test = ast.UnaryOp(ast.Not(), new.test)
        yield new
    elif isinstance(new, ast.Expr) and isinstance(new.value, ast.Call):
        yield ast.Pass()  # a call that is dropped
    elif isinstance(new, ast.Call) and len(new.args) == 2 and not _starred(new):
        new.args.reverse()
        yield new


def _text(node: ast.BinOp) -> bool:
    sides = (node.left, node.right)
    return any(
        isinstance(s, ast.JoinedStr) or (isinstance(s, ast.Constant) and isinstance(s.value, str))
        for s in sides
    )


def _starred(call: ast.Call) -> bool:
    return any(isinstance(argument, ast.Starred) for argument in call.args)


def changes(file: Path, tests: list[str]) -> Iterator[Change]:
    """All changes of a file, in order; what is said in errors and annotations is left alone."""
    source = (ROOT / file).read_text(encoding="utf-8")
    lines = source.encode().splitlines(keepends=True)
    tree = ast.parse(source)
    idle: set[int] = set()
    for node in ast.walk(tree):
        annotation = getattr(node, "annotation", None), getattr(node, "returns", None)
        said = isinstance(node, ast.Raise | ast.JoinedStr)
        for part in (*annotation, node if said else None):
            idle |= {id(inner) for inner in ast.walk(part)} if part is not None else set()
    for node in ast.walk(tree):
        if id(node) in idle or not hasattr(node, "end_lineno"):
            continue
        begin = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
        end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
        whole = source.encode()
        before = whole[begin:end].decode()
        for new in variants(node):
            after = ast.unparse(ast.fix_missing_locations(new))
            if isinstance(new, ast.stmt):
                after = after.replace("\n", "\n" + " " * node.col_offset)
            elif not isinstance(new, ast.Constant):
                after = f"({after})"
            text = (whole[:begin] + after.encode() + whole[end:]).decode()
            short = [" ".join(part.split())[:70] for part in (before, after)]
            yield Change(file, node.lineno, *short, text, tuple(tests))


def chosen(count: int, seed: int, only: str) -> list[Change]:
    """Changes drawn evenly from the `MODULES`, of files alone in whose path the pattern `only` is found."""
    groups = []
    for pattern, tests in MODULES.items():
        paths = [p.relative_to(ROOT) for p in sorted((ROOT / PACKAGE).glob(pattern))]
        asked = [p for p in paths if re.search(only, str(p))]
        group = [change for p in asked for change in changes(p, concerned(ROOT / p, tests))]
        random.Random(seed).shuffle(group)
        groups.append(group)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*groups))
    return list(itertools.islice(filter(None, turns), count))


def concerned(file: Path, places: list[str]) -> list[str]:
    """The test files below `places` that name a module, its own first; all of them where none does."""
    name = re.compile(rf"\b{file.stem}\b")
    found = [
        test.relative_to(ROOT).as_posix()
        for place in places
        for test in sorted(
            (ROOT / place).rglob("test_*.py") if (ROOT / place).is_dir() else [ROOT / place]
        )
        if test.name not in SLOW
    ]
    naming = [test for test in found if name.search((ROOT / test).read_text())] or found
    # The first that fails ends it, and a module's own tests are the likeliest.
    return sorted(naming, key=lambda test: Path(test).stem != f"test_{file.stem}")


def noticed(change: Change, runs: Runs, folder: Path) -> bool:
    """Whether the tests fail when the change is made in the copy of the sources in `folder`."""
    file = folder / change.file
    whole = file.read_text(encoding="utf-8")
    file.write_text(change.text, encoding="utf-8")
    first = runs.get((str(change.file), change.line), [])
    try:
        # What a shared fixture ran stands under the first test that asked for it, so the others have their say too.
        return bool(first and fails(first, folder)) or fails(change.tests, folder)
    finally:
        file.write_text(whole, encoding="utf-8")


def fails(tests: Sequence[str], folder: Path) -> bool:
    """Whether one of the tests in the copy fails, or does not end."""
    state = in_a_child(lambda: _tests_run(tests, folder))
    if os.WIFEXITED(state) and os.WEXITSTATUS(state) not in (0, 1, 2):
        raise SystemExit(
            f"the tests do not run (pytest's {os.WEXITSTATUS(state)}): {' '.join(tests)}"
        )
    return state != 0


def in_a_child(work: Callable[[], int]) -> int:
    """The wait status of a copy of this process that did `work`; what is imported here need not be there again."""
    sys.stdout.flush()
    if pid := os.fork():
        return os.waitpid(pid, 0)[1]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    code = 3
    try:
        code = work()
    finally:
        os._exit(code)


def _tests_run(tests: Sequence[str], folder: Path, *plugins: object, longest: int = LONGEST) -> int:
    os.chdir(folder)
    sys.path[:0] = [str(folder), str(folder / "src")]
    os.environ["PYTHONPATH"] = str(folder / "src")
    signal.alarm(longest)  # ends the process
    words = [
        "-n",
        "0",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore:Module already imported",
    ]
    return int(pytest.main([*words, *tests], [*plugins]))


class Watch:
    """A plugin of pytest: coverage is told whose lines are running, and tests are timed."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured = measured
        self.took: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.measured.switch_context(item.nodeid.partition("[")[0])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.took[report.nodeid.partition("[")[0]] += report.duration


def _watched(tests: Sequence[str], folder: Path) -> int:
    sys.dont_write_bytecode = False  # what is compiled now need not be for each change
    measured = coverage.Coverage(str(folder / ".coverage"), source=[str(folder / PACKAGE)])
    watch = Watch(measured)
    with measured.collect():
        code = _tests_run(tests, folder, watch, longest=0)
    measured.save()
    told = {"took": watch.took, "modules": [m for m in sys.modules if m.partition(".")[0] in HEAVY]}
    (folder / TOLD).write_text(json.dumps(told), encoding="utf-8")
    return code


def lines_run(tests: Sequence[str], folder: Path) -> Runs:
    """Runs the unchanged copy once and tells which tests run which line.

    Raises:
        SystemExit: a test fails without any change; then every change would seem to be noticed.
    """
    if in_a_child(lambda: _watched(tests, folder)) != 0:
        raise SystemExit(f"the tests fail without any change: {' '.join(tests)}")
    told = json.loads((folder / TOLD).read_text(encoding="utf-8"))
    took = told["took"]
    warm(told["modules"])
    data = coverage.CoverageData(str(folder / ".coverage"))
    data.read()
    runs: Runs = {}
    for file in data.measured_files():
        for line, who in data.contexts_by_lineno(file).items():
            left, first = float(QUICK), []
            for test in sorted(set(who) & set(took), key=took.__getitem__):
                left -= took[test]
                if left < 0 and first:
                    break
                first.append(test)
            runs[str(Path(file).relative_to(folder)), line] = first
    return runs


def warm(modules: Sequence[str]) -> None:
    """Imports what is not changed; every run of the tests is a copy of this process."""
    for name in modules:
        with contextlib.suppress(Exception):  # some are made by hand
            importlib.import_module(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("-n", type=int, default=20, help="how many changes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", default="", help="files alone whose path this pattern is found in"
    )
    words = parser.parse_args()
    drawn = chosen(words.n, words.seed, words.only)
    caught = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "copy"
        idle = shutil.ignore_patterns(".git", ".venv*", "cases", "__pycache__", ".*_cache", "*.whl")
        shutil.copytree(ROOT, folder, ignore=idle)
        cases = Path("golden") / "cases"
        (folder / cases).symlink_to(ROOT / cases)
        every_test = tuple(dict.fromkeys(test for change in drawn for test in change.tests))
        os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        sys.dont_write_bytecode = True
        _torchvision.install()
        for name in [name for name in sys.modules if name.partition(".")[0] == "omnimix"]:
            del sys.modules[name]
        runs = lines_run(every_test, folder)
        for i, change in enumerate(drawn):
            good = noticed(change, runs, folder)
            caught += good
            print(f"{i + 1:3} {'caught' if good else 'SURVIVED'}  {change}", flush=True)
    print(f"{caught} of {len(drawn)} caught (seed {words.seed})")


if __name__ == "__main__":
    main()
