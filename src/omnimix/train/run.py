"""The one loop: stages over mixtures, checkpoints that resume exactly, metrics a person can look at."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnimix import config
from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.data.mixture import NO_RECORD, Batches, Dropped, Mixture, Read, loader
from omnimix.data.ordered import RoundBatches
from omnimix.errors import SampleError, TrainError
from omnimix.language import forms
from omnimix.language.forms import Form
from omnimix.parallel import process_group as process_groups
from omnimix.parallel.process_group import ProcessGroup
from omnimix.train import checkpoint, optim, settings, start
from omnimix.train.meter import Meter
from omnimix.train.ranks import Stop, fingerprint
from omnimix.train.records import describe_run, plot_losses
from omnimix.train.settings import Stage, Training
from omnimix.train.step import Stepped, optimizer_step, quick_bf16

Listener = Callable[[dict[str, Any]], None]
"""Called with every line of metrics: stage, step, steps, loss, rate, norm, samples_per_second, ..."""


APART = 7919
"""Between the random seeds of two ranks."""


@dataclass
class Result:
    """How a run ended."""

    folder: Path
    steps: int
    finished: bool
    dropped: Dropped = field(default_factory=Dropped)


def train(
    path: str | Path,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool = True,
    listener: Listener | None = None,
) -> Result:
    """Run a training file.

    Args:
        path: the file, or the name of a shipped one.
        overrides: dotted `path=value` words.
        out: folder of the run; default the file's own word.
        resume: go on from the newest checkpoint in the folder; without it a used folder is refused.
        listener: called with every line of metrics.

    Returns:
        Where the model lies. Ctrl-C saves a checkpoint and returns with `finished` False.

    Raises:
        RecipeError, TrainError, SampleError: what, where, and the way out.
    """
    training, folder = settings.load(path, overrides)
    process_group = process_groups.join()
    place = Path(out) if out is not None else folder / training.output_dir
    if not resume and checkpoint.checkpoints(place):
        raise TrainError(
            "the folder holds checkpoints of an earlier run",
            where=str(place),
            hint="resume it, or name another folder with --out",
        )
    return Run(training, folder, place, listener, process_group).run()


def _check_forms(training: Training, recipe: Recipe) -> None:
    """Refuse batches that the language model would confuse, before anything is built."""
    for number, stage in enumerate(training.stages):
        apart = any(words.apart for words in stage.mixture)
        form: Form = "apart" if apart else "packed" if stage.packing else "right"
        forms.check(recipe.language, form, f"stages.{number}")


class Run:
    """The state of one training run in one process, alone or as one of several ranks."""

    def __init__(
        self,
        training: Training,
        folder: Path,
        out: Path,
        listener: Listener | None,
        process_group: ProcessGroup,
    ) -> None:
        self.process_group = process_group
        self.stop = Stop(process_group)
        with process_group.agreed():
            self._build(training, folder, out, listener)
        # Ranks that differ here would train on without an error, each towards another model.
        process_group.same("training files", training.dump())
        if process_group.size > 1:
            process_group.same("starting weights", fingerprint(self.model))

    def _build(
        self, training: Training, folder: Path, out: Path, listener: Listener | None
    ) -> None:
        self.training = training
        self.folder = folder
        self.out = out
        self.listener = listener
        self.dropped = Dropped()
        if training.initial_checkpoint is not None:
            start.check_start(start.find(folder, training.initial_checkpoint))
        recipe, recipe_folder = training.model(folder)
        _check_forms(training, recipe)
        # The seed alone decides which weights are drawn, whatever happened in this process before.
        torch.manual_seed(training.seed)
        # Of several ranks each has the GPU that `join` chose for it.
        cuda = torch.cuda.is_available()
        self.device = (
            torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        )
        self.processor = Processor.from_recipe(recipe, recipe_folder)
        self.model = self._begun(recipe)
        # Weights in few bits were made on their device and cannot leave it.
        if training.quantization is None:
            self.model.to(self.device)

    def _begun(self, recipe: Recipe) -> MultimodalLM:
        words = self.training
        if words.initial_checkpoint is None:
            return MultimodalLM.from_recipe(recipe, start=True)
        place = start.find(self.folder, words.initial_checkpoint)
        if words.quantization is None:
            return start.started(place, recipe)
        return start.quantized(place, recipe, words.quantization, self.device)

    def run(self) -> Result:
        """All stages, from wherever the newest checkpoint stands."""
        with self.stop:
            return self._run()

    def _run(self) -> Result:
        with self.process_group.agreed():
            self.out.mkdir(parents=True, exist_ok=True)
        done = checkpoint.checkpoints(self.out)
        self.process_group.same("checkpoints in the run's folder", [path.name for path in done])
        at = checkpoint.state_of(done[-1]) if done else {"stage": 0, "step": 0}
        self._write_run(resumed=bool(done))
        total = 0
        for number, stage in enumerate(self.training.stages):
            if number < at["stage"]:
                continue
            resumed = done[-1] if done and number == at["stage"] else None
            first = at["step"] if resumed else 0
            # Checkpoints of an earlier stage are behind us: what it learned is in the model by now.
            if number > at["stage"] and done and first == 0:
                done = []
            finished, steps = self._stage(number, stage, first, resumed)
            total += steps
            if not finished:
                return Result(self.out, total, False, self.dropped)
        self._finish()
        return Result(self.out, total, True, self.dropped)

    def _stage(
        self, number: int, stage: Stage, first: int, resumed: Path | None
    ) -> tuple[bool, int]:
        """One stage; returns whether it was finished and how many steps ran."""
        if resumed is not None:
            with self.process_group.agreed():
                checkpoint.load_weights(resumed, self.model)
        learned = optim.set_trainable(self.model, stage.trainable)
        # A new optimizer for every stage: moments of parameters that learned differently would mislead.
        optimizer = optim.adamw(self.model, stage.optimizer)
        # Opening a loader draws a random number, so the random state is set after it.
        plan = self._plan(number, stage, first)
        parts = loader(plan.batches, self._workers(), pin=self.device.type == "cuda")
        # Ranks drop out each for itself.
        torch.manual_seed(self.training.seed + number + APART * self.process_group.rank)
        if resumed is not None:
            checkpoint.load_optimizer(resumed, optimizer, self.process_group.rank)
        self.model.train()
        meter = Meter(number, stage, plan.steps, learned, self.out, self.note)
        step = first
        held = self._held()
        try:
            for step in range(first, plan.steps):
                held = self._held()
                # Among ranks a run is interrupted here alone, so that all end behind the same step.
                self.stop.look()
                # Not at the step that was just resumed: its checkpoint is the one that was read.
                if step and step > first and step % stage.save_steps == 0:
                    self._save(optimizer, number, step)
                done = self._step(stage, step, plan.horizon, parts, optimizer)
                meter.step(step, done, self.dropped.count)
            step = plan.steps
        except KeyboardInterrupt:
            # The interrupted step is undone: the optimizer moves weights in one call, and what a
            # forward alone moves (running statistics, random state) is put back.
            # The interrupt may have come behind that call, so the optimizer's own count decides.
            whole = self._whole_steps(optimizer, first)
            if whole <= step:
                self._put_back(held)
            self._save(optimizer, number, whole)
            return False, step - first
        self._save(optimizer, number, step)
        return True, step - first

    def _held(self) -> tuple[list[Tensor], Tensor, Tensor | None]:
        """What a forward moves: buffers and random states."""
        cuda = torch.cuda.get_rng_state() if self.device.type == "cuda" else None
        return [b.clone() for b in self.model.buffers()], torch.get_rng_state(), cuda

    def _put_back(self, held: tuple[list[Tensor], Tensor, Tensor | None]) -> None:
        buffers, cpu, cuda = held
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)

    def _whole_steps(self, optimizer: torch.optim.Optimizer, first: int) -> int:
        """Steps that the optimizer has taken in this stage, as it counts them itself."""
        steps = [int(state["step"]) for state in optimizer.state.values() if "step" in state]
        return max(steps, default=first)

    def _workers(self) -> int:
        workers = self.training.num_workers
        return os.cpu_count() or 1 if workers is None else workers

    def _plan(self, number: int, stage: Stage, first: int) -> _Plan:
        size, rest = divmod(stage.batch_size, stage.gradient_accumulation_steps)
        if rest or not size:
            raise TrainError(
                f"a batch_size of {stage.batch_size} cannot be cut into "
                f"{stage.gradient_accumulation_steps} equal micro-batches",
                where=f"stages.{number}",
                hint="make batch_size a multiple of gradient_accumulation_steps",
            )
        processor = self.processor
        if stage.template is not None:
            processor = processor.with_template(stage.template)
        rank, world = self.process_group.rank, self.process_group.size
        if size < world:
            raise TrainError(
                f"{size} records at a time cannot be shared by {world} processes",
                where=f"stages.{number}",
                hint="make batch_size larger or gradient_accumulation_steps smaller",
            )
        share = (rank, world)
        if stage.order == "mixture":
            assert stage.max_steps is not None
            mixture = Mixture(stage.mixture, self.folder, self.training.seed + number)
            count = (stage.max_steps - first) * stage.gradient_accumulation_steps
            done = first * stage.gradient_accumulation_steps
            batches = Batches(
                mixture, processor, size, done, count, stage.packing, stage.max_length, share
            )
            return _Plan(batches, stage.max_steps, stage.max_steps)
        source = stage.mixture[0].data.open(self.folder)
        rounds = stage.rounds(source, self.training.seed)
        ordered = RoundBatches(
            source,
            rounds,
            processor,
            first * stage.gradient_accumulation_steps,
            stage.packing,
            stage.max_length,
            share,
        )
        return _Plan(ordered, rounds.steps, rounds.horizon)

    def _step(
        self,
        stage: Stage,
        step: int,
        horizon: int,
        parts: Iterator[Read],
        optimizer: torch.optim.Optimizer,
    ) -> Stepped:
        """One optimizer step on the next parts."""
        batches: list[Batch | None] = []
        dropped: list[str] = []
        # Reading fails on one rank alone (a damaged file); agreed, the others hear of it and do not wait.
        with self.process_group.agreed():
            for _ in range(stage.gradient_accumulation_steps):
                batch, left_out = next(parts)
                batches.append(batch)
                dropped += left_out
        self._drop(dropped, any(batch is not None for batch in batches))
        return optimizer_step(
            self.model,
            optimizer,
            stage,
            step,
            horizon,
            batches,
            lambda: self._autocast(stage),
            process_group=self.process_group,
        )

    def _drop(self, dropped: list[str], some: bool) -> None:
        """Count what was left out on all ranks.

        Raises:
            SampleError: no rank has a record that can be used.
        """
        said = self.process_group.gather("dropped", (dropped, some))
        for sentences, _ in said:
            self.dropped.count += len(sentences)
            self.dropped.first += sentences[: max(0, 5 - len(self.dropped.first))]
        if not any(some for _, some in said):
            raise SampleError(f"{NO_RECORD}; the first says: {self.dropped.first[0]}")

    def _autocast(self, stage: Stage) -> AbstractContextManager[Any]:
        if stage.bf16 and quick_bf16(self.device):
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _save(self, optimizer: torch.optim.Optimizer, number: int, step: int) -> None:
        state = {"stage": number, "step": step, "seed": self.training.seed}
        # Weights are the same on all ranks, random states are not: each rank resumes with its own.
        chance = self.process_group.gather("chance", checkpoint.chance())
        with self._first_alone() as first:
            if first:
                checkpoint.save(self.out, self.model, optimizer, state, chance)

    @contextmanager
    def _first_alone(self) -> Iterator[bool]:
        """Around what one rank does for all: True on the first, and the others wait for it."""
        with self.process_group.agreed():
            yield self.process_group.rank == 0

    def _write_run(self, resumed: bool) -> None:
        if self.process_group.rank:
            return
        (self.out / "training.yaml").write_text(config.to_yaml(self.training.dump(defaults=True)))
        with (self.out / "run.jsonl").open("a") as file:
            file.write(json.dumps(describe_run(self.training.seed, self.device, resumed)) + "\n")

    def _finish(self) -> None:
        self.model.eval()
        with self._first_alone() as first:
            if first:
                model, words = self.model, self.training
                # Rounding is never saved: what learned beside the few bits is put on the weights as they were.
                if words.quantization is not None and words.initial_checkpoint is not None:
                    place = start.find(self.folder, words.initial_checkpoint)
                    model = start.made_whole(model, place, model.recipe)
                model.save_pretrained(self.out / "model")
                self.processor.save_pretrained(self.out / "model")
                plot_losses(self.out / "metrics.jsonl", self.out / "loss.png")

    def note(self, line: dict[str, Any]) -> None:
        """Append a line of metrics and tell the listener; the first rank alone does."""
        if self.process_group.rank:
            return
        with (self.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.listener is None:
            return
        try:
            self.listener(line)
        except KeyboardInterrupt:
            # The listener is where most of a person's Ctrl-C land. Alone it ends this step; among ranks it waits
            # for the next look, since the others are behind the step already.
            if self.process_group.size == 1:
                raise
            self.stop.press()


@dataclass(frozen=True)
class _Plan:
    """What a stage reads, the steps it takes, and the steps that its rates are planned for."""

    batches: Batches
    steps: int
    horizon: int
