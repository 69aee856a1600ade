"""Prismatic's cases: training runs step by step, through the ordinary training code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from omnimix import config
from omnimix.checkpoints import reading as files
from omnimix.compose.modality import Branch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.compose.sequence import Sequence
from omnimix.convert.report import Check, close, number, same
from omnimix.data.ordered import RoundBatches, Rounds
from omnimix.families.prismatic.folder import Prismatic
from omnimix.families.prismatic.names import parameter_names
from omnimix.train import optim
from omnimix.train.settings import Stage
from omnimix.train.step import Stepped, optimizer_step
from omnimix_golden.prismatic.batch import collated, pictured
from omnimix_golden.prismatic.case import PrismaticCase

LEARNS: dict[str, tuple[str, ...]] = {
    "align": ("image.branches.*.connector.*",),
    "finetune": ("image.branches.*.connector.*", "language.*"),
    "full-finetune": ("*",),
}
"""What each stage of the trainer learns, as patterns on our names."""


def learning(reading: PrismaticCase) -> Iterator[Check]:
    """Which parameters each stage learns."""
    model, processor = reading.loaded
    for stage, names in reading.expected("trainable_parameters_per_stage").items():
        optim.set_trainable(model, LEARNS[stage])
        found = {name for name, p in model.named_parameters() if p.requires_grad}
        wanted, unused = parameter_names(processor.recipe, names)
        _note(reading, unused)
        yield same("what learns", stage, sorted(found), sorted(wanted.values()))


def _note(reading: PrismaticCase, unused: dict[str, str]) -> None:
    if unused:
        reasons = "; ".join(sorted(set(unused.values())))
        reading.notes.append(
            f"{len(unused)} parameters that get no gradient are not built here: {reasons}"
        )


def stage_of(name: str, words: dict[str, Any], length: int, inputs: str) -> Stage:
    """The trainer's hyperparameters as a stage of ours."""
    align = name == "align"
    batch, part = int(words["global_batch_size"]), int(words["per_device_batch_size"])
    data = {"kind": "llava", "path": inputs, "marks": "loose"}
    stage: dict[str, Any] = {
        "name": name,
        "trainable": LEARNS[name],
        "mixture": [{"data": data}],
        "objective": {"kind": "sft", "average": "micro_batch"},
        "optimizer": {
            "lr": words["learning_rate"],
            "weight_decay": words["weight_decay"],
            "betas": [0.9, 0.999],
            "no_weight_decay": "vectors",
            "max_grad_norm": words["max_grad_norm"],
        },
        "schedule": {"warmup_ratio": words["warmup_ratio"], "zero_first": True},
        "order": "shuffled" if align else "by_modality",
        "template": "caption" if align else None,
        "max_length": length,
        "batch_size": batch,
        "gradient_accumulation_steps": batch // (part * int(words.get("world_size") or 1)),
        "bf16": False,
    }
    limit = words.get("max_steps")
    stage |= {"max_steps": int(limit)} if limit else {"num_train_epochs": int(words["epochs"])}
    stage = {word: value for word, value in stage.items() if value is not None}
    return config.validate(Stage, stage, f"training: {name}")


def runs(reading: PrismaticCase) -> Iterator[Check]:
    """Every run that the case describes."""
    for name, facts in reading.expected("training").items():
        yield from _Run(reading, name, facts).checks()


def _with_left(rounds: Rounds, count: int) -> tuple[list[list[int]], list[int]]:
    """The parts as a case counts them, and where the trained ones stand among them.

    What is left at the end of an epoch makes no step; the reference reads it all the same, so a case may
    list it between the parts of the epochs.
    """
    if count == len(rounds.parts):
        return rounds.parts, list(range(count))
    parts: list[list[int]] = []
    places: list[int] = []
    for i, part in enumerate(rounds.parts):
        parts += rounds.left.get(i, [])
        places.append(len(parts))
        parts.append(part)
    return parts + rounds.left.get(len(rounds.parts), []), places


