"""xGen-MM's cases: labelled batches with their gradients, and the short training run."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from omnimix import config
from omnimix.checkpoints import reading as files
from omnimix.compose.model import MultimodalLM
from omnimix.compose.sequence import IGNORE
from omnimix.convert.report import Check, close, number, same
from omnimix.data.ordered import RoundBatches, Rounds
from omnimix.families.xgen_mm.records import XgenSft
from omnimix.train import optim
from omnimix.train.settings import Stage
from omnimix.train.step import optimizer_step
from omnimix_golden.rows import stacked, widened
from omnimix_golden.xgen_mm.case import PUBLISHED, XGenCase
from omnimix_golden.xgen_mm.model import encoded

LEARNS = ("image.branches.*.connector.*", "language.*")
"""The reference trains everything but the vision encoder."""


def learning(reading: XGenCase) -> Iterator[Check]:
    """Which parameters are trained."""
    model, _ = reading.loaded()
    optim.set_trainable(model, LEARNS)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    wanted = reading.case.facts["trainable"]["names_sorted"]
    yield same("what learns", "names", sorted(reading.foreign_names(names)), wanted)


# --- labelled batches ---


def batches(reading: XGenCase) -> Iterator[Check]:
    """Collated records, embeddings, logits, loss and gradients."""
    for asked in reading.request["batches"]:
        yield from _Labelled(reading, asked).checks()


class _Labelled:
    """One batch of the case."""

    def __init__(self, reading: XGenCase, asked: Mapping[str, Any]) -> None:
        self.reading = reading
        self.name = asked["name"]
        self.facts = reading.case.facts["batches"].get(self.name, {})
        self.model, self.processor = reading.loaded()
        source = records(reading, asked["json"])
        places = {str(record["id"]): i for i, record in enumerate(source.records)}
        # In the order that the case lists them, which need not be that of the file.
        samples = [source[places[str(i)]] for i in self.facts.get("ids", asked["ids"])]
        self.woven = [reading.taught(sample, self.processor) for sample in samples]
        self.batch = self.processor.batch(self.woven)

    def golden(self, name: str) -> Tensor | None:
        return self.reading.case.get(f"batch/{self.name}/{name}")

    def checks(self) -> Iterator[Check]:
        yield from self._collated()
        yield from self._pixels()
        yield from self._spliced()
        yield from self._learned()

    def _collated(self) -> Iterator[Check]:
        marked = [self.reading.marked(row, self.processor) for row in self.woven]
        pad = self.processor.weave.tokenizer.pad
        rows = {
            "input_ids": stacked([ids for ids, _ in marked], pad),
            "text_attention_mask": stacked([torch.ones_like(ids) for ids, _ in marked], 0),
            "collated_labels": stacked([labels for _, labels in marked], IGNORE),
        }
        for word, found in rows.items():
            wanted = self.golden(word)
            if wanted is not None:
                stage = "labels" if "labels" in word else "ids"
                yield same(stage, f"{self.name} {word}", found, wanted)

    def _pixels(self) -> Iterator[Check]:
        """In pad mode the reference stacks pictures; rows with fewer are filled with zeros."""
        wanted = self.golden("pixel_values")
        if wanted is None:
            return
        found = torch.zeros_like(wanted)
        if "image" in self.batch["items"]:
            pixels = encoded(self.model, self.batch)["pixels"]
            assert pixels is not None
            tiles = iter(pixels)
            for row, sequence in enumerate(self.woven):
                for place in range(len(sequence.items.get("image", ()))):
                    found[row, place, 0] = next(tiles)
        yield close("pixels", self.name, found, wanted, self.reading.tolerance)

    def _spliced(self) -> Iterator[Check]:
        mask, labels = self.golden("spliced_mask"), self.golden("spliced_labels")
        wanted = self.golden("spliced_embeds")
        ours = self.batch.attention_mask
        assert ours is not None
        if mask is not None:
            found = widened(ours, mask.shape[1], 0)
            yield same("embeddings", f"{self.name}: mask", found, mask)
        if labels is not None:
            found = widened(self.batch.labels, labels.shape[1], IGNORE)
            yield same("labels", f"{self.name}: with pictures", found, labels)
        if wanted is not None:
            with torch.inference_mode():
                embeddings = self.model.embed(
                    self.batch.input_ids, self.batch["items"], self.batch.item_places
                )
            # Filled-in places are never looked at; the reference has the fill token's number there.
            keep = widened(ours, wanted.shape[1], 0)[..., None].bool()
            found = widened(embeddings, wanted.shape[1], 0).where(keep, 0)
            tolerance = self.reading.tolerance
            yield close("embeddings", self.name, found, wanted.where(keep, 0), tolerance)

    def _learned(self) -> Iterator[Check]:
        tolerance = self.reading.tolerance
        optim.set_trainable(self.model, LEARNS)
        self.model.zero_grad(set_to_none=True)
        with torch.enable_grad():
            output = self.model(**self.batch.inputs(), labels=self.batch.labels)
            output.loss.backward()
        index, logits = self.golden("logit_index"), self.golden("logits_at_index")
        if index is not None and logits is not None:
            found = output.logits[index[:, 0], index[:, 1]]
            yield close("logits", self.name, found, logits, tolerance)
        every = self.golden("logits")
        if every is not None:
            # What is filled in is never looked at, and the reference may fill rows further.
            seen = self.batch.attention_mask
            assert seen is not None
            keep = widened(seen, every.shape[1], 0)[..., None].bool()
            found = widened(output.logits, every.shape[1], 0).where(keep, 0)
            yield close("logits", f"{self.name}: all", found, every.where(keep, 0), tolerance)
        loss = self.golden("loss")
        if loss is not None:
            yield close("loss", self.name, output.loss.reshape(loss.shape), loss, tolerance)
        if "loss" in self.facts:
            found = float(output.loss.detach())
            yield number("loss", f"{self.name}: stated", found, self.facts["loss"], tolerance)
        grads = self.reading.foreign(gradients(self.model))
        self.model.zero_grad(set_to_none=True)
        yield from self._gradients(grads)

    def _gradients(self, grads: Mapping[str, Tensor]) -> Iterator[Check]:
        case, tolerance = self.reading.case, self.reading.tolerance
        for name in case.names(f"batch/{self.name}/grad/"):
            wanted = self.golden(f"grad/{name}")
            assert wanted is not None
            yield close("gradients", f"{self.name} {name}", grads.get(name), wanted, tolerance)
        norms = self.golden("grad_norms")
        if norms is not None:
            found = torch.stack([grads[name].double().norm() for name in sorted(grads)])
            yield close("gradients", f"{self.name}: norms", found, norms, tolerance)
        without = self.facts.get("params_without_grad")
        if without is not None:
            names = [n for n, p in self.model.named_parameters() if p.requires_grad]
            none = sorted(set(self.reading.foreign_names(names)) - grads.keys())
            yield same("gradients", f"{self.name}: none for", none, sorted(without))
        if "total_grad_norm" in self.facts:
            total = float(torch.stack([g.double().norm() for g in grads.values()]).norm())
            wanted_total = self.facts["total_grad_norm"]
            yield number("gradients", f"{self.name}: total", total, wanted_total, tolerance)


def gradients(model: MultimodalLM) -> dict[str, Tensor]:
    """Copies of all gradients by our names."""
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def records(reading: XGenCase, name: str) -> Any:
    """All records of a file, in the order that drawing all of them gives."""
    path = reading.case.folder / name
    count = len(json.loads(path.read_text(encoding="utf-8")))
    words = {"data_path": {name: count}, "image_folders": _folders(reading)}
    return config.validate(XgenSft, words, name).open(reading.case.folder)


def _folders(reading: XGenCase) -> dict[str, str]:
    path = reading.inputs / "data_paths.json"
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


# --- the run ---


def stage_of(
    facts: Mapping[str, Any], folders: Mapping[str, str], count: int, most: int = PUBLISHED
) -> Stage:
    """The trainer's flags as a stage of ours, its records cut at so many tokens."""
    accumulate = int(facts.get("gradient_accumulation_steps", 1))
    warmup = int(facts.get("warmup_steps", 0))
    source = {
        "kind": "xgen_sft",
        "data_path": {facts["data"]: count},
        "image_folders": dict(folders),
    }
    stage = {
        "name": "sft",
        "trainable": LEARNS,
        "mixture": [{"data": source}],
        "objective": {"kind": "sft", "average": "micro_batch"},
        "optimizer": {
            "lr": facts["learning_rate"],
            "weight_decay": facts["weight_decay"],
            "betas": [0.9, 0.999],
            "no_weight_decay": "nothing",
            "max_grad_norm": facts["clip"],
            "clip_micro_batches": True,
        },
        "schedule": {
            "warmup_steps": warmup,
            # The reference counts its warm-up from a rate of zero.
            "zero_first": warmup > 0,
            "lr_scheduler_type": facts.get("scheduler", "cosine"),
        },
        "order": "shuffled",
        "batch_size": int(facts["batch_size"]) * accumulate,
        "gradient_accumulation_steps": accumulate,
        "bf16": False,
        "num_train_epochs": 1,
        # The reference steps once more with what is left over at the end of an epoch.
        "drop_last": False,
        "max_length": most,
    }
    return config.validate(Stage, stage, "trainrun")


