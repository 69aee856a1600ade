"""multi_token's cases: both training stages, by the ordinary training code."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.sequence import IGNORE, Sequence
from omnimix.convert.report import Check, close, number, same
from omnimix.train import optim, settings
from omnimix.train.settings import ScheduleSpec, Stage
from omnimix.train.step import optimizer_step
from omnimix_golden.multi_token.case import PREFIX, MultiTokenCase
from omnimix_golden.multi_token.model import prepared
from omnimix_golden.rows import stacked

FILE = "multi_token.train.yaml"

ADAPTERS = {"pretrain": "none", "finetune": "keep"}
"""What each stage's golden starts from: an adapter that has learned nothing yet changes nothing, so that
`pretrain` is the base model; `finetune` has the checkpoint's adapter beside the weights."""

_AFTER = re.compile(r"loss_after_one_adamw_step_lr([\d.e+-]+)_clip([\d.]+)")


def stages(reading: MultiTokenCase) -> Iterator[Check]:
    """The training rows, then one step of each stage."""
    woven = list(_woven(reading))
    yield from _rows(reading, woven)
    batch = reading.loaded()[1].batch(woven)
    for name, facts in reading.case.facts["training"].items():
        if name in ADAPTERS:
            yield from _Step(reading, name, facts, batch).checks()


def _woven(reading: MultiTokenCase) -> Iterator[Sequence]:
    """The rows of the golden batch, in its order: each is told by its ids, which the case holds."""
    _, processor = reading.loaded()
    ids, mask = reading.case.get("train.input_ids"), reading.case.get("train.attention_mask")
    rows = [processor.weave(reading.sample(row, f"row {i}")) for i, row in enumerate(reading.rows)]
    if ids is None:
        yield from rows[:2]
        return
    left = list(range(len(rows)))
    for place, wanted in enumerate(ids.tolist()):
        if mask is not None:
            wanted = wanted[: int(mask[place].nonzero().max()) + 1]
        same_ids = [i for i in left if reading.foreign_ids(rows[i], rows[i].ids) == wanted]
        chosen = same_ids[0] if same_ids else left[0]  # none is told apart by the comparison of ids
        left.remove(chosen)
        yield rows[chosen]


def _rows(reading: MultiTokenCase, woven: list[Sequence]) -> Iterator[Check]:
    pad = reading.loaded()[1].weave.tokenizer.pad
    ids = [torch.tensor(reading.foreign_ids(row, row.ids)) for row in woven]
    labels = [torch.from_numpy(row.labels) for row in woven]
    found = {
        "input_ids": stacked(ids, pad),
        "attention_mask": stacked([torch.ones_like(row) for row in ids], 0),
        "labels": stacked(labels, IGNORE),
    }
    for word, tensor in found.items():
        wanted = reading.case.get(f"train.{word}")
        if wanted is None:
            continue
        if word == "labels":  # the begin token's, which nothing is predicted from
            tensor, wanted = tensor[:, 1:], wanted[:, 1:]
        yield same("labels" if word == "labels" else "ids", f"training {word}", tensor, wanted)
    for theirs, ours in reading.names.items():
        yield from _prepared(reading, woven, theirs, ours)


def _prepared(
    reading: MultiTokenCase, woven: list[Sequence], theirs: str, ours: str
) -> Iterator[Check]:
    """Items of the rows; goldens of them are numbered by row."""
    numbers = {name.split(".")[1] for name in reading.case.names(f"train.{theirs}.preprocessed")}
    for text in sorted(numbers):
        items = woven[int(text)].items.get(ours, [])
        key = f"train.{theirs}.preprocessed.{text}"
        yield from prepared(reading, items, ours, key, f"row {text} {theirs}")


