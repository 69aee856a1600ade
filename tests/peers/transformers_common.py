"""Run the common tests of the installed transformers over our model, and compare with the list of what fails.

    python -m tests.peers.transformers_common [--sdist FILE] [-k EXPRESSION]

The tests come in the source archive of the installed version, which is downloaded once and kept in a cache;
nothing of it is in this repository. `transformers_common.yaml` beside this file says which of them fail and why:
a failure that is not on the list ends with exit code 1, and so does a test on the list that passes. Where the
archive cannot be had, the script says that nothing was run.

The archives of 5.23 and 5.24 hold the mixin of models but not those of generation and of exporting, for which empty
classes stand in; what those two would ask is asked by tests/compose/test_generation_ways.py.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import transformers
import yaml

HERE = Path(__file__).parent
EXPECTED = HERE / "transformers_common.yaml"
PACKAGE = "transformers_tests"
LACKING = {
    "exporters/test_export.py": "ExportTesterMixin",
    "generation/test_utils.py": "GenerationTesterMixin",
}
"""Modules that the tests import and the archive may lack, each with the class that is asked of it."""


def cache() -> Path:
    """Where the archive is kept."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omnimix" / "peers"
    root.mkdir(parents=True, exist_ok=True)
    return root


def archive() -> Path | None:
    """The source archive of the installed version; None where it cannot be had."""
    version = transformers.__version__
    file = cache() / f"transformers-{version}.tar.gz"
    if not file.is_file():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        wanted = ["--no-binary", "transformers", f"transformers=={version}"]
        subprocess.run([*pip, *wanted, "--dest", str(cache())], check=False)
    return file if file.is_file() else None


def unpack(file: Path, place: Path) -> list[str]:
    """The tests of the archive as a package beside nothing of ours; those modules of `LACKING` that it lacks."""
    package = place / PACKAGE
    with tarfile.open(file) as packed:
        for member in packed.getmembers():
            inside = re.fullmatch(r"[^/]+/tests/((?:[\w]+/)*\w+\.py)", member.name)
            content = packed.extractfile(member) if inside and member.isfile() else None
            if inside and content is not None:
                target = package / inside.group(1)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    lacking = [name for name in LACKING if not (package / name).is_file()]
    for name in lacking:
        target = package / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"class {LACKING[name]}:\n    pass\n", encoding="utf-8")
    for folder in (package, *(path for path in package.rglob("*") if path.is_dir())):
        (folder / "__init__.py").touch()
    # Their markers are declared nowhere here. Warnings stay on, since some tests wait for one.
    (place / "pytest.ini").write_text("[pytest]\nfilterwarnings = default\n", encoding="utf-8")
    return lacking


def run(place: Path, only: str | None, processes: str) -> dict[str, tuple[str, str]]:
    """What became of every test: `passed`, `failed` or `skipped`, and why."""
    report = place / "report.xml"
    root = HERE.parents[1]
    words = [sys.executable, "-m", "pytest", "-q", "-c", str(place / "pytest.ini"), "-n", processes]
    words += [
        "--tb=line",
        "-p",
        "no:cacheprovider",
        f"--junitxml={report}",
        "-o",
        "junit_family=xunit1",
    ]
    words += [*(["-k", only] if only else []), str(HERE / "common_cases.py")]
    path = os.pathsep.join(filter(None, [str(place), str(root), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    subprocess.run(words, cwd=root, env=environment, check=False, stdout=subprocess.DEVNULL)
    found: dict[str, tuple[str, str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{(case.get('classname') or '').rpartition('.')[2]}::{case.get('name')}"
        outcome, why = "passed", ""
        for child in case:
            if child.tag in ("failure", "error"):
                outcome, why = "failed", child.get("message") or ""
            elif child.tag == "skipped" and outcome == "passed":
                outcome, why = "skipped", child.get("message") or ""
        # A test with parts is told several times; its worst part counts.
        if found.get(name, ("passed", ""))[0] != "failed":
            found[name] = outcome, " ".join(why.split())
    return found


def compare(found: dict[str, tuple[str, str]], expected: dict[str, str]) -> list[str]:
    """What is not as the list says, a line each."""
    lines = []
    failing = {
        name.partition("::")[2] for name, (outcome, _) in found.items() if outcome == "failed"
    }
    ran = {name.partition("::")[2] for name in found}
    for name, (outcome, why) in sorted(found.items()):
        if outcome == "failed" and name.partition("::")[2] not in expected:
            lines.append(f"{name} fails: {why[:200]}")
    for test in sorted(expected.keys() & ran - failing):
        lines.append(f"{test} passes everywhere; take it off {EXPECTED.name}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sdist", type=Path, help="the archive, where it is at hand")
    parser.add_argument("-k", dest="only", help="some tests, as pytest's -k")
    parser.add_argument("-n", dest="processes", default="2", help="processes (2)")
    asked = parser.parse_args(arguments)
    file = asked.sdist or archive()
    if file is None:
        print(
            f"NOT RUN: the source archive of transformers {transformers.__version__} is out of reach"
        )
        return 0
    with tempfile.TemporaryDirectory() as place:
        lacking = unpack(file, Path(place))
        found = run(Path(place), asked.only, asked.processes)
    expected: dict[str, str] = yaml.safe_load(EXPECTED.read_text(encoding="utf-8"))["fails"] or {}
    wrong = compare(found, expected)
    outcomes = Counter(outcome for outcome, _ in found.values())
    skipped = Counter(why for outcome, why in found.values() if outcome == "skipped")
    print(f"transformers {transformers.__version__}: {dict(outcomes)}")
    for name in lacking:
        print(f"  the archive holds no {LACKING[name]} ({name})")
    for why, count in skipped.most_common():
        print(f"  skipped {count:3d}: {why}")
    for test, why in sorted(expected.items()):
        print(f"  fails as listed: {test}: {why}")
    print("\n".join(wrong) if wrong else "nothing fails that is not on the list")
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    sys.exit(main())
