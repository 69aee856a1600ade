"""The hook on skipped tests, on a small suite of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.skips import unlisted

SUITE = """
import pytest

def test_passes(): pass

@pytest.mark.skip(reason="needs a CUDA device")
def test_on_a_gpu(): pass

@pytest.mark.xfail(reason="known", strict=True)
def test_known(): assert False
"""
UNLISTED = """
import pytest

def test_left_out(): pytest.skip("a package is absent")
"""


def run(folder: Path, *words: str, ci: str = "", more: str = "") -> tuple[int, str]:
    shutil.copyfile(Path(__file__).with_name("skips.py"), folder / "skips.py")
    (folder / "conftest.py").write_text(
        "from skips import pytest_addoption, pytest_configure  # noqa: F401\n"
    )
    (folder / "test_small.py").write_text(SUITE + more)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=folder,
        env={**os.environ, "CI": ci, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("workers", ["0", "2"])
def test_an_unlisted_skip_fails_the_run_where_it_is_asked_for(tmp_path: Path, workers: str) -> None:
    code, said = run(tmp_path, "-n", workers, ci="true", more=UNLISTED)
    assert code == pytest.ExitCode.TESTS_FAILED, said
    assert "1: a package is absent -- NOT ON THE LIST" in said and "test_left_out" in said
    assert "1: needs a CUDA device\n" in said and "known" not in said


def test_elsewhere_it_is_printed_alone(tmp_path: Path) -> None:
    code, said = run(tmp_path, "-n", "0", ci="false", more=UNLISTED)
    assert code == pytest.ExitCode.OK, said
    assert "1: a package is absent\n" in said


def test_listed_skips_pass_and_are_printed(tmp_path: Path) -> None:
    code, said = run(tmp_path, "-n", "0", "--strict-skips")
    assert code == pytest.ExitCode.OK, said
    assert "skipped, by reason" in said and "test_on_a_gpu" in said


def test_the_list() -> None:
    reasons = ["needs a CUDA device", "needs two CUDA devices", "needs peft", "not with CUDA"]
    assert unlisted(reasons) == {"needs peft", "not with CUDA"}
