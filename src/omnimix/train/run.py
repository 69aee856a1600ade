"""A training run: stages one after another, in a folder from which it goes on exactly where it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnimix import _transformers
from omnimix.checkpoints import runs
from omnimix.data.mixture import Dropped
from omnimix.data.rows import given
from omnimix.disk import whole_folder
from omnimix.errors import TrainError
from omnimix.parallel import process_group as process_groups
from omnimix.train import checkpoint, folder as folders, held, settings, shards, start
from omnimix.train.begun import DROPPED, METRICS, Begun
from omnimix.train.loop import Loop
from omnimix.train.plots import plot_losses
from omnimix.train.stopping import Stop
from omnimix.train.trackers import Tracking
from omnimix.train.watcher import Listener, Listening, Watcher, Watchers


@dataclass
class Result:
    """How a run ended.

    Attributes:
        folder: of the run.
        steps: that were taken.
        finished: whether all stages were; else it was stopped.
        dropped: records that could not be used.
        signal: what stopped it, 2 for Ctrl-C and 15 for SIGTERM.
        saved: the checkpoint that a stopped run goes on from.
    """

    folder: Path
    steps: int
    finished: bool
    dropped: Dropped = field(default_factory=Dropped)
    signal: int | None = None
    saved: Path | None = None


def train(
    path: str | Path,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool = True,
    listener: Listener | None = None,
    watcher: Watcher | None = None,
    allow_changes: bool = False,
    fall_back: bool = False,
    rows: Mapping[str, Any] | None = None,
) -> Result:
    """Run a training file.

    Args:
        path: the file, or the name of a shipped one.
        overrides: dotted `path=value` words.
        out: folder of the run; default the file's own word.
        resume: go on from the newest checkpoint in the folder; without it a used folder is refused.
        listener: called with every line of metrics.
        watcher: told everything that a person may want to know.
        allow_changes: go on in a folder whose run began with other words.
        fall_back: where the newest checkpoint is damaged, go on from the whole one before it.
        rows: datasets that are no files, by the name that the training file calls them with an `@` before it
            (`data: {path: "@mine"}`): a `Dataset`, an `IterableDataset` or a list of tables.

    Returns:
        Where the model lies. Ctrl-C and SIGTERM save a checkpoint and return with `finished` False.

    Raises:
        RecipeError, TrainError, SampleError: what, where, and the way out.
        Stopped: before there was anything to save.
    """
    training, folder = settings.load(path, overrides)
    process_group = process_groups.join()
    place = Path(out) if out is not None else folder / training.output_dir
    if not resume and runs.checkpoints(place):
        raise TrainError(
            "the folder holds checkpoints of an earlier run",
            where=str(place),
            hint="resume it, or name another folder with --out",
        )
    watching = Watchers(
        *([Listening(listener)] if listener else []), *([watcher] if watcher else [])
    )
    with Stop(process_group) as stop, given(rows or {}):
        try:
            with process_group.agreed():
                if training.trackers and process_group.rank == 0:
                    words = dict(folders.leaves(training.dump()))
                    watching.watchers.append(Tracking(training.trackers, place, words))
            run = Run(training, folder, place, watching, process_group, stop)
            return run.go(allow_changes, fall_back)
        finally:
            watching.close()


class Run(Begun):
    """All of it, from where the folder's newest checkpoint stands to the model."""

    def go(self, allow_changes: bool = False, fall_back: bool = False) -> Result:
        """All stages, from wherever the newest checkpoint stands."""
        with ExitStack() as holding:
            with self.first_alone() as first:
                if first:
                    holding.enter_context(folders.locked(self.out))
            return self._go(allow_changes, fall_back)

    def _go(self, allow_changes: bool, fall_back: bool) -> Result:
        done = self._newest(fall_back)
        at = checkpoint.state_of(done) if done else {"stage": 0, "step": 0}
        self._open(done, at, allow_changes)
        total, before = 0, at.get("before", 0)
        self.dropped.count = at.get("dropped", 0)
        for number in range(at["stage"], len(self.training.stages)):
            resumed = done if number == at["stage"] else None
            loop = Loop(self, number, resumed, before)
            stopped = loop.go()
            total, before = total + loop.steps, before + loop.ends
            if stopped is not None:
                return Result(self.out, total, False, self.dropped, stopped, loop.saved)
        self._finish()
        return Result(self.out, total, True, self.dropped)

    def _newest(self, fall_back: bool) -> Path | None:
        """The checkpoint to go on from, the same on all ranks: the first alone reads all of it."""
        found: list[Any] = [None, []]
        with self.first_alone() as first:
            if first:
                found = list(checkpoint.newest(self.out, fall_back))
        place, said = self.process_group.gather("checkpoint", found)[0]
        for sentence in said:
            self.tell(sentence)
        here: Path | None = place
        return here

    def _open(self, done: Path | None, at: dict[str, Any], allow_changes: bool) -> None:
        """Make the folder fit the checkpoint: its words are today's, its lines end where it stands."""
        with self.first_alone() as first:
            if not first:
                return
            recipe = self.model.recipe
            changed: list[str] = []
            if done is not None:
                try:
                    changed = folders.changes(self.out, self.training, recipe)
                except TrainError:
                    if not allow_changes:
                        raise
                if changed and not allow_changes:
                    raise folders.refuse(self.out, changed)
                self.tell(f"going on from {done.name}")
                for one in changed:
                    self.tell(f"changed: {one}")
            for name in (METRICS, DROPPED):
                folders.cut_back(self.out / name, at["stage"], at["step"])
            folders.write_words(
                self.out, self.training, recipe, self.device, done is not None, changed
            )

    def _finish(self) -> None:
        self.model.eval()
        place = self.out / "model"
        with self.stop.held():
            self._write_model(place)
            with self.first_alone() as first:
                if first:
                    plot_losses([self.out], self.out / "loss.png")
            self._write_best()
        if self.dropped.count:
            self.tell(f"{self.dropped.count} times a record was left out; dropped.jsonl names them")
        self.tell(f"the model lies in {place}")

    def _write_model(self, place: Path) -> None:
        """The model as a folder; of several ranks each brings what it holds."""
        model, words, first = self.model, self.training, self.process_group.rank == 0
        # Rounding is never saved: what learned beside the few bits is put on the weights as they were.
        quantized = words.quantization is not None and words.initial_checkpoint is not None
        together = self.layout.sharded and not quantized
        with self.process_group.together(), _transformers.quiet():
            learned = start.learned(model) if quantized else {}
            with whole_folder(place) if first else nullcontext(place) as draft:
                if first and quantized:
                    begun = start.opened(self.folder, str(words.initial_checkpoint))
                    model = start.made_whole(learned, begun, model.recipe)
                if not together:
                    held.release(model)
                if first:
                    model.save_pretrained(draft, **({"state_dict": {}} if together else {}))
                    self.processor.save_pretrained(draft)
                if together:
                    shards.write_model(model, draft if first else None)

    def _write_best(self) -> None:
        """The best weights of the last stage as a model of their own, where they are not the last."""
        best = self.out / checkpoint.BEST
        number = len(self.training.stages) - 1
        if self.training.stages[number].validate is None or not best.is_dir():
            return
        state = checkpoint.state_of(best)
        newest = checkpoint.state_of(runs.checkpoints(self.out)[-1])
        if (state["stage"], state["step"]) == (number, newest["step"]):
            self.tell("the last weights are the best that validation saw")
            return
        if state["stage"] == number:
            with self.process_group.together():
                checkpoint.load_learned(best, self.model, self.learned[number])
            self._write_model(self.out / "model-best")
            value = state["best"]["value"]
            self.tell(
                f"validation was best ({value:.4g}) behind step {state['step']}: "
                f"{self.out / 'model-best'}"
            )
