"""A golden case of Prismatic opened: its runs, its parts, the model that answers."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from omnimix.checkpoints import reading
from omnimix.checkpoints.base import Parts
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import CheckpointError
from omnimix.families.prismatic.folder import Prismatic, RunFolder
from omnimix_golden.case import Case
from omnimix_golden.parts import parts_of
from omnimix_golden.run import CaseReading

STAGES = ("align", "finetune", "full-finetune")
"""Stages of training in their order; the last run of a case is the one that answers its requests."""


class PrismaticCase(CaseReading):
    """What all sections of a case share."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.parts: Parts = parts_of(case.folder, case.facts)

    @cached_property
    def runs(self) -> dict[str, RunFolder]:
        """The run folders of the case by their stage."""
        found: dict[str, RunFolder] = {}
        for folder in sorted(path for path in self.case.folder.iterdir() if path.is_dir()):
            layout = Prismatic().recognise(folder)
            if layout is not None:
                found[layout.stage] = layout
        return found

    @cached_property
    def last(self) -> RunFolder:
        """The run that answers."""
        found = [self.runs[stage] for stage in STAGES if stage in self.runs]
        if not found:
            raise CheckpointError("the case holds no run folder", where=str(self.case.folder))
        return found[-1]

    @cached_property
    def loaded(self) -> tuple[MultimodalLM, Processor]:
        """Model and processor of the last run."""
        release = Prismatic().open(self.last, self.parts)
        model, processor, report = reading.load(release)
        self.tell(report)
        return model, processor

    @property
    def length(self) -> int:
        """Most text tokens of a training sample."""
        return int(self.last.section.get("llm_max_length", 2048))

    def expected(self, *names: str) -> Any:
        """A fact by its path in case.json; None where it is not stated."""
        found: Any = self.case.facts
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        return found
