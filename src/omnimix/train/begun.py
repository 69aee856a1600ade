"""What a run has before its first step: words, model, processor, folder, and who watches."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from omnimix.checkpoints import pretrained
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.data.mixture import Dropped
from omnimix.disk import writing
from omnimix.errors import TrainError
from omnimix.language import forms
from omnimix.language.forms import Form
from omnimix.parallel.layout import lay
from omnimix.parallel.process_group import ProcessGroup
from omnimix.train import checkpoint, held, optim, start
from omnimix.train.ranks import fingerprint
from omnimix.train.settings import Training
from omnimix.train.step import quick_bf16
from omnimix.train.stopping import Stop, Stopped
from omnimix.train.watcher import Watcher

METRICS = "metrics.jsonl"
DROPPED = "dropped.jsonl"


def _check_forms(training: Training, recipe: Recipe) -> None:
    """Refuse batches that the language model would confuse, before anything is built."""
    for number, stage in enumerate(training.stages):
        apart = any(words.apart for words in stage.mixture)
        form: Form = "apart" if apart else "packed" if stage.packing else "right"
        forms.check(recipe.language, form, f"stages.{number}")


class Begun:
    """One training run in one process, alone or as one of several ranks."""

    def __init__(
        self,
        training: Training,
        folder: Path,
        out: Path,
        watcher: Watcher,
        process_group: ProcessGroup,
        stop: Stop,
    ) -> None:
        self.training = training
        self.folder = folder
        self.out = out
        self.watcher = watcher
        self.process_group = process_group
        self.stop = stop
        self.dropped = Dropped()
        with process_group.agreed():
            self._read()
        # Ranks that differ here would train on without an error, each towards another model.
        process_group.same("training files", training.dump())
        self.launch: int = process_group.tell(secrets.randbelow(1 << 31))
        self.layout = lay(training.parallel, process_group, self.device, self.processor.recipe)
        self._make()
        for line in pretrained.lines(self.filled):
            self.tell(line)

    def _make(self) -> None:
        """The model, distributed over the ranks."""
        words, group = self.training, self.process_group
        found = None
        with group.agreed():
            if self.layout.cuts:
                found = start.in_pieces(
                    words.initial_checkpoint, self.folder, self.processor.recipe
                )
        if found is not None:
            self.model, pieces = found
            group.same("starting weights", [(n, f.stat().st_size) for n, f in pieces.files.items()])
            with group.agreed():
                self._place()
                pieces.fill(self.model)
            self.filled = pretrained.all_filled(self.model, pieces.place.name)
            with group.together():
                self.stands = self._stands()
            return
        if self.layout.cuts:
            self.tell("each rank of a machine in turn makes the whole model and keeps its part")
        for mine in self.layout.turns():
            with group.agreed():
                if mine:
                    self._build()
        if group.size > 1:
            group.same("starting weights", self.fingerprint)

    def _read(self) -> None:
        recipe, recipe_folder = self.training.model(self.folder)
        _check_forms(self.training, recipe)
        # Of several ranks each has the GPU that `join` chose for it.
        cuda = torch.cuda.is_available()
        self.device = (
            torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        )
        self.processor = Processor.from_recipe(recipe, recipe_folder)

    def _build(self) -> None:
        training = self.training
        # The seed alone decides which weights are drawn, whatever happened in this process before.
        torch.manual_seed(training.seed)
        self.model, self.filled = start.begun(
            training.initial_checkpoint,
            self.folder,
            self.processor.recipe,
            self.device,
            training.quantization,
        )
        self.fingerprint = fingerprint(self.model)
        self._place(whole=True)

    def _stands(self) -> list[str]:
        """What each stage's checkpoints leave out, before anything has moved."""
        return [checkpoint.foundation(self.model, names) for names in self.learned]

    def _place(self, whole: bool = False) -> None:
        words = self.training
        self.learned = self._learned()
        for line in held.hold(self.model, self.learned[-1], words.quantization):
            self.tell(line)
        if whole:
            self.stands = self._stands()
        bf16 = all(stage.bf16 for stage in words.stages) and quick_bf16(self.device)
        # Who finds the features of its items kept does not call the encoder, for which others would wait.
        kept = any(stage.feature_cache for stage in words.stages)
        frozen = {n for n, _ in self.model.named_parameters()} - self.learned[-1]
        if self.layout.cuts:
            self._check_kept()
        self.layout.place(self.model, bf16, [n for n in frozen if kept and ".encoders." in n])
        # Weights in few bits were made on their device and cannot leave it; what is offloaded rests elsewhere.
        if words.quantization is None and words.parallel.offload is None:
            self.model.to(self.device)

    def _check_kept(self) -> None:
        """Refuse to keep features of encoders whose weights are cut, for they learn in another stage.

        Raises:
            TrainError: on every process alike.
        """
        learned = [n for n in self.learned[-1] if ".encoders." in n]
        for number, stage in enumerate(self.training.stages):
            words = stage.kept()
            if words is None:
                continue
            names = words.modalities or self.model.modalities
            for name in names:
                if any(n.startswith(f"{name}.") for n in learned):
                    raise TrainError(
                        f"features of {name!r} are kept whose encoder learns in another stage, so that its weights lie "
                        "over the processes, and who finds an item kept would not wait for the others",
                        where=f"stages.{number}.feature_cache",
                        hint="leave it out, take parallel: {shard: none}, or train the stages one after another",
                    )

    def _learned(self) -> list[set[str]]:
        """For each stage, what has learned by its end."""
        found: list[set[str]] = []
        for stage in self.training.stages:
            optim.check_patterns(self.model, stage.optimizer)
            names = optim.learning(self.model, stage.trainable)
            found.append(names | (found[-1] if found else set()))
        return found

    def tell(self, sentence: str) -> None:
        """Say something to who watches; the first rank alone does."""
        if self.process_group.rank == 0:
            self.watcher.tell(sentence)

    @contextmanager
    def first_alone(self) -> Iterator[bool]:
        """Around what one rank does for all: True on the first, and the others wait for it."""
        with self.process_group.agreed():
            yield self.process_group.rank == 0

    def note(self, line: dict[str, Any]) -> None:
        """Append a line of metrics and tell who watches; the first rank alone does."""
        if self.process_group.rank:
            return
        with writing(self.out / METRICS), (self.out / METRICS).open("a") as file:
            file.write(json.dumps(line) + "\n")
        try:
            self.watcher.metrics(line)
        except KeyboardInterrupt as pressed:
            # A listener is where most of a person's Ctrl-C land. The step is behind us: the next look ends it.
            self.stop.press(*([pressed.signal] if isinstance(pressed, Stopped) else []))
