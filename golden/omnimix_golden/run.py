"""Run a case stage by stage and stop behind the first stage that differs."""

from __future__ import annotations

import abc
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from omnimix.checkpoints.reading import Report as Loaded
from omnimix.convert.report import Check, Report
from omnimix.convert.verifying import Reading
from omnimix.errors import CheckpointError
from omnimix_golden.case import Case, Unstated

Section: TypeAlias = Callable[[Any], Iterator[Check]]
"""Comparisons of one section; it is given the family's own `CaseReading`."""


class CaseReading(abc.ABC):
    """How one family's cases are read: for each section of case.json what is compared, as a table.

    A section whose word is not in a case is passed over, so that a case may have any of them.

    Attributes:
        family: the word in case.json.
        sections: word of case.json to the comparisons it asks for, in the order they are made.
    """

    family: ClassVar[str]
    sections: ClassVar[Mapping[str, Section]]

    def __init__(self, case: Case) -> None:
        self.case = case
        self.notes: list[str] = []

    def facts(self) -> Mapping[str, Any]:
        """What the case says, by the words of `sections`."""
        return self.case.facts

    @property
    def inputs(self) -> Path:
        """Where pictures and records lie."""
        return self.case.folder / "inputs"

    @cached_property
    def request(self) -> dict[str, Any]:
        """What is asked: inputs/request.json."""
        path = self.inputs / "request.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot be read ({error})", where=str(path)) from None
        return found

    def tell(self, report: Loaded) -> None:
        """Note what a load has to say: its own notes, and keys that nothing is made of."""
        self.notes += report.notes
        reasons = sorted(set(report.unused.values()))
        if reasons:
            self.notes.append(
                f"{len(report.unused)} keys are deliberately unused: {'; '.join(reasons)}"
            )

    def checks(self) -> Iterator[Check]:
        """All comparisons of the case."""
        facts = self.facts()
        for word, section in type(self).sections.items():
            if not facts.get(word):
                continue
            try:
                yield from section(self)
            except Unstated as error:
                self.notes.append(f"{word!r} was compared in part only: {error.what}")


FAMILIES = {
    "prismatic": "omnimix_golden.prismatic.reading:PrismaticReading",
    "xgen_mm": "omnimix_golden.xgen_mm.reading:XGenReading",
    "sphinx": "omnimix_golden.sphinx.reading:SphinxReading",
    "sphinx_v": "omnimix_golden.sphinx_v.reading:SphinxVReading",
    "multi_token": "omnimix_golden.multi_token.reading:MultiTokenReading",
}
"""The word `family` of case.json to who reads such a case."""


class GoldenReading(Reading):
    """Folders with a case.json."""

    def recognise(self, folder: Path) -> bool:
        return (folder / "case.json").is_file()

    def verify(self, folder: Path, stop: bool) -> Report:
        case = Case(folder)
        try:
            return _report(case, stop)
        finally:
            case.close()


def _report(case: Case, stop: bool) -> Report:
    if case.family not in FAMILIES:
        raise CheckpointError(
            f"cases of the family {case.family!r} cannot be read",
            where=str(case.folder / "case.json"),
            hint=f"known are {', '.join(FAMILIES)}",
        )
    module, _, name = FAMILIES[case.family].partition(":")
    reading: CaseReading = getattr(importlib.import_module(module), name)(case)
    report = Report(case.name)
    failed = ""
    for check in reading.checks():
        if stop and failed and check.stage != failed:
            break
        report.checks.append(check)
        if not check.passed:
            failed = failed or check.stage
    if not failed or not stop:
        report.unread = case.unread()
    report.notes = list(dict.fromkeys(reading.notes))
    return report
