"""The one loop: the steps of a stage, interrupted at any moment and whole all the same."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from signal import SIGINT
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from omnimix import _transformers
from omnimix.compose import adapters, features
from omnimix.compose.batch import Batch
from omnimix.data.check.style import style_faults
from omnimix.data.mixture import Read, loader
from omnimix.data.packing import PackingSpec
from omnimix.errors import DroppedError
from omnimix.train import checkpoint, optim, shards
from omnimix.train.begun import DROPPED, Begun
from omnimix.train.idle import Idle
from omnimix.train.meter import Meter
from omnimix.train.plan import plan
from omnimix.train.proof import Proof
from omnimix.train.rows import LeftOut
from omnimix.train.step import NothingLearned, Stepped, optimizer_step, quick_bf16
from omnimix.train.validation import Validation

APART = 7919
"""Between the random seeds of two ranks."""

GUESSING = 3
"""A loss of so many times that of a guess among all tokens is worth a warning."""

WARNED = 3
"""Steps that are warned of, of one kind."""


class Held(NamedTuple):
    """What an interrupted step has moved, as it was before it."""

    buffers: list[Tensor]
    cpu: Tensor
    cuda: Tensor | None
    left_out: tuple[int, ...]


class Loop:
    """The steps of one stage.

    Args:
        run: whose stage it is.
        number: of the stage.
        resumed: the checkpoint it goes on from.
        before: steps of the stages before it.

    Attributes:
        steps: that were taken here.
        ends: the step behind which it ended.
        saved: the newest checkpoint.
    """

    def __init__(self, run: Begun, number: int, resumed: Path | None, before: int) -> None:
        self.run = run
        self.number = number
        self.stage = run.training.stages[number]
        self.resumed = resumed
        self.state: dict[str, Any] = checkpoint.state_of(resumed) if resumed else {}
        self.first: int = self.state.get("step", 0)
        self.before = before
        self.steps = 0
        self.ends = self.first
        self.saved = resumed
        self.moved = False
        self.warned: dict[str, int] = {}
        self.norms: dict[str, Tensor] = {}
        start, learned = run.out / f"start-{number:02d}", run.learned[number]
        self.stage.objective.begin(
            run.model, learned, start, resumed is not None, run.process_group
        )
        if resumed is not None:
            with run.process_group.together():
                checkpoint.load_learned(resumed, run.model, run.learned[number])
        self.learned = optim.set_trainable(run.model, self.stage.trainable)
        adapters.rest(run.model)
        if any(stage.gradient_checkpointing for stage in run.training.stages):
            recompute(run.model, self.stage.gradient_checkpointing)
        # A new optimizer for every stage: moments of parameters that learned differently would mislead.
        self.optimizer = optim.optimizer(run.model, self.stage.optimizer)
        # From where weights begin to move up to the next look nothing is cut off.
        self.optimizer.register_step_pre_hook(lambda *_: run.stop.hold())
        self.optimizer.register_step_post_hook(self._has_moved)
        with run.process_group.agreed():
            features.keep(
                run.model,
                run.processor,
                self.stage.kept(),
                run.folder,
                "bf16" if self.stage.bf16 and quick_bf16(run.device) else "",
                learns=True,
                writers=run.process_group.size,
                tell=run.tell,
                where=f"stages.{number}.feature_cache",
            )
            self.plan = plan(
                run.training,
                number,
                self.first,
                run.folder,
                run.processor,
                run.layout.data,
                self.state.get("data", {}).get("state"),
                run.tell,
                run.launch,
            )
            parts = self.stage.gradient_accumulation_steps
            self.proof = Proof(self.plan.batches, parts, self.first)
            words = self.stage.validate
            self.validation = (
                Validation(words, run, number, self.stage, self.state) if words else None
            )
        self._introduce()

    def _has_moved(self, *_: Any) -> None:
        self.moved = True

    def _introduce(self) -> None:
        """Look at the data before it is paid for, and say what will be done."""
        run, stage = self.run, self.stage
        with run.first_alone() as first:
            if first and self.first < self.plan.steps:
                for k, facts in enumerate(self.plan.look(self.number, stage)):
                    run.tell(f"stage {stage.name}: dataset {k + 1} has {facts.line()}")
                    for said in facts.faults:
                        run.tell(f"warning: {said} (omnimix check looks at all rows)")
                processor = self.plan.batches.processor
                for fault in style_faults(processor.recipe.template, processor.weave.tokenizer):
                    run.tell(f"warning: {fault}")
                if self.validation is not None:
                    run.tell(f"stage {stage.name}: validation has {self.validation.check().line()}")
                parts = ", ".join(
                    f"{part} {size:,}" for part, size in optim.sizes(run.model).items()
                )
                total = sum(p.numel() for p in run.model.parameters())
                rows = "rows" if isinstance(stage.packing, PackingSpec) else "records"
                run.tell(
                    f"stage {stage.name}: {self.learned:,} of {total:,} parameters learn ({parts}); "
                    f"steps {self.first + 1} to {self.plan.steps} of {stage.batch_size} {rows}"
                )
                if stage.bf16 and not quick_bf16(run.device):
                    run.tell("bf16 is slow on this device: trained in float32")
        self.left_out = LeftOut(
            self.number,
            self.plan.rows,
            stage.max_dropped,
            None if run.process_group.rank else run.out / DROPPED,
            run.dropped,
            run.tell,
            self.state.get("left_out"),
        )
        taught = self.state.get("taught", self.first > 0)
        self.idle = Idle(self.number, self.plan.rows, len(self.plan.sources), taught)

    def go(self) -> int | None:
        """All steps; returns the signal that stopped them, or None."""
        run = self.run
        # Over by a number that is no longer the one that counts, it goes on.
        if self.state.get("over") and not (self.validation and self.validation.anew):
            return None
        # Opening a loader draws a random number, so the random state is set after it.
        parts = loader(self.plan.batches, self._workers(), pin=run.device.type == "cuda")
        # Ranks drop out each for itself.
        torch.manual_seed(run.training.seed + self.number + APART * run.layout.data[0])
        if self.resumed is not None:
            with run.process_group.together():
                checkpoint.load_optimizer(
                    self.resumed, self.optimizer, run.model, run.process_group.rank
                )
        run.model.train()
        meter = Meter(self.number, self.stage, self.plan.steps, self.learned, self.before, run.note)
        step, held = self.first, self._held()
        try:
            for step in range(self.first, self.plan.steps):
                self.moved = False
                held = self._held()
                # Among ranks a run is interrupted here alone, so that all end behind the same step.
                run.stop.look()
                before = time.perf_counter()
                if self._between(step, meter):
                    break
                # What is done between two steps is no part of their pace.
                meter.began += time.perf_counter() - before
                self._step(step, parts, meter)
            else:
                step, self.moved, held = self.plan.steps, False, self._held()
                run.stop.look()
                self._between(step, meter)
        except (KeyboardInterrupt, DroppedError) as end:
            # The interrupted step is undone: what a forward alone moves (running statistics, random state) and
            # what was left out are put back; weights move in one call, behind which the step counts.
            if not self.moved:
                self._put_back(held)
            self._save(step + self.moved)
            if isinstance(end, DroppedError):
                raise
            return getattr(end, "signal", SIGINT)
        self.ends = step
        self.idle.end(self.steps)
        if step > self.first or self.resumed is None:
            self._save(step, over=step < self.plan.steps)
            run.tell(f"stage {self.stage.name} is done at step {step}, saved in {self.saved}")
        return None

    def _between(self, step: int, meter: Meter) -> bool:
        """What is to be done between two steps; returns whether the stage ends here."""
        run, looks = self.run, self.validation
        if looks is not None and looks.due(step, self.plan.steps):
            line, better = looks.look(step, self._autocast)
            run.note({**meter.head(step), **line})
            if better:
                with run.stop.held():
                    self._write(checkpoint.BEST, self._state(step))
            if looks.over() and step < self.plan.steps:
                run.tell(f"no better since step {looks.best.step}: stage {self.stage.name} ends")
                return True
        # Not at the step that was just resumed: its checkpoint is the one that was read. The last one is
        # saved when the stage is over.
        if self.first < step < self.plan.steps and step % self.stage.save_steps == 0:
            self._save(step)
        return False

    def _step(self, step: int, parts: Iterator[Read], meter: Meter) -> None:
        """One step, measured."""
        self.norms = {}
        before, read = time.perf_counter(), self.left_out.read
        batches = self._read(step, parts)
        meter.waited += time.perf_counter() - before
        done = self._moved_by(step, batches, meter.due(step))
        if done is None:
            empty = all(batch is None for batch in batches)
            why = "none of its records can be used" if empty else "no token of it is learned"
            self._warn("skipped", f"step {step + 1} was skipped: {why}")
        elif not done.touched:
            self._warn("idle", f"step {step + 1} taught nothing: no record of it uses what learns")
        elif float(done.loss) > GUESSING * self._guess():
            self._warn(
                "guess",
                f"the loss of step {step + 1} is {float(done.loss):.4g}, far above that of a guess "
                f"({self._guess():.3g}): optimizer.lr may be too high",
            )
        # A skipped step counts as well, so that records and rates stay where they are.
        self.moved = True
        self.steps += 1
        self.idle.take(done, self.left_out.read - read)
        meter.step(step, done, self.run.dropped.count, self.norms)
        if self.run.process_group.rank == 0:
            self.run.watcher.step(self.stage.name, step + 1, self.plan.steps)

    def _guess(self) -> float:
        return math.log(self.run.model.language.config.get_text_config().vocab_size)

    def _warn(self, kind: str, sentence: str) -> None:
        self.warned[kind] = self.warned.get(kind, 0) + 1
        if self.warned[kind] <= WARNED:
            more = "; further ones are not told" if self.warned[kind] == WARNED else ""
            self.run.tell(f"warning: {sentence}{more}")

    def _read(self, step: int, parts: Iterator[Read]) -> list[Batch | None]:
        """The micro-batches of a step; what was left out of them on all ranks is counted."""
        group = self.run.process_group
        batches: list[Batch | None] = []
        dropped: list[str] = []
        before = self.proof.at(step)
        # Reading fails on one rank alone (a damaged file); agreed, the others hear of it and do not wait.
        with group.agreed():
            for _ in range(self.stage.gradient_accumulation_steps):
                batch, left_out = next(parts)
                batches.append(batch)
                dropped += left_out
        self.proof.take(step, before, batches)
        own = len(dropped) + sum(len(batch.ids) for batch in batches if batch is not None)
        said = group.gather("dropped", (dropped, own) if self.run.layout.speaks else ([], 0))
        everywhere = [sentence for sentences, _ in said for sentence in sentences]
        self.left_out.take(everywhere, sum(read for _, read in said), step)
        return batches

    def _moved_by(self, step: int, batches: list[Batch | None], due: bool) -> Stepped | None:
        """One optimizer step; None where nothing can be learned from it."""
        run = self.run
        if not any(run.process_group.gather("some", any(b is not None for b in batches))):
            return None
        try:
            return optimizer_step(
                run.model,
                self.optimizer,
                self.stage,
                step,
                self.plan.horizon,
                batches,
                self._autocast,
                look=self._look if due else None,
                layout=run.layout,
            )
        except NothingLearned:
            return None

    def _look(self) -> None:
        self.norms = optim.norms(self.run.model)

    def _autocast(self) -> AbstractContextManager[Any]:
        device = self.run.device
        if self.stage.bf16 and quick_bf16(device):
            return torch.autocast(device.type, torch.bfloat16)
        return nullcontext()

    def _workers(self) -> int:
        workers = self.run.training.num_workers
        return os.cpu_count() or 1 if workers is None else workers

    def _held(self) -> Held:
        """What a step moves before the weights do: buffers, random states, and what is left out."""
        cuda = torch.cuda.get_rng_state() if self.run.device.type == "cuda" else None
        buffers = [b.clone() for b in self.run.model.buffers()]
        return Held(buffers, torch.get_rng_state(), cuda, self.left_out.stands())

    def _put_back(self, held: Held) -> None:
        buffers, cpu, cuda, left_out = held
        self.left_out.undo(left_out)
        for buffer, before in zip(self.run.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)

    def _weights(self) -> dict[str, Tensor]:
        return checkpoint.learnable(self.run.model, self.run.learned[self.number])

    def _state(self, step: int, over: bool = False) -> dict[str, Any]:
        run = self.run
        return {
            "stage": self.number,
            "step": step,
            "before": self.before,
            "over": over,
            "taught": self.idle.taught,
            "seed": run.training.seed,
            "dropped": run.dropped.count,
            "left_out": self.left_out.state(),
            "stands_on": {
                "initial_checkpoint": run.training.initial_checkpoint,
                "recipe": run.training.recipe,
                "weights": run.stands[self.number],
            },
            **(self.validation.state() if self.validation else {}),
        }

    def _save(self, step: int, over: bool = False) -> None:
        """Write a checkpoint; `over` where the stage ends before all its steps are taken."""
        run = self.run
        # Each rank resumes with its own random state.
        chance = run.process_group.gather("chance", checkpoint.chance())
        state = {**self._state(step, over), "data": self.proof.state(step, run.layout)}
        with run.stop.held():
            self.saved = self._write(checkpoint.name_of(state), state, chance)

    def _write(
        self, name: str, state: dict[str, Any], chance: Sequence[dict[str, Tensor]] = ()
    ) -> Path:
        """A checkpoint, or with no random state the weights alone; together where ranks hold parts."""
        run, weights = self.run, self._weights()
        if run.layout.sharded:
            kept = shards.entries(weights, self.optimizer if chance else None, run.model)
            group = run.process_group
            return checkpoint.save_together(run.out, name, kept, state, chance, group)
        if not chance:
            return checkpoint.save_best(run.out, weights, state)
        return checkpoint.save(run.out, weights, self.optimizer, state, chance)


def recompute(model: Any, on: bool) -> None:
    """Compute activations again in the backward pass instead of keeping them, in all parts that can."""
    for part in model.modules():
        # A second forward would move the running statistics of a batch norm twice.
        if part is model or any(isinstance(inner, _BatchNorm) for inner in part.modules()):
            continue
        if callable(timm := getattr(part, "set_grad_checkpointing", None)):
            timm(on)
        elif getattr(part, "supports_gradient_checkpointing", False):
            _transformers.recompute(part, on)