class _Step:
    """One step of one stage."""

    def __init__(
        self, reading: MultiTokenCase, name: str, facts: Mapping[str, Any], batch: Batch
    ) -> None:
        self.reading, self.name, self.facts, self.batch = reading, name, facts, batch
        # Goldens of finetune are without dropout; before an adapter has learned it makes no difference.
        self.model = copy.deepcopy(reading.loaded(ADAPTERS[name])[0]).eval()
        self.word, (rate, clip) = _asked(facts)
        self.stage = stage_of(name, rate, clip, len(batch.ids))

    def checks(self) -> Iterator[Check]:
        model, facts, reading = self.model, self.facts, self.reading
        optim.set_trainable(model, self.stage.trainable)
        learns = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
        names = sorted(reading.foreign(learns))
        if "trainable_parameters" in facts:
            yield same("what learns", self.name, names, sorted(facts["trainable_parameters"]))
        yield from self._logits()
        optimizer = optim.optimizer(model, self.stage.optimizer)
        grads: dict[str, Tensor] = {}

        def look() -> None:
            own = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            grads.update(reading.foreign(own))

        with torch.enable_grad():
            done = optimizer_step(model, optimizer, self.stage, 0, 1, [self.batch], look=look)
        yield from self._losses(float(done.loss), grads)
        if self.word:
            after = _loss(model, self.batch)
            tolerance = reading.tolerance("grad")
            yield number("after a step", self.name, after, float(facts[self.word]), tolerance)

    def _logits(self) -> Iterator[Check]:
        """Logits where the next token is learned, row after row."""
        wanted = self.reading.case.get(f"{self.name}.target_logits")
        if wanted is None:
            return
        with torch.inference_mode():
            logits = self.model(**self.batch.inputs()).logits
        before = functional.pad(self.batch.labels[:, 1:], (0, 1), value=IGNORE) != IGNORE
        found = logits[before]
        yield close("logits", self.name, found, wanted, self.reading.tolerance("logits"))

    def _losses(self, loss: float, grads: Mapping[str, Tensor]) -> Iterator[Check]:
        case, facts, name = self.reading.case, self.facts, self.name
        tolerance = self.reading.tolerance("loss")
        if "loss" in facts:
            yield number("loss", f"{name}: stated", loss, facts["loss"], tolerance)
        wanted = case.get(f"{name}.loss")
        if wanted is not None:
            yield number("loss", name, loss, float(wanted), tolerance)
        tolerance = self.reading.tolerance("grad")
        for param in sorted(case.names(f"{name}.grad.")):
            golden = case.get(f"{name}.grad.{param}")
            assert golden is not None
            found = grads.get(f"base_model.model.{param}")
            yield close("gradients", f"{name} {param}", found, golden, tolerance)
        for param, norm in (facts.get("grad_norm") or {}).items():
            found_norm = float(grads[param].norm()) if param in grads else float("nan")
            yield number("gradients", f"{name} {param}: norm", found_norm, norm, tolerance)
        if "global_grad_norm" in facts:
            total = float(torch.stack([g.norm() for g in grads.values()]).norm())
            yield number("gradients", f"{name}: total", total, facts["global_grad_norm"], tolerance)


def _asked(facts: Mapping[str, Any]) -> tuple[str, tuple[float, float]]:
    """Which word states the loss behind a step, and with which rate and clipping."""
    for word in facts:
        found = _AFTER.fullmatch(word)
        if found is not None:
            return word, (float(found[1]), float(found[2]))
    return "", (1e-3, 1.0)


def stage_of(name: str, rate: float, clip: float, batch: int) -> Stage:
    """The shipped stage with a golden's rate, which does not move."""
    training, _ = settings.load(FILE)
    shipped = next(stage for stage in training.stages if stage.name == name)
    changed = {
        "optimizer": shipped.optimizer.model_copy(update={"lr": rate, "max_grad_norm": clip}),
        "schedule": ScheduleSpec(lr_scheduler_type="constant", warmup_steps=0),
        "bf16": False,
        "batch_size": batch,
        "gradient_accumulation_steps": 1,
    }
    return shipped.model_copy(update=changed)


def _loss(model: MultimodalLM, batch: Batch) -> float:
    with torch.inference_mode():
        return float(model(**batch.inputs(), labels=batch.labels).loss)


__all__ = ["PREFIX", "stage_of", "stages"]