def run(reading: XGenCase) -> Iterator[Check]:
    """The short run, repeated by the ordinary training code."""
    facts = reading.case.facts["trainrun"]
    path = reading.case.folder / facts["data"]
    count = len(json.loads(path.read_text(encoding="utf-8")))
    stage = stage_of(facts, _folders(reading), count, reading.limit)
    loaded, processor = reading.loaded()
    model = copy.deepcopy(loaded).train()
    optim.set_trainable(model, stage.trainable)
    optimizer = optim.optimizer(model, stage.optimizer)
    yield from _groups(model, optimizer, facts)
    source = stage.mixture[0].data.open(reading.case.folder)
    assert hasattr(source, "records")
    order = [record["id"] for record in source.records]
    yield same("batches", "order after mixing", order, facts["record_order_after_mixing"])
    rounds = stage.rounds(source, seed=0)
    read = [order[i] for part in rounds.parts for i in part]
    yield same("batches", "order of the sampler", read, facts["sampler_order"])
    planned = int(facts.get("num_training_steps", rounds.horizon))
    if rounds.accumulate == 1:
        yield same("batches", "steps", rounds.horizon, planned)
    given = RoundBatches(source, rounds, processor, max_length=stage.max_length)
    yield from _steps(reading, facts, stage, model, optimizer, rounds, planned, given)


