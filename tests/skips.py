"""Which tests may be skipped: the list, printed behind every run, and held to under CI.

With `CI=true` or `--strict-skips` a test that is skipped for any other reason fails the run: a check that
silently does not happen proves nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

ALLOWED: Mapping[str, str] = {
    r"needs (a|two|several) CUDA devices?\b": "the machines of CI have no GPU",
}
"""Patterns at the beginning of a reason, and why it is one."""

FOUND = pytest.StashKey[dict[str, str]]()
"""In the configuration: each skipped test and its reason."""


def unlisted(reasons: Iterable[str], allowed: Mapping[str, str] = ALLOWED) -> set[str]:
    """The reasons that are not on the list."""
    return {reason for reason in reasons if not any(re.match(one, reason) for one in allowed)}


def is_strict(config: pytest.Config) -> bool:
    asked = os.environ.get("CI", "").lower() not in ("", "0", "false", "no")
    return asked or bool(config.getoption("--strict-skips"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--strict-skips",
        action="store_true",
        help="fail the run where a test is skipped for a reason that is not listed in tests/skips.py",
    )


class Watch:
    """Gathers skips where the run is told of: in the main process, also with several workers."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        config.stash[FOUND] = {}

    def note(self, report: Any) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            said = report.longrepr
            reason = said[2] if isinstance(said, tuple | list) else str(said)
            self.config.stash[FOUND][report.nodeid] = str(reason).removeprefix("Skipped: ")

    pytest_runtest_logreport = note
    pytest_collectreport = note

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        wrong = unlisted(self.config.stash[FOUND].values())
        if wrong and is_strict(self.config) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        found = self.config.stash[FOUND]
        if not found:
            return
        write = terminalreporter.write_line
        wrong = unlisted(found.values())
        strict = is_strict(self.config)
        terminalreporter.section("skipped, by reason")
        for reason in sorted(set(found.values())):
            tests = sorted(test for test, why in found.items() if why == reason)
            mark = " -- NOT ON THE LIST of tests/skips.py" if strict and reason in wrong else ""
            write(f"{len(tests)}: {reason}{mark}", red=bool(mark))
            for test in tests[: None if mark else 3]:
                write(f"    {test}")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # a worker of xdist hands its reports on
        config.pluginmanager.register(Watch(config), "omnimix-skips")
