"""Run a case stage by stage and stop behind the first stage that differs."""

from __future__ import annotations

import abc
import importlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from omnimix.checkpoints.reading import Report as Loaded
from omnimix.convert.report import Check, Verdict, stopped
from omnimix.convert.verifying import Reading
from omnimix.errors import CheckpointError, OmnimixError
from omnimix_golden import comparisons, metrics
from omnimix_golden.case import Case, Facts, Unstated

_LOG = logging.getLogger(__name__)

ABOUT = frozenset(
    {"case", "family", "keys", "made_with", "notes", "reference", "tensor_meaning", "tensors"}
    | {"title", "what"}
)
"""Words of case.json that tell a reader how the case was made; there is nothing in them to compare."""

Section: TypeAlias = Callable[[Any], Iterator[Check]]
"""Comparisons of one section; it is given the family's own `CaseReading`."""


class CaseReading(abc.ABC):
    """How one family's cases are read: for each section of case.json what is compared, as a table.

    A section whose word is not in a case is passed over, so that a case may have any of them.

    Attributes:
        family: the word in case.json.
        sections: word of case.json to the comparisons it asks for, in the order they are made.
        about: further words of case.json that only tell how the case was made.
        unread: patterns of golden tensors (`expected: batch.*`, file and name) that are left out on
            purpose, and why. Any other tensor that no section looks at fails the case.
    """

    family: ClassVar[str]
    sections: ClassVar[Mapping[str, Section]]
    about: ClassVar[frozenset[str]] = frozenset()
    unread: ClassVar[Mapping[str, str]] = {}

    def __init__(self, case: Case) -> None:
        self.case = case
        self.notes: list[str] = []

    def facts(self) -> Facts:
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
        """All comparisons of the case; an error inside a section is a stage that failed, not the end."""
        facts = self.facts()
        for word, section in type(self).sections.items():
            if not facts.get(word):
                continue
            try:
                yield from section(self)
            except Unstated as error:
                self.notes.append(f"{word!r} was compared in part only: {error.what}")
            except Exception as error:
                # Whatever it is: a section that could not be compared must not hide the others.
                _LOG.debug("the section %r stopped", word, exc_info=True)
                yield stopped(word, _sentence(error))

    def left(self) -> Iterator[Check]:
        """What fails a case once all sections have run.

        Golden tensors that case.json states and no file has, and those that no section looked at, unless
        `unread` has them.
        """
        for name, why in self.case.absent():
            yield stopped("missing", f"the golden tensor {why}", name)
        reasons: dict[str, int] = {}
        for name in self.case.unread():
            reason = next((why for p, why in self.unread.items() if fnmatchcase(name, p)), None)
            if reason is None:
                yield stopped("unread", "no section looks at it", name)
            else:
                reasons[reason] = reasons.get(reason, 0) + 1
        for reason, count in reasons.items():
            self.notes.append(f"{count} golden tensors are deliberately unread: {reason}")

    def unknown(self) -> list[str]:
        """Words of case.json that nothing read, once all sections have run."""
        facts = self.facts()
        return sorted(facts.keys() - facts.read - self.case.facts.read - ABOUT - self.about)


def _sentence(error: Exception) -> str:
    """An error as a person reads it; only our own say what and where by themselves."""
    return str(error) if isinstance(error, OmnimixError) else f"{type(error).__name__}: {error}"


FAMILIES = {
    "prismatic": "omnimix_golden.prismatic.reading:PrismaticReading",
    "xgen_mm": "omnimix_golden.xgen_mm.reading:XGenReading",
    "sphinx": "omnimix_golden.sphinx.reading:SphinxReading",
    "sphinx_v": "omnimix_golden.sphinx_v.reading:SphinxVReading",
    "multi_token": "omnimix_golden.multi_token.reading:MultiTokenReading",
}
"""The word `family` of case.json to who reads such a case."""


class GoldenReading(Reading):
    """Folders with a case.json, or with a metrics.json alone."""

    def recognise(self, folder: Path) -> bool:
        return any((folder / name).is_file() for name in ("case.json", metrics.FILE))

    def verify(self, folder: Path, stop: bool) -> Verdict:
        wanted = comparisons.stated(folder)
        if (folder / "case.json").is_file():
            case = Case(folder)
            try:
                report = _report(case, stop)
            finally:
                case.close()
        else:
            report = metrics.verify(folder, stop)
        if wanted is None:
            report.notes.append(
                f"the case has no {comparisons.FILE}, so a comparison that is lost would not be noticed"
            )
        elif report.failed is None or not stop:
            report.take(comparisons.missing(wanted, list(report.checks)), stop=False)
        return report


def _report(case: Case, stop: bool) -> Verdict:
    if case.family not in FAMILIES:
        raise CheckpointError(
            f"cases of the family {case.family!r} cannot be read",
            where=str(case.folder / "case.json"),
            hint=f"known are {', '.join(FAMILIES)}",
        )
    module, _, name = FAMILIES[case.family].partition(":")
    reading: CaseReading = getattr(importlib.import_module(module), name)(case)
    report = Verdict(case.name)
    report.take(reading.checks(), stop)
    if report.failed is None or not stop:
        # What nobody looked at is known only behind the last section; an empty case stays an empty one.
        report.unread = case.unread()
        if report.checks:
            report.take(reading.left(), stop=False)
        if unknown := reading.unknown():
            reading.notes.append(f"no section reads these words of case.json: {', '.join(unknown)}")
    if not case.tensors:
        reading.notes.append(
            "the case brings no golden tensors: texts, ids and tables alone are compared"
        )
    report.notes = list(dict.fromkeys(reading.notes))
    return report