def _groups(
    model: MultimodalLM, optimizer: torch.optim.Optimizer, facts: Mapping[str, Any]
) -> Iterator[Check]:
    """Every weight decays, the norms and biases too."""
    decays = sorted({group["weight_decay"] for group in optimizer.param_groups})
    yield same("groups", "decay", decays, [facts["weight_decay"]])
    held = sum(len(group["params"]) for group in optimizer.param_groups)
    yield same("groups", "weights", held, sum(p.requires_grad for p in model.parameters()))


def _steps(
    reading: XGenCase,
    facts: Mapping[str, Any],
    stage: Stage,
    model: MultimodalLM,
    optimizer: torch.optim.Optimizer,
    rounds: Rounds,
    planned: int,
    given: RoundBatches,
) -> Iterator[Check]:
    case, tolerance = reading.case, reading.tolerance
    golden = {
        word: case.get(f"trainrun/{word}")
        for word in ("losses", "grad_norm_before_clip", "lr_by_micro_step")
    }
    written = facts.get("step_file", {}).get("step")
    for step in range(rounds.steps):
        at = range(step * rounds.accumulate, (step + 1) * rounds.accumulate)
        parts = [given[i][0] for i in at]
        last = max(i for i in at if rounds.parts[i])  # behind it the step is filled up
        if written is not None and at[0] <= written < last:
            yield from _file(reading, model)  # written between two parts, before the weights move
        done = optimizer_step(model, optimizer, stage, step, planned, parts)
        for i, loss, norm in zip(at, done.parts, done.norms, strict=True):
            if not rounds.parts[i]:
                continue
            found: dict[str, Any] = {
                "losses": loss,
                "grad_norm_before_clip": norm,
                "lr_by_micro_step": done.rate,
            }
            stages = ("loss", "gradients", "rates")
            for (word, value), name in zip(found.items(), stages, strict=True):
                wanted = golden[word]
                if wanted is not None:
                    what = f"training part {i + 1}: {word}"
                    yield number(name, what, float(value), float(wanted[i]), tolerance)
        if written == last:
            yield from _file(reading, model)
    yield from _final(reading, model)


def _file(reading: XGenCase, model: MultimodalLM) -> Iterator[Check]:
    """The file that the reference wrote at this place of the run."""
    state = model.state_dict()
    learned = {n for n, p in model.named_parameters() if p.requires_grad}
    for name, layout in reading.layouts.items():
        if "module." not in (layout.prefix or ""):
            continue
        tensors, _ = files.native_tensors(reading.release(layout))
        for key in sorted(learned):
            what = f"{name}: {key}"
            yield close("weights", what, state[key], tensors[key], reading.tolerance)


def _final(reading: XGenCase, model: MultimodalLM) -> Iterator[Check]:
    case, tolerance = reading.case, reading.tolerance
    learned = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    weights = reading.foreign(learned)
    norms = case.get("trainrun/final_param_norms")
    if norms is not None:
        found = torch.stack([weights[name].double().norm() for name in sorted(weights)])
        yield close("weights", "norms at the end", found, norms, tolerance)
    for name in case.names("trainrun/final/"):
        wanted = case.get(f"trainrun/final/{name}")
        assert wanted is not None
        yield close("weights", f"{name} at the end", weights.get(name), wanted, tolerance)
