"""SPHINX-V's cases: records as they are learned, and one step of each of its two stages."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from omnimix import config
from omnimix.checkpoints import sphinx_v
from omnimix.compose.weave import IGNORE, Sequence
from omnimix.data.mdvp import Mdvp, MdvpSource
from omnimix.encoders.regions import prompts
from omnimix.train import optim, settings
from omnimix.train.settings import Stage
from omnimix.train.step import optimizer_step
from omnimix.verify.report import Check, close, number, same
from omnimix.verify.rows import stacked

if TYPE_CHECKING:
    from omnimix.verify.sphinx_v import SphinxVReading

RECIPE = "sphinx_v.train.yaml"


def woven(reading: SphinxVReading) -> list[Sequence]:
    """The records of the case in the reference's order, boxes moved by numpy's seeded generator."""
    facts = reading.results["dataset"]
    chance = np.random.RandomState(facts["np_random_seed"])
    source = Mdvp(path="train.yaml", noise=True).open(reading.inputs)
    assert isinstance(source, MdvpSource) and source.length is not None
    samples = [source.sample(index, chance) for index in range(source.length)]
    cut = int(facts["text_words"])
    return [reading.processor.weave(sample, cut=cut, target=False) for sample in samples]


def dataset(reading: SphinxVReading) -> Iterator[Check]:
    """Ids, labels and prompts of every record."""
    facts = reading.results["dataset"]
    places = reading.processor.weave.tokens_per_tile
    taken = int(facts["max_words"]) - int(facts["text_words"])
    yield same("dataset", "places of picture and prompts", 5 * places["image"] + places["region"], taken)
    for sequence, item in zip(woven(reading), facts["items"], strict=True):
        what = f"record {item['index']}"
        ids, labels = ended(reading, sequence, int(facts["text_words"]))
        yield same("dataset", f"{what} ids", ids, item["tokens"])
        yield same("labels", what, labels, item["labels"])
        if item.get("sparse_vp") is not None:
            rows = prompts(sequence.items[sphinx_v.REGION][0].inputs[0])[0]
            wanted = torch.tensor(item["sparse_vp"], dtype=torch.float32)
            yield close("prompts", what, rows, wanted, 0.0)


def ended(reading: SphinxVReading, sequence: Sequence, most: int) -> tuple[list[int], list[int]]:
    """Ids and labels of the text as the reference has them: the end token behind, 0 for no label.

    The end token is never learned and nothing stands behind it, so that it is not woven here.
    """
    text = sequence.owner == 0
    ids = sequence.ids[text].tolist()
    labels = [0 if label == IGNORE else int(label) for label in sequence.labels[text]]
    eos = reading.processor.tokenizer.eos
    if len(ids) < most and eos is not None:
        ids, labels = [*ids, eos], [*labels, 0]
    return ids, labels


def steps(reading: SphinxVReading) -> Iterator[Check]:
    """What each stage learns, and its first step."""
    stages = {stage.name: stage for stage in settings.load(RECIPE)[0].stages}
    sequences = woven(reading)
    yield from _batch(reading, sequences)
    for name, facts in reading.results["train"].items():
        yield from _Step(reading, name, facts, stages[name]).checks(sequences)


def _batch(reading: SphinxVReading, sequences: list[Sequence]) -> Iterator[Check]:
    most = int(reading.results["dataset"]["text_words"])
    rows = [ended(reading, sequence, most) for sequence in sequences]
    for place, (word, stage) in enumerate((("examples", "dataset"), ("labels", "labels"))):
        wanted = reading.case.get(f"train.{word}")
        if wanted is not None:
            found = stacked([torch.tensor(row[place]) for row in rows], 0)
            yield same(stage, f"batch {word}", found[:, : wanted.shape[1]], wanted)
    wanted = reading.case.get("train.sparse_vps")
    if wanted is not None:
        tiles = torch.cat([s.items[sphinx_v.REGION][0].inputs[0] for s in sequences])
        yield close("prompts", "batch", prompts(tiles), wanted, 0.0)


class _Step:
    """One step of one stage."""

    def __init__(
        self, reading: SphinxVReading, name: str, facts: Mapping[str, Any], stage: Stage
    ) -> None:
        self.reading = reading
        self.name = name
        self.facts = facts
        # Numbers are stated for the first stage alone where both have the same.
        first = next(iter(reading.results["train"].values()))
        self.numbers = facts.get("hp") or first["hp"]
        words = {
            **stage.dump(),
            "optimizer": {
                **stage.optimizer.dump(),
                "rate": self.numbers["lr"],
                "decay": self.numbers["weight_decay"],
                "clip": self.numbers["clip_grad"],
            },
            # The step is taken at the full rate.
            "schedule": {"shape": "constant", "warmup": 0},
            "accumulate": 1,
            "precision": "fp32",
        }
        self.stage = config.validate(Stage, words, name)

    def checks(self, sequences: list[Sequence]) -> Iterator[Check]:
        reading = self.reading
        model = copy.deepcopy(reading.model).eval()
        optim.set_learning(model, self.stage.learns)
        parameters = dict(model.named_parameters())
        learned = {n: p.detach() for n, p in parameters.items() if p.requires_grad}
        wanted = sorted(self.facts["trainable"])
        yield same("what learns", self.name, sorted(reading.foreign(learned)), wanted)
        optimizer = optim.adamw(model, self.stage.optimizer)
        grads: dict[str, Tensor] = {}

        def look() -> None:
            grads.update({n: p.grad.clone() for n, p in parameters.items() if p.grad is not None})

        given = reading.processor.batch(sequences)
        done = optimizer_step(model, optimizer, self.stage, 0, 1, [given], look=look)
        yield from self._losses(float(done.loss), float(done.norm))
        foreign = reading.foreign(grads)
        yield from self._gradients(foreign)
        after = {n: p.detach() for n, p in parameters.items() if p.requires_grad}
        yield from self._weights(reading.foreign(after), foreign)

    def _losses(self, loss: float, norm: float) -> Iterator[Check]:
        case, what = self.reading.case, f"train.{self.name}"
        tolerance = self.reading.tolerance("default")
        yield number("loss", self.name, loss, self.facts["loss"], tolerance)
        for word, found in (("loss", loss), ("total_grad_norm", norm)):
            wanted = case.get(f"{what}.{word}")
            if wanted is not None:
                slack = tolerance + (1e-3 * abs(float(wanted)) if "grad" in word else 0)
                stage = "gradients" if "grad" in word else "loss"
                yield number(stage, f"{self.name} {word}", found, float(wanted), slack)

    def _gradients(self, grads: Mapping[str, Tensor]) -> Iterator[Check]:
        """1e-4 and a thousandth of each number, as the case states."""
        case, prefix = self.reading.case, f"train.{self.name}.grad."
        none = [n for n in self.facts["trainable"] if n not in grads]
        yield same("gradients", f"{self.name}: none for", none, self.facts.get("no_grad", []))
        norms = case.get(f"train.{self.name}.grad_norms")
        if norms is not None:
            names = [n for n in self.facts["trainable"] if n in grads]
            found = torch.tensor([float(grads[n].norm()) for n in names])
            yield _scaled("gradients", f"{self.name} norms", found, norms)
        for name in case.names(prefix):
            wanted = case.get(prefix + name)
            assert wanted is not None
            found_grad = grads.get(name)
            yield _scaled("gradients", f"{self.name} {name}", found_grad, wanted)

    def _weights(self, after: Mapping[str, Tensor], grads: Mapping[str, Tensor]) -> Iterator[Check]:
        """AdamW's first step is the rate times the gradient's sign: numbers without a gradient are left out."""
        case, prefix = self.reading.case, f"train.{self.name}.after."
        tolerance = 0.02 * float(self.numbers["lr"])
        for name in case.names(prefix):
            wanted = case.get(prefix + name)
            assert wanted is not None
            found = after.get(name)
            if found is not None and name in grads:
                found = found.where(grads[name].abs() >= 1e-6, wanted)
            yield close("weights", f"{self.name} {name}", found, wanted, tolerance)


def _scaled(stage: str, what: str, found: Tensor | None, wanted: Tensor) -> Check:
    """Compare numbers to 1e-4 and a thousandth of each."""
    if found is not None and found.shape == wanted.shape:
        apart = found.double() - wanted.double()
        rest = apart.sign() * (apart.abs() - 1e-3 * wanted.double().abs()).clamp(min=0)
        found = wanted.double() + rest
    return close(stage, what, found, wanted, 1e-4)
