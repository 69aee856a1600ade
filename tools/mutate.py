"""Small wrong changes, one at a time, and whether a test notices: `make mutate`, or `python tools/mutate.py -n 20 --seed 1`.

mutmut and cosmic-ray run all tests of a project for a change, or want its layout; here a change is met by the tests of
its own folder alone, which is minutes in place of days. Each change is made in a copy of the package, so that the tree
stays as it is, also when this is stopped.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = Path("src") / "omnimix"
MODULES = {
    "regions.py": ["tests/test_regions.py", "tests/prompts", "tests/media/test_region.py"],
    "masks.py": ["tests/test_regions.py", "tests/segment", "tests/media/test_region.py"],
    "prompts/codecs/*.py": ["tests/prompts"],
    "compose/*.py": ["tests/compose"],
    "train/step.py": ["tests/train"],
}
"""What is changed, and the tests that are to notice."""

SLOW = {"test_generation_ways.py", "test_family_recipes.py", "test_citizen.py", "test_ranks.py"}
"""Left out: minutes for each change. What they alone would notice counts as survived."""

LONGEST = 600
"""Seconds: a change that never ends is noticed too."""

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


def every() -> list[Change]:
    """The changes of all `MODULES`."""
    return [
        change
        for pattern, tests in MODULES.items()
        for path in sorted((ROOT / PACKAGE).glob(pattern))
        for change in changes(path.relative_to(ROOT), concerned(path, tests))
    ]


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


def noticed(change: Change, folder: Path) -> bool:
    """Whether the tests fail when the change is made in the copy of the sources in `folder`."""
    file = folder / change.file
    whole = file.read_text(encoding="utf-8")
    file.write_text(change.text, encoding="utf-8")
    try:
        return fails(change.tests, folder)
    finally:
        file.write_text(whole, encoding="utf-8")


def fails(tests: tuple[str, ...], folder: Path) -> bool:
    """Whether one of the tests in the copy fails, or does not end."""
    words = ["-n", "0", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            [sys.executable, "-B", "-m", "pytest", *words],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            timeout=LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True
    if done.returncode not in (0, 1, 2):
        raise SystemExit(f"the tests do not run: {done.stdout.decode()[-2000:]}")
    return done.returncode != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("-n", type=int, default=20, help="how many changes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", default="", help="files alone whose path this pattern is found in"
    )
    words = parser.parse_args()
    found = [change for change in every() if re.search(words.only, str(change.file))]
    chosen = random.Random(words.seed).sample(found, min(words.n, len(found)))
    caught = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "copy"
        idle = shutil.ignore_patterns(".git", ".venv*", "cases", "__pycache__", ".*_cache", "*.whl")
        shutil.copytree(ROOT, folder, ignore=idle)
        cases = Path("golden") / "cases"
        (folder / cases).symlink_to(ROOT / cases)
        every_test = tuple(dict.fromkeys(test for change in chosen for test in change.tests))
        if fails(every_test, folder):  # else every change would seem to be noticed
            raise SystemExit(f"the tests fail without any change: {' '.join(every_test)}")
        for i, change in enumerate(chosen):
            good = noticed(change, folder)
            caught += good
            print(f"{i + 1:3} {'caught' if good else 'SURVIVED'}  {change}", flush=True)
    print(f"{caught} of {len(chosen)} caught, of {len(found)} possible (seed {words.seed})")


if __name__ == "__main__":
    main()