class _Run:
    """One run of the trainer, repeated."""

    def __init__(self, reading: PrismaticCase, name: str, facts: dict[str, Any]) -> None:
        self.reading = reading
        self.name = name
        self.facts = facts
        self.file = f"expected_train_{name}"
        words = facts["hyperparameters"]
        records = "chat.json" if name == "align" else "instruct.json"
        self.stage = stage_of(name, words, reading.length, records)
        self.seed = int(words["seed"])
        self.case = reading.case
        self.recipe: Recipe = reading.loaded[1].recipe
        # For each number of each parameter the smallest gradient it got, and the rates in all.
        self.smallest: dict[str, Tensor] = {}
        self.places: list[int] = []
        self.moved = 0.0

    def checks(self) -> Iterator[Check]:
        model, processor = self._model()
        yield from self._start(model)
        optim.set_trainable(model, self.stage.trainable)
        optimizer = optim.optimizer(model, self.stage.optimizer)
        yield from self._optimizer(model, optimizer)
        if self.stage.template is not None:
            processor = processor.with_template(self.stage.template)
        source = self.stage.mixture[0].data.open(self.reading.inputs)
        stage = self.stage
        rounds = stage.rounds(source, self.seed)
        batches = RoundBatches(source, rounds, processor, max_length=stage.max_length)
        parts, self.places = _with_left(rounds, self.facts["n_micro_batches"])
        woven = [
            [
                processor.weave(source[row], max_length=stage.max_length, target=False)
                for row in part
            ]
            for part in parts
        ]
        yield same("batches", f"{self.name}: steps", rounds.steps, self.facts["steps_total"])
        yield same("batches", f"{self.name}: parts", len(parts), self.facts["n_micro_batches"])
        for i, rows in enumerate(woven):
            yield from self._batch(i, rows)
        yield from self._steps(model, optimizer, rounds, batches)

    def _model(self) -> tuple[MultimodalLM, Processor]:
        """As the trainer starts: base language model, stock encoders, the case's own random numbers."""
        layout = self.reading.runs.get(self.name, self.reading.last)
        release = Prismatic().begun(layout, self.reading.parts)
        init = {name: self._tensor(f"init/{name}") for name in self.case.names("init/", self.file)}
        extra, _ = files.native_tensors(release)
        for ours, theirs in (
            ("language.model.embed_tokens.weight", "new_rows/embed_tokens"),
            ("language.lm_head.weight", "new_rows/lm_head"),
            ("language.lm_head.bias", "new_rows/lm_head_bias"),
        ):
            rows = init.pop(theirs, None)
            if rows is not None:
                # The base is stored in half precision, the drawn rows are not.
                table = extra[ours].float()
                extra[ours] = torch.cat([table[: len(table) - len(rows)], rows])
        known, _ = parameter_names(self.recipe, init)
        for theirs, name in known.items():
            extra[name] = init[theirs]
        model, processor, _ = files.load(release, extra={k: v.clone() for k, v in extra.items()})
        return model.train(), processor

    def _tensor(self, name: str) -> Tensor:
        found = self.case.get(name, self.file)
        assert found is not None
        return found

    def _start(self, model: MultimodalLM) -> Iterator[Check]:
        """The projector before the first step: that of the align run, else drawn from the seed."""
        align = self.reading.runs.get("align")
        arch = self.reading.last.section["arch_specifier"]
        stored: dict[str, Tensor] = {}
        if self.name != "align" and align is not None and not arch.startswith("no-align"):
            keys = files.tensors_of(align.files[0])
            stored = {key.removeprefix("model.projector."): t for key, t in keys.items()}
        else:
            branch = self.recipe.modalities["image"].branches[0]
            built = model.modality("image").branches[0]
            assert isinstance(built, Branch)
            width = int(self.recipe.language.hf_config().get_text_config().hidden_size)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(built.width)
                fresh = branch.connector.build(1, built.width, width)
            # The reference holds a linear projector as the layer itself, ours is a sequence of one.
            alone = branch.connector.kind == "linear"
            stored = {
                f"projector.{key.removeprefix('0.') if alone else key}": t
                for key, t in fresh.state_dict().items()
            }
        tolerance = self.case.tolerance("training_parameters", "gradients")
        for name in self.case.names("init/projector.", self.file):
            expected = self._tensor(f"init/projector.{name}")
            found = stored.get(name)
            yield close("start", f"{self.name}: projector.{name}", found, expected, tolerance)

    def _optimizer(self, model: MultimodalLM, optimizer: torch.optim.Optimizer) -> Iterator[Check]:
        """Groups with their decay, AdamW's own numbers, and the rate before the first step."""
        names = {id(p): name for name, p in model.named_parameters()}
        found = {
            name: group["weight_decay"]
            for group in optimizer.param_groups
            for name in (names[id(p)] for p in group["params"])
        }
        wanted: dict[str, float] = {}
        for group in self.facts["param_groups"]:
            ours, unused = parameter_names(self.recipe, group["names"])
            _note(self.reading, unused)
            wanted |= dict.fromkeys(ours.values(), group["weight_decay"])
        yield same("groups", self.name, sorted(found.items()), sorted(wanted.items()))
        numbers = self.facts.get("adamw") or {}
        group = optimizer.param_groups[0]
        if "betas" in numbers:
            yield same("groups", f"{self.name}: betas", list(group["betas"]), numbers["betas"])
        if "eps" in numbers:
            yield same("groups", f"{self.name}: eps", group["eps"], numbers["eps"])
        for rate in self.facts.get("lr_right_after_setup") or []:
            first = optim.rate(0, self.facts["steps_total"], 1.0, self.stage.schedule)
            yield number("rates", f"{self.name}: first", first, rate, 0.0)

    def _batch(self, i: int, rows: list[Sequence]) -> Iterator[Check]:
        facts = self.facts["micro_batches"][i]
        what = f"{self.name}: part {i}"
        yield same("batches", f"{what} rows", len(rows), facts["rows"])
        yield same("batches", f"{what} pictures", pictured(rows), facts["multimodal_rows"])
        yield from collated(self.reading, rows, self.file, f"micro{i}")

    def _steps(
        self,
        model: MultimodalLM,
        optimizer: torch.optim.Optimizer,
        rounds: Rounds,
        batches: RoundBatches,
    ) -> Iterator[Check]:
        parameters = dict(model.named_parameters())
        start = {name: p.detach().clone() for name, p in parameters.items()}
        for step, facts in enumerate(self.facts["steps"][: rounds.steps]):
            grads: dict[str, Tensor] = {}

            def look(grads: dict[str, Tensor] = grads) -> None:
                grads |= {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}

            at = range(step * rounds.accumulate, (step + 1) * rounds.accumulate)
            given = [batches[i][0] for i in at]
            done = optimizer_step(
                model, optimizer, self.stage, step, rounds.horizon, given, look=look
            )
            self._remember(grads, done.rate)
            yield from self._step(step, facts, done, [self.places[i] for i in at])
            yield from self._gradients(step, facts, grads)
            yield from self._weights(step, facts, parameters, start)
        yield from self._final(parameters)

    def _remember(self, grads: dict[str, Tensor], rate: float) -> None:
        self.moved += rate
        for name, grad in grads.items():
            size = grad.abs()
            size[size == 0] = float("inf")
            before = self.smallest.get(name)
            self.smallest[name] = size if before is None else torch.minimum(before, size)

    def _carried(self, name: str) -> Tensor | float:
        """How far Adam may carry the gradients' own tolerance.

        It divides a gradient by its size, so a number whose gradient is smaller than the tolerance moves
        by the whole rate in a direction that rounding decides.
        """
        smallest = self.smallest.get(name)
        if smallest is None:
            return 0.0
        return self.moved * (self.case.tolerance("gradients") / smallest).clamp(max=1.0)

    def _step(
        self, step: int, facts: dict[str, Any], done: Stepped, at: list[int]
    ) -> Iterator[Check]:
        case, what = self.case, f"{self.name}: step {step + 1}"
        yield number("rates", what, done.rate, facts["lr_used"], 1e-12)
        yield same("batches", f"{what} parts", at, facts["micro_batches"])
        tolerance = case.tolerance("training_loss", "loss")
        for i, loss in zip(at, done.parts, strict=True):
            expected = self.facts["micro_batches"][i]["loss"]
            yield number("losses", f"{what} part {i}", float(loss), expected, tolerance)
        norm = case.tolerance("training_grad_norm", "gradients")
        yield number("gradient norms", what, float(done.norm), facts["grad_norm_before_clip"], norm)

    def _gradients(
        self, step: int, facts: dict[str, Any], grads: dict[str, Tensor]
    ) -> Iterator[Check]:
        norm = self.case.tolerance("training_grad_norm", "gradients")
        known, _ = parameter_names(self.recipe, facts.get("grad_norms") or {})
        for theirs, ours in known.items():
            found = float(grads[ours].norm()) if ours in grads else float("nan")
            what = f"{self.name}: step {step + 1} {theirs}"
            yield number("gradient norms", what, found, facts["grad_norms"][theirs], norm)
        extra = {name for name in grads if name not in known.values()}
        if facts.get("grad_norms"):
            yield same("gradient norms", f"{self.name}: step {step + 1} others", sorted(extra), [])
        stored = list(self.case.names(f"step{step + 1}/grad/", self.file))
        known, _ = parameter_names(self.recipe, stored)
        tolerance = self.case.tolerance("gradients")
        for name in stored:
            expected = self._tensor(f"step{step + 1}/grad/{name}")
            found_grad = grads.get(known.get(name, ""))
            what = f"{self.name}: step {step + 1} {name}"
            yield close("training gradients", what, found_grad, expected, tolerance)

    def _weights(
        self,
        step: int,
        facts: dict[str, Any],
        parameters: dict[str, torch.nn.Parameter],
        start: dict[str, Tensor],
    ) -> Iterator[Check]:
        norm = self.case.tolerance("training_grad_norm", "training_parameters")
        for word in ("param_norms_after", "param_delta_from_start_norms"):
            known, _ = parameter_names(self.recipe, facts.get(word) or {})
            for theirs, ours in known.items():
                now = parameters[ours].detach()
                now = now - start[ours] if "delta" in word else now
                what = f"{self.name}: step {step + 1} {word} {theirs}"
                yield number("weights", what, float(now.norm()), facts[word][theirs], norm)
        if step + 1 == self.facts.get("first_update_step"):
            yield from self._stored("first_update/", parameters)

    def _stored(self, prefix: str, parameters: dict[str, torch.nn.Parameter]) -> Iterator[Check]:
        names = list(self.case.names(prefix, self.file))
        known, _ = parameter_names(self.recipe, names)
        tolerance = self.case.tolerance("training_parameters", "gradients")
        for name in names:
            found = parameters[known[name]] if name in known else None
            what = f"{self.name}: {prefix}{name}"
            yield close("weights", what, found, self._tensor(f"{prefix}{name}"), tolerance)

    def _final(self, parameters: dict[str, torch.nn.Parameter]) -> Iterator[Check]:
        """The weights at the end: those among the tensors, and the run's own checkpoint."""
        yield from self._stored("final/", parameters)
        layout = self.reading.runs.get(self.name)
        if layout is None:
            return
        tolerance = self.case.tolerance("training_parameters", "gradients")
        stored = files.tensors_of(layout.files[0])
        names = {key.removeprefix("model."): key for key in stored}
        known, _ = parameter_names(self.recipe, names)
        for theirs, ours in known.items():
            expected = stored[names[theirs]]
            what = f"{self.name}: checkpoint {theirs}"
            now = parameters[ours].detach()
            if now.shape == expected.shape:
                apart = now - expected
                now = expected + apart.sign() * (apart.abs() - self._carried(ours)).clamp(min=0)
            yield close("weights", what, now, expected, tolerance)
