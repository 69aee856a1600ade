"""Run a case stage by stage and stop behind the first stage that differs."""

from __future__ import annotations

import abc
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from omnimix.checkpoints.reading import Report as Loaded
from omnimix.errors import CheckpointError
from omnimix.registry import READINGS
from omnimix.verify.case import Case, Unstated
from omnimix.verify.report import Check, Report

Section: TypeAlias = Callable[[Any], Iterator[Check]]
"""Comparisons of one section; it is given the family's own `Reading`."""


class Reading(abc.ABC):
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


def verify(path: str | Path, stop: bool = True) -> Report:
    """Check a case folder, or a model folder that carries golden numbers.

    Args:
        stop: end behind the first stage that differs; without it everything is compared.

    Raises:
        CheckpointError: nothing to check there, an unknown family, or a checkpoint that cannot be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(
            "there is no such folder", where=str(path), hint="name a case or model folder"
        )
    if not (folder / "case.json").is_file() and (folder / "certificate.json").is_file():
        from omnimix.verify.certificate import verify_model

        return verify_model(folder)
    case = Case(folder)
    try:
        if case.family not in READINGS:
            known = ", ".join(READINGS)
            raise CheckpointError(
                f"cases of the family {case.family!r} cannot be read",
                where=str(folder / "case.json"),
                hint=f"known are {known}",
            )
        reading: Reading = READINGS.load(case.family)(case)
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
    finally:
        case.close()
