"""The one loop: stages over mixtures, checkpoints that resume exactly, metrics a person can look at."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnimix import config
from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.data.mixture import Batches, Dropped, Mixture, loader
from omnimix.data.ordered import RoundBatches
from omnimix.errors import TrainError
from omnimix.train import checkpoint, optim, settings
from omnimix.train.records import describe_run, plot_losses
from omnimix.train.settings import Stage, Training
from omnimix.train.step import Stepped, optimizer_step

Listener = Callable[[dict[str, Any]], None]
"""Called with every line of metrics: stage, step, steps, loss, rate, norm, samples_per_second, ..."""


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
    place = Path(out) if out is not None else folder / training.out
    if not resume and checkpoint.checkpoints(place):
        raise TrainError(
            "the folder holds checkpoints of an earlier run",
            where=str(place),
            hint="resume it, or name another folder with --out",
        )
    return Run(training, folder, place, listener).run()


class Run:
    """The state of one training run in one process."""

    def __init__(
        self, training: Training, folder: Path, out: Path, listener: Listener | None
    ) -> None:
        self.training = training
        self.folder = folder
        self.out = out
        self.listener = listener
        self.dropped = Dropped()
        if training.start is not None:
            checkpoint.check_start(folder / training.start)
        recipe, recipe_folder = training.model(folder)
        torch.manual_seed(training.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.processor = Processor.from_recipe(recipe, recipe_folder)
        if training.start is None:
            self.model = MultimodalLM.from_recipe(recipe, start=True)
        else:
            self.model = checkpoint.started(folder / training.start, recipe)
        self.model.to(self.device)

    def run(self) -> Result:
        """All stages, from wherever the newest checkpoint stands."""
        self.out.mkdir(parents=True, exist_ok=True)
        done = checkpoint.checkpoints(self.out)
        at = checkpoint.state_of(done[-1]) if done else {"stage": 0, "step": 0}
        self._write_run(resumed=bool(done))
        total = 0
        for number, stage in enumerate(self.training.stages):
            if number < at["stage"]:
                continue
            resumed = done[-1] if done and number == at["stage"] else None
            first = at["step"] if resumed else 0
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
            checkpoint.load_weights(resumed, self.model)
        learned = optim.set_learning(self.model, stage.learns)
        optimizer = optim.adamw(self.model, stage.optimizer)
        # Opening a loader draws a random number, so the random state is set after it.
        plan = self._plan(number, stage, first)
        parts = loader(plan.batches, self._workers(), pin=self.device.type == "cuda")
        if resumed is not None:
            checkpoint.load_optimizer(resumed, optimizer)
        else:
            torch.manual_seed(self.training.seed + number)
        self.model.train()
        meter = _Meter(self, number, stage, plan.steps, learned)
        step = first
        held = self._held()
        try:
            for step in range(first, plan.steps):
                held = self._held()
                if step and step > first and step % stage.save_every == 0:
                    self._save(optimizer, number, step)
                meter.step(step, self._step(stage, step, plan.horizon, parts, optimizer))
            step = plan.steps
        except KeyboardInterrupt:
            # The interrupted step is undone: the optimizer moves weights in one call, and what a
            # forward alone moves (running statistics, random state) is put back.
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
        workers = self.training.workers
        return os.cpu_count() or 1 if workers is None else workers

    def _plan(self, number: int, stage: Stage, first: int) -> _Plan:
        size, rest = divmod(stage.batch, stage.accumulate)
        if rest or not size:
            raise TrainError(
                f"a batch of {stage.batch} cannot be cut into {stage.accumulate} equal parts",
                where=f"stages.{number}",
                hint="make batch a multiple of accumulate",
            )
        processor = self.processor
        if stage.template is not None:
            processor = processor.with_template(stage.template)
        if stage.order == "mixture":
            assert stage.steps is not None
            mixture = Mixture(stage.mixture, self.folder, self.training.seed + number)
            count = (stage.steps - first) * stage.accumulate
            done = first * stage.accumulate
            batches = Batches(mixture, processor, size, done, count, stage.pack, stage.cut)
            return _Plan(batches, stage.steps, stage.steps)
        source = stage.mixture[0].data.open(self.folder)
        rounds = stage.rounds(source, self.training.seed)
        ordered = RoundBatches(
            source, rounds, processor, first * stage.accumulate, stage.pack, stage.cut
        )
        return _Plan(ordered, rounds.steps, rounds.horizon)

    def _step(
        self,
        stage: Stage,
        step: int,
        horizon: int,
        parts: Iterator[tuple[Batch, list[str]]],
        optimizer: torch.optim.Optimizer,
    ) -> Stepped:
        """One optimizer step on the next parts."""
        batches: list[Batch] = []
        for _ in range(stage.accumulate):
            batch, dropped = next(parts)
            batches.append(batch)
            self.dropped.count += len(dropped)
            self.dropped.first += dropped[: max(0, 5 - len(self.dropped.first))]
        return optimizer_step(
            self.model, optimizer, stage, step, horizon, batches, lambda: self._autocast(stage)
        )

    def _autocast(self, stage: Stage) -> AbstractContextManager[Any]:
        if stage.precision == "bf16" and quick_bf16(self.device):
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _save(self, optimizer: torch.optim.Optimizer, number: int, step: int) -> None:
        state = {"stage": number, "step": step, "seed": self.training.seed}
        checkpoint.save(self.out, self.model, optimizer, state)

    def _write_run(self, resumed: bool) -> None:
        (self.out / "training.yaml").write_text(config.to_yaml(self.training.dump()))
        with (self.out / "run.jsonl").open("a") as file:
            file.write(json.dumps(describe_run(self.training.seed, self.device, resumed)) + "\n")

    def _finish(self) -> None:
        self.model.eval()
        self.model.save_pretrained(self.out / "model")
        self.processor.save_pretrained(self.out / "model")
        plot_losses(self.out / "metrics.jsonl", self.out / "loss.png")

    def note(self, line: dict[str, Any]) -> None:
        """Append a line of metrics and tell the listener."""
        with (self.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.listener is not None:
            self.listener(line)


@dataclass(frozen=True)
class _Plan:
    """What a stage reads, the steps it takes, and the steps that its rates are planned for."""

    batches: Batches
    steps: int
    horizon: int


class _Meter:
    """Collects steps and writes a line of metrics every `log_every` of them."""

    def __init__(self, run: Run, number: int, stage: Stage, steps: int, learned: int) -> None:
        self.run = run
        self.stage = stage
        self.steps = steps
        self.head = {"stage": number, "name": stage.name, "steps": steps, "learns": learned}
        self.began = time.perf_counter()
        self.losses: list[Tensor] = []
        self.samples = 0
        self.targets = 0

    def step(self, step: int, done: Stepped) -> None:
        self.losses.append(done.loss)
        self.samples += done.samples
        self.targets += done.targets
        last = step + 1 == self.steps
        if (step + 1) % self.stage.log_every and not last:
            return
        mean = float(torch.stack(self.losses).mean())
        if mean != mean:
            raise TrainError(
                f"the loss of step {step + 1} is not a number",
                where=str(self.run.out),
                hint="lower optimizer.rate, or resume from the last checkpoint with another one",
            )
        seconds = time.perf_counter() - self.began
        self.run.note(
            {
                **self.head,
                "step": step + 1,
                "loss": round(mean, 5),
                "rate": done.rate,
                "norm": round(float(done.norm), 4),
                "samples": self.samples,
                "targets": self.targets,
                "seconds": round(seconds, 3),
                "samples_per_second": round(self.samples / seconds, 2),
                "dropped": self.run.dropped.count,
            }
        )
        self.began = time.perf_counter()
        self.losses = []
        self.samples = self.targets = 0


def quick_bf16(device: torch.device) -> bool:
    """Whether bf16 is quicker than fp32 there: CUDA from Ampere on, CPUs with AMX or AVX512-BF16.

    Elsewhere it is emulated: on a CPU with AVX2 alone a training step took twenty times as long.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in checks)
