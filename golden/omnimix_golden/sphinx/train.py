"""SPHINX's cases: records, labels, one step of training, the sampler, the rate, what is quantized."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from omnimix.compose.batch import Batch
from omnimix.compose.holding import quantized
from omnimix.compose.model import MultimodalLM
from omnimix.compose.sequence import IGNORE, Sequence
from omnimix.convert.report import Check, close, number, same
from omnimix.data import orders
from omnimix.train import optim, settings
from omnimix.train.settings import ScheduleSpec, Stage
from omnimix.train.step import optimizer_step
from omnimix_golden.rows import stacked, widened
from omnimix_golden.sphinx.case import SphinxCase

STEPWISE = 1e-6
"""Gradients below this are left out where the case compares weights after a step."""


def stage_of(file: str, name: str, hp: Mapping[str, Any], batch: int) -> Stage:
    """The shipped stage with the numbers of a case, at a rate that does not move."""
    training, _ = settings.load(file)
    shipped = next(stage for stage in training.stages if stage.name == name)
    numbers = {"lr": hp["lr"], "weight_decay": hp["weight_decay"], "max_grad_norm": hp["clip_grad"]}
    changed = {
        "optimizer": shipped.optimizer.model_copy(update=numbers),
        "schedule": ScheduleSpec(lr_scheduler_type="constant", warmup_steps=0),
        "bf16": False,
        "batch_size": batch,
        "gradient_accumulation_steps": 1,
    }
    return shipped.model_copy(update=changed)


def budget(reading: SphinxCase) -> int:
    """Text tokens that a record may have."""
    facts = reading.facts()["dataset"]
    return int(facts["max_words"]) - int(facts["image_words"])


def records(reading: SphinxCase) -> Iterator[Check]:
    """Every record in the trainer's order: text, ids, labels."""
    facts = reading.facts()["dataset"]
    _, processor = reading.loaded()
    source = reading.records()
    groups = [
        [i for i, kind in enumerate(source.kinds) if kind == name]
        for name in dict.fromkeys(source.kinds)
    ]
    yield same("records", "groups", groups, facts["groups"])
    for item in facts["items"]:
        place = item["index"]
        sample, name = reading.samples[place], f"record {place}"
        yield same("records", f"{name}: text", sample.turns[0].text(), item["first_value"])
        picture = next((media.label for media in sample.media()), None)
        yield same("records", f"{name}: picture", picture, item["image"])
        most = budget(reading) if picture is not None else int(facts["max_words"])
        woven = processor.weave(sample, max_length=most)
        ids, labels = closed(woven, processor.weave.tokenizer.eos, most)
        yield same("ids", name, ids, item["tokens"])
        yield same("labels", name, labels, item["labels"])
    reading.notes.append(
        "the reference closes a record with an end token that nothing is learned from; it stands in no "
        "sequence here and is only added for the comparison"
    )


def closed(woven: Sequence, eos: int | None, most: int) -> tuple[list[int], list[int]]:
    """Ids and labels of the text as the reference has them: closed by an end token where there is room,
    0 where nothing is learned."""
    text = woven.owner == 0
    ids = [*woven.ids[text].tolist(), *([] if eos is None else [eos])][:most]
    labels = [0 if label == IGNORE else label for label in woven.labels[text].tolist()]
    return ids, (labels + [0] * len(ids))[: len(ids)]


def steps(reading: SphinxCase) -> Iterator[Check]:
    """One step of each stage: what learns, loss, gradients, weights after it."""
    for name, facts in reading.facts()["train"].items():
        if name in reading.stages and isinstance(facts, Mapping):
            yield from step(reading, name, facts, training_batch(reading))


