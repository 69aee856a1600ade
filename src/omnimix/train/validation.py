"""Looking at records that are not learned from: the loss, measures, and a few answers to read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from omnimix.compose.batch import Batch
from omnimix.compose.features import without
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import Sequence as Woven
from omnimix.disk import writing
from omnimix.errors import OmnimixError, TrainError, placed
from omnimix.generate.answers import Answer
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.generate.drawing import draw
from omnimix.media.opening import MediaOpener
from omnimix.registry import MEASURES
from omnimix.train import ranks
from omnimix.train.begun import Begun
from omnimix.train.folder import differences
from omnimix.train.rows import DatasetFacts, looked_at
from omnimix.train.settings import Stage, ValidateSpec
from omnimix.train.step import quick_bf16
from omnimix.types import Media, Sample

LOSS = "loss"


@dataclass
class Best:
    """The best look of a stage so far.

    Attributes:
        value: None before the first look.
        step: behind which it was.
        since: looks without a better one.
    """

    value: float | None = None
    step: int = 0
    since: int = 0

    def take(self, value: float, step: int, least: bool) -> bool:
        """Whether a look is better than all before it."""
        better = self.value is None or (value < self.value if least else value > self.value)
        if better:
            self.value, self.step, self.since = value, step, 0
        else:
            self.since += 1
        return better


class Validation:
    """The looks of one stage.

    Attributes:
        of: what the best value is of: another record, number or style makes another number, which no earlier one
            can be compared with.
        anew: whether the best of a run that goes on was of something else, and is forgotten.

    Raises:
        TrainError: an endless dataset without `max_samples`.
    """

    def __init__(
        self, words: ValidateSpec, run: Begun, number: int, stage: Stage, state: dict[str, Any]
    ) -> None:
        self.words = words
        self.run = run
        self.number = number
        self.stage = stage
        self.source = words.data.open(run.folder)
        if self.source.length is None and words.max_samples is None:
            raise TrainError(
                "the dataset has no end",
                where=f"stages.{number}.validate",
                hint="say how many of its records are looked at: max_samples",
            )
        counts = [n for n in (self.source.length, words.max_samples) if n is not None]
        self.rows = range(min(counts))
        self.told = False
        self.of = self._of()
        before = state.get("best_of", {})
        self.anew = state.get("looked") is not None and before != self.of
        kept = {} if self.anew else state
        self.best = Best(**kept.get("best", {}))
        self.looked: int | None = kept.get("looked")
        if self.anew:
            changed = differences(before, self.of) if before else ["what it was of is not known"]
            if (
                before and before["best"] != words.best
            ):  # one of them alone goes by how much is answered
                changed = [one for one in changed if not one.startswith("max_new_tokens")]
            run.tell(f"the best of validation begins anew ({'; '.join(changed)})")

    def _of(self) -> dict[str, Any]:
        words, template = self.words, self.stage.template
        found: dict[str, Any] = {"best": words.best, "data": words.dump()["data"]}
        found["records"] = len(self.rows)
        if words.best != LOSS:
            found["max_new_tokens"] = words.max_new_tokens
        return found | ({"template": template.dump()} if template is not None else {})

    def measures(self) -> dict[str, Any]:
        """The measures by name."""
        return {name: MEASURES.load(name)() for name in self.words.measures}

    def check(self) -> DatasetFacts:
        """Look at a few records, and at all where answers are measured, before the stage is paid for.

        Raises:
            SampleError: nothing that can be used, or a record that a measure can make nothing of.
        """
        where = f"stages.{self.number}.validate"
        for measure in self.measures().values():
            samples = [self.source[row] for row in self.rows]
            with placed(where):
                measure.references(samples, [(1, 1)] * len(samples))
        facts = looked_at(self.source, self.run.processor, None, False, where)
        return replace(facts, rows=len(self.rows))

    def due(self, step: int, last: int) -> bool:
        """Whether the records are looked at behind a step."""
        every = self.words.every or self.stage.save_steps
        return step > 0 and step != self.looked and (step % every == 0 or step == last)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"best": vars(self.best), "best_of": self.of, "looked": self.looked}

    def over(self) -> bool:
        """Whether the stage has not become better for as long as it may."""
        patience = self.words.early_stopping_patience
        return patience is not None and self.best.since >= patience

    def look(self, step: int, autocast: Any) -> tuple[dict[str, Any], bool]:
        """Look at the records behind a step.

        Args:
            autocast: makes the context that a forward runs in.

        Returns:
            Numbers for a line of metrics, and whether they are the best so far.

        Raises:
            TrainError: no record can be used, or the loss is not finite.
        """
        processor = self.run.processor
        if self.stage.template is not None:
            processor = processor.with_template(self.stage.template)
        with resting(self.run):
            loss, failed = self._loss(processor, autocast)
            # Answers are computed without autocast, which made what is kept where there is one.
            exact = not self.stage.bf16 or not quick_bf16(self.run.device)
            measures = self._measured(processor if exact else without(processor), step)
        if failed and not self.told:
            self.told = True
            self.run.tell(
                f"{len(failed)} records of validation are left out; the first: {failed[0]}"
            )
        which = self.words.best
        value = loss if which == LOSS else measures[which]
        better = self.best.take(value, step, which == LOSS)
        self.looked = step
        line = {"validation": round(loss, 5), "measures": measures, "best": better}
        return line | {"left_out": len(failed)}, better

    def _loss(self, processor: Processor, autocast: Any) -> tuple[float, list[str]]:
        """Cross entropy of a learned token, over all ranks, and why records are left out."""
        run, group = self.run, self.run.process_group
        rank, many = run.layout.data
        model: Any = run.model
        own = list(self.rows)[rank::many]
        size = max(1, self.stage.batch_size // self.stage.gradient_accumulation_steps // many)
        total, tokens = 0.0, 0.0
        failed: list[str] = []
        # Every rank looks as often as the first, which has the most.
        for start in range(0, -(-len(self.rows) // many), size):
            with group.agreed():
                batch = self._batch(processor, own[start : start + size], failed)
            said = group.gather("needs", [ranks.needs(batch)])
            [(even, share)] = ranks.even(run.layout, [batch], said, run.model.modalities)
            if even is None:
                continue
            with group.together(), autocast():
                moved = even.to(run.device)
                inputs = moved.inputs(mask=False) | {"labels": moved.labels}
                found = run.layout.run(
                    partial(model, **inputs, num_items_in_batch=1, skip_logits=True)
                )
            total += float(found.loss) * share
            tokens += batch.targets if batch is not None else 0
        mine = (total, tokens, failed) if run.layout.speaks else (0.0, 0, [])
        said = group.gather("validation", mine)
        failed = [one for _, _, some in said for one in some]
        count = sum(some for _, some, _ in said)
        if not count:
            raise TrainError(
                f"no record of the validation data can be used; the first says: {failed[0] if failed else 'none'}",
                where=f"stages.{self.number}.validate",
            )
        loss = sum(one for one, _, _ in said) / count
        if not math.isfinite(loss):
            raise TrainError(
                f"the loss of the validation data is {loss}",
                where=f"stages.{self.number}.validate",
                hint="lower optimizer.lr, and go on from the checkpoint before",
            )
        return loss, failed

    def _batch(self, processor: Processor, rows: Sequence[int], failed: list[str]) -> Batch | None:
        """Some records; why one cannot be used is put to what failed."""
        woven: list[Woven] = []
        for row in rows:
            try:
                woven.append(processor.weave(self.source[row]))
            except OmnimixError as error:
                failed.append(error.sentence())
        pack = bool(self.stage.packing)
        return processor.batch(woven, pack=pack, multiple=1 if pack else 16) if woven else None

    def _measured(self, processor: Processor, step: int) -> dict[str, float]:
        """Answer the records that are measured or written down; the measures, the same on all ranks."""
        group = self.run.process_group
        assistant = Assistant(self.run.model, processor)
        options = Options(max_new_tokens=self.words.max_new_tokens)
        with group.agreed():
            asked = self._asked(assistant, options)
        # Ranks that hold parts of the model all have to write every answer: a record that one of them cannot read is
        # left out by all.
        said = group.gather("asked", [row for row, _, _ in asked])
        common = set(said[0]).intersection(*said)
        if apart := len({row for rows in said for row in rows} - common):
            self.run.tell(
                f"{apart} records of validation are not answered: not every process can read them"
            )
        asked = [one for one in asked if one[0] in common]
        questions = [woven for _, _, woven in asked]
        with group.together():
            answers = self.run.layout.run(lambda: assistant.write_many(questions, options=options))
        measures: dict[str, float] = {}
        with self.run.first_alone() as first:
            if first:
                self._write(step, asked[: self.words.answers], answers)
                measures = self._score(asked, answers)
        told: dict[str, float] = group.gather("measures", measures)[0]
        return told

    def _score(
        self, asked: Sequence[tuple[int, Sample, Woven]], answers: list[Answer]
    ) -> dict[str, float]:
        """The measures of answers by name."""
        samples = [sample for _, sample, _ in asked]
        sizes = [woven.pictures[-1].size if woven.pictures else (0, 0) for _, _, woven in asked]
        return {
            name: round(measure.score(answers, measure.references(samples, sizes)).value, 5)
            for name, measure in self.measures().items()
        }

    def _asked(self, assistant: Assistant, options: Options) -> list[tuple[int, Sample, Woven]]:
        """The records that this rank can ask about, with their rows and questions."""
        many = len(self.rows) if self.words.measures else self.words.answers
        asked: list[tuple[int, Sample, Woven]] = []
        for row in self.rows[:many]:
            try:
                sample = self.source[row]
                if not sample.turns or sample.turns[-1].role != "assistant":
                    continue
                question = replace(sample, turns=sample.turns[:-1])
                asked.append((row, sample, assistant.weave(question, options)))
            except OmnimixError:
                continue  # counted where the loss is
        return asked

    def _write(
        self, step: int, asked: list[tuple[int, Sample, Woven]], answers: list[Answer]
    ) -> None:
        """A few answers, a line each, and their pictures with what was asked and answered drawn on them."""
        if not asked:
            return
        place = self.run.out / "answers" / f"stage-{self.number:02d}-step-{step:07d}"
        with writing(place):
            place.mkdir(parents=True, exist_ok=True)
            with (place / "answers.jsonl").open("w") as file:
                for (row, sample, woven), answer in zip(asked, answers, strict=False):
                    line = {
                        "row": row,
                        "id": sample.id,
                        "question": sample.turns[-2].text() if len(sample.turns) > 1 else "",
                        "right": sample.turns[-1].text(),
                        "answer": answer.text,
                        "picture": self._draw(sample, woven, answer, place / f"{row}.png"),
                    }
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _draw(self, sample: Sample, woven: Woven, answer: Answer, file: Path) -> str | None:
        recipe = self.run.processor.recipe
        pictures = [
            part
            for turn in sample.turns[:-1]
            for part in turn.content
            if isinstance(part, Media) and part.kind == "image"
        ]
        name = recipe.modality_for("image")
        opener = recipe.modalities[name].opens if name else None
        if not pictures or not isinstance(opener, MediaOpener):
            return None
        draw(opener.open(pictures[-1]), woven.asked, answer.regions).save(file)
        return file.name


@contextmanager
def resting(run: Begun) -> Iterator[None]:
    """The model asks instead of learning, and nothing that chance decides in training moves."""
    devices = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        run.model.eval()
        try:
            yield
        finally:
            run.model.train()
