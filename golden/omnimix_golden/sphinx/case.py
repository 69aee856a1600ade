"""A golden case of SPHINX: its checkpoint, its requests, and the trainer's names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from omnimix.checkpoints import base, reading, tables
from omnimix.checkpoints.base import Release
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import CheckpointError
from omnimix.families.sphinx import folder as sphinx, names as sphinx_names
from omnimix.families.sphinx.conversation import asked, picture
from omnimix.families.sphinx.face import SPHINXModel
from omnimix.families.sphinx.records import SphinxSource
from omnimix.families.sphinx.shards import Shards
from omnimix.generate.assistant import Assistant
from omnimix.types import Media, Sample, Turn
from omnimix_golden.case import Case, Facts
from omnimix_golden.parts import parts_of
from omnimix_golden.run import CaseReading


class SphinxCase(CaseReading):
    """What all sections of a case need.

    Attributes:
        stages: for each stage of the trainer the shipped file that holds it under the same name.
        face: the reference's class.
    """

    face: ClassVar[type[SPHINXModel]] = SPHINXModel
    stages: ClassVar[Mapping[str, str]] = {"finetune": "sphinx.train.yaml"}

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self._loaded: tuple[MultimodalLM, Processor] | None = None
        self._facts = Facts({**case.facts, **(case.facts.get("results") or {})})

    def facts(self) -> Facts:
        """The case's own words, and those of its results."""
        return self._facts

    @cached_property
    def layout(self) -> Shards:
        """What lies in the case's checkpoint."""
        layout = sphinx.SphinxFamily().recognise(self.case.folder / "checkpoint")
        if layout is None:
            raise CheckpointError("the case holds no checkpoint", where=str(self.case.folder))
        return layout

    @cached_property
    def release(self) -> Release:
        """The case's checkpoint."""
        parts = parts_of(self.case.folder, self.case.facts)
        return base.open_release((sphinx.SphinxFamily(), self.layout), parts)

    def loaded(self) -> tuple[MultimodalLM, Processor]:
        """Model and processor; the same ones every time."""
        if self._loaded is None:
            model, processor, report = reading.load(self.release)
            self.tell(report)
            self._loaded = model, processor
        return self._loaded

    @property
    def model(self) -> SPHINXModel:
        """The same behind the reference's face."""
        return self.face(Assistant(*self.loaded()))

    def tolerance(self, *names: str) -> float:
        """The tolerance that the case states for the first of these words, else for everything.

        Raises:
            CheckpointError: it states none.
        """
        stated = self.case.facts.get("tolerance_abs") or {}
        for name in (*names, "default"):
            if isinstance(stated.get(name), int | float):
                return float(stated[name])
        raise CheckpointError(
            "case.json states no tolerance", where=str(self.case.folder / "case.json")
        )

    # --- requests ---

    def picture(self, name: str | None) -> str | None:
        """Where a picture of the case lies."""
        return None if name is None else str(self.inputs / name)

    def media(self, asking: Mapping[str, Any]) -> tuple[Media, ...]:
        """What a request shows."""
        return picture(self.picture(asking.get("image")))

    def question(self, asking: Mapping[str, Any], name: str = "question") -> Sample:
        """A request as a conversation: open for an answer (`awaits_answer`), or finished where it has its last one."""
        *before, (question, answer) = asking["qas"]
        sample = asked([*before, (question, None)], self.media(asking), name)
        if answer is None:
            return sample
        return Sample((*sample.turns, Turn("assistant", (answer,))), name)

    def records(self) -> SphinxSource:
        """The training records of the case."""
        return SphinxSource(self.inputs / "train.yaml")

    @cached_property
    def samples(self) -> dict[int, Sample]:
        """The records that the case lists, read once in its order, since chance goes on between them."""
        source = self.records()
        return {item["index"]: source[item["index"]] for item in self.facts()["dataset"]["items"]}

    def drawn(self) -> list[int]:
        """The records of the training batch: those whose tokens it holds, else the first ones."""
        examples = self.case.get("train.examples")
        listed = self.facts()["dataset"]["items"]
        if examples is None:
            return [item["index"] for item in listed[:2]]
        chosen: list[int] = []
        for row in examples.tolist():
            tokens = [token for token in row if token]
            same = [i["index"] for i in listed if [t for t in i["tokens"] if t] == tokens]
            fresh = [index for index in same if index not in chosen]
            chosen.append((fresh or same or [len(chosen)])[0])
        return chosen

    # --- names ---

    def foreign(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors (weights, gradients) under the names of the trainer, in its order of rows."""
        plan = sphinx_names.table(self.release.recipe).writing(tensors)
        return tables.write(plan, tensors)

    def foreign_names(self, names: Iterable[str]) -> list[str]:
        """The trainer's names of our parameters."""
        plan = sphinx_names.table(self.release.recipe).writing(names)
        return [name for move in plan.moves for name in move.foreign]