def training_batch(reading: SphinxCase) -> tuple[Batch, list[Check]]:
    """The records that the case trains on, and how they compare with its batch."""
    _, processor = reading.loaded()
    checks: list[Check] = []
    examples, labels = reading.case.get("train.examples"), reading.case.get("train.labels")
    chosen = [reading.samples[i] for i in reading.drawn()]
    woven = [processor.weave(sample, max_length=budget(reading)) for sample in chosen]
    ours = [closed(row, processor.weave.tokenizer.eos, budget(reading)) for row in woven]
    for stage, wanted, part in (("ids", examples, 0), ("labels", labels, 1)):
        if wanted is not None:
            found = stacked([torch.tensor(row[part]) for row in ours], 0)
            wide = widened(found, wanted.shape[1], 0)
            checks.append(same(stage, "training batch", wide, wanted))
    return processor.batch(woven), checks


def stated(reading: SphinxCase, facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rate, decay and clipping of a stage; a case states them once where its stages have the same."""
    stages = [facts, *reading.facts()["train"].values()]
    found: Mapping[str, Any] = next(stage["hp"] for stage in stages if "hp" in stage)
    return found


def step(
    reading: SphinxCase,
    name: str,
    facts: Mapping[str, Any],
    given: tuple[Batch, list[Check]],
) -> Iterator[Check]:
    """One step of one stage, by the ordinary training code; the goldens run without dropout."""
    batch, checks = given
    yield from checks
    model = copy.deepcopy(reading.loaded()[0]).eval()
    hp = stated(reading, facts)
    stage = stage_of(reading.stages[name], name, hp, len(batch.ids))
    optim.set_trainable(model, stage.trainable)
    learns = [n for n, p in model.named_parameters() if p.requires_grad]
    ours = reading.foreign_names(learns)
    yield same("what learns", name, sorted(ours), sorted(facts["trainable"]))
    optimizer = optim.optimizer(model, stage.optimizer)
    if "no_weight_decay" in facts:
        # With a decay of its own, since a stage's may be zero for everything.
        groups = optim.groups(model, stage.optimizer.model_copy(update={"weight_decay": 1.0}))
        spared = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
        names = [n for n, p in model.named_parameters() if id(p) in spared]
        found = sorted(reading.foreign_names(names))
        yield same("groups", f"{name}: no decay", found, sorted(facts["no_weight_decay"]))
    before: dict[str, Tensor] = {}

    def look() -> None:
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        before.update(reading.foreign(grads))

    with torch.enable_grad():
        done = optimizer_step(model, optimizer, stage, 0, 1, [batch], look=look)
    yield from _losses(reading, name, facts, float(done.loss), before)
    norm = float(done.norm)
    if "clip_coef" in facts:
        found_coef = min(1.0, float(hp["clip_grad"]) / (norm + 1e-6))
        tolerance = reading.tolerance()
        yield number("gradients", f"{name}: clipping", found_coef, facts["clip_coef"], tolerance)
    yield from _after(reading, name, facts, model, before)


def _losses(
    reading: SphinxCase,
    name: str,
    facts: Mapping[str, Any],
    loss: float,
    grads: Mapping[str, Tensor],
) -> Iterator[Check]:
    case, tolerance, key = reading.case, reading.tolerance(), f"train.{name}"
    yield number("loss", f"{name}: stated", loss, facts["loss"], tolerance)
    wanted = case.get(f"{key}.loss")
    if wanted is not None:
        yield number("loss", name, loss, float(wanted), tolerance)
    without = sorted(set(facts["trainable"]) - grads.keys())
    yield same("gradients", f"{name}: none for", without, sorted(facts.get("no_grad", [])))
    norms = case.get(f"{key}.grad_norms")
    if norms is not None:
        order = [n for n in facts["trainable"] if n in grads]
        found = torch.stack([grads[n].norm() for n in order])
        yield _graded(f"{name}: norms", found, norms)
    for param in case.names(f"{key}.grad."):
        golden = case.get(f"{key}.grad.{param}")
        assert golden is not None
        if param not in grads:
            yield close("gradients", f"{name} {param}", None, golden, tolerance)
        else:
            yield _graded(f"{name} {param}", grads[param], golden)
    total = case.get(f"{key}.total_grad_norm")
    if total is not None:
        found = torch.stack([g.norm() for g in grads.values()]).norm().reshape(total.shape)
        yield _graded(f"{name}: total", found, total)


def _graded(what: str, found: Tensor, wanted: Tensor) -> Check:
    """Gradients: 1e-4 absolute plus 1e-3 relative, as the cases state; the difference is told as a share
    of what is allowed."""
    if found.shape != wanted.shape:
        return close("gradients", what, found, wanted, 1.0)
    allowed = 1e-4 + 1e-3 * wanted.abs()
    return close("gradients", what, (found - wanted) / allowed, torch.zeros_like(wanted), 1.0)


def _after(
    reading: SphinxCase,
    name: str,
    facts: Mapping[str, Any],
    model: MultimodalLM,
    grads: Mapping[str, Tensor],
) -> Iterator[Check]:
    """Weights after the step, where the gradient says clearly in which direction."""
    key = f"train.{name}.after."
    learned = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    ours = reading.foreign(learned)
    allowed = 0.02 * float(stated(reading, facts)["lr"])
    for param in reading.case.names(key):
        wanted = reading.case.get(f"{key}{param}")
        assert wanted is not None
        if param not in ours or param not in grads:
            yield close("weights", f"{name} {param}", ours.get(param), wanted, allowed)
            continue
        clear = grads[param].abs() >= STEPWISE
        yield close("weights", f"{name} {param}", ours[param][clear], wanted[clear], allowed)


# --- what needs no weights ---


def schedule(file: str, facts: Mapping[str, Any]) -> ScheduleSpec:
    """The shipped schedule with the numbers of a case."""
    share = float(facts["warmup_epochs"]) / float(facts["epochs"])
    final = float(facts["min_lr"]) / float(facts["lr"])
    training, _ = settings.load(file)
    return training.stages[0].schedule.model_copy(
        update={"warmup_ratio": share, "min_lr_ratio": final}
    )


def rates(reading: SphinxCase) -> Iterator[Check]:
    """The rate at fractions of an epoch."""
    facts = reading.facts()["lr_schedule"]
    # The schedule of all stages is one.
    spec, fine = schedule(next(iter(reading.stages.values())), facts), 10_000
    for point, wanted in facts["points"].items():
        epoch = float(point) / float(facts["epochs"])
        found = optim.rate(round(epoch * fine), fine, float(facts["lr"]), spec)
        yield number("rates", f"epoch {point}", found, wanted, 1e-9)


def sampler(reading: SphinxCase) -> Iterator[Check]:
    """Which records each rank reads."""
    facts = reading.facts()["sampler"]
    kinds = [str(i) for i, count in enumerate(facts["groups"]) for _ in range(count)]
    world = int(facts["replicas"])
    for epoch, wanted in facts["epochs"].items():
        found = [
            orders.by_kind(
                kinds,
                int(facts["batch_size"]),
                int(epoch),
                int(facts["seed"]),
                rank,
                world,
                int(facts["acc_grad"]),
            )
            for rank in range(world)
        ]
        yield same("batches", f"epoch {epoch}", found, wanted)


def layers_in_few_bits(reading: SphinxCase, more: Iterable[str] = ()) -> Iterator[Check]:
    """Which linear layers are quantized: the language model's.

    Args:
        more: layers of the reference's list that are left as they are here.
    """
    facts = reading.facts()["quant"]
    model, _ = reading.loaded()
    names = [f"{name}.weight" for name in quantized(model.recipe)]
    found = [name.removesuffix(".weight") for name in reading.foreign_names(names)]
    wanted = facts["quantised_linear_modules"]
    yield same("quantized", "linear layers", sorted(found), sorted({*wanted} - {*more}))
