"""Golden cases of SPHINX-V: those of SPHINX with prompts, and what is said of the prompts alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from omnimix.convert.report import Check, close, same
from omnimix.encoders.regions import prompts
from omnimix.families.sphinx.conversation import marked
from omnimix.families.sphinx.face import SPHINXModel
from omnimix.families.sphinx.marked_records import MdvpSource
from omnimix.families.sphinx.names import REGION
from omnimix.families.sphinx.records import SphinxSource
from omnimix.types import Media
from omnimix_golden.run import Section
from omnimix_golden.sphinx import (
    answers as sphinx_answers,
    model as sphinx_model,
    train as sphinx_train,
)
from omnimix_golden.sphinx.case import SphinxCase
from omnimix_golden.sphinx_v import prompts as sphinx_v_prompts

BROKEN = ("llma.vp_encoder.up", "llma.vp_proj.0")
"""Layers that the reference quantises although its prompt path then fails."""


def records(reading: SphinxCase) -> Iterator[Check]:
    """Records as SPHINX's, and their prompts."""
    yield from sphinx_train.records(reading)
    processor = reading.loaded()[1]
    most = sphinx_train.budget(reading)
    found: dict[int, torch.Tensor] = {}
    for item in reading.facts()["dataset"]["items"]:
        index = item["index"]
        woven = processor.weave(reading.samples[index], max_length=most)
        found[index] = prompts(woven.items[REGION][0].inputs[0])[0]
        if item.get("sparse_vp") is not None:
            wanted = torch.tensor(item["sparse_vp"], dtype=torch.float32)
            yield close("prompts", f"record {item['index']}", found[index], wanted, 0.0)
    golden = reading.case.get("train.sparse_vps")
    if golden is not None:
        rows = torch.stack([found[i] for i in reading.drawn()])
        yield close("prompts", "training batch", rows, golden, 0.0)


def answers(reading: SphinxCase) -> Iterator[Check]:
    """As SPHINX's, and a second call with the same list, which the reference's first call has changed."""
    yield from sphinx_answers.answers(reading)
    for i, facts in enumerate(reading.facts()["generate"]):
        stored = reading.case.get(f"gen.{i}.sparse_second_call")
        if stored is None:
            continue
        vps = [list(mark) for mark in facts["vps"]]
        found = []
        for _ in range(2):
            sample = reading.question({**facts, "vps": vps})
            woven = reading.loaded()[1].weave(sample, True)
            found.append(prompts(woven.items[REGION][0].inputs[0])[0])
        yield same("prompts", f"request {i + 1}: the caller's list", vps, facts["vps"])
        yield same("prompts", f"request {i + 1}: a second call", found[1], found[0])
        apart = float((stored - found[0]).abs().max())
        reading.notes.append(
            "the reference writes into the list of prompts that it is given, so that its second call sees "
            f"other numbers (by up to {apart:.3g}); that is not copied"
        )


def quantized(reading: SphinxCase) -> Iterator[Check]:
    """As SPHINX's; the prompt encoder and its projection keep their precision here."""
    yield from sphinx_train.layers_in_few_bits(reading, more=BROKEN)
    if set(BROKEN) <= set(reading.facts()["quant"]["quantised_linear_modules"]):
        reading.notes.append(
            f"the reference quantises {' and '.join(BROKEN)} too and fails there; here the prompt encoder "
            "and its projection keep their precision"
        )


class _Marked(SPHINXModel):
    """SPHINX's calls on a SPHINX-V: the picture and its marks are handed over as items."""

    takes_marks = True


class SphinxVReading(SphinxCase):
    """Cases of the family `sphinx_v`."""

    face = _Marked
    family = "sphinx_v"
    about = frozenset(
        {"checkpoint_dtype", "encoder_dims", "max_seq_len", "nested_under_model_key", "precision"}
    )
    stages: ClassVar[Mapping[str, str]] = dict.fromkeys(("stage1", "stage2"), "sphinx_v.train.yaml")
    sections: ClassVar[Mapping[str, Section]] = {
        "llama_type": sphinx_model.layouts,
        "tensors": sphinx_model.pictures,
        "sam_mapping": sphinx_v_prompts.sam,
        "sparse_vp": sphinx_v_prompts.sparse,
        "demo": sphinx_v_prompts.demo,
        "conv": sphinx_model.conversation,
        "family": sphinx_model.together,
        "stop": sphinx_answers.stops,
        "generate": answers,
        "stream": sphinx_answers.stream,
        "score": sphinx_answers.scores,
        "dataset": records,
        "train": sphinx_train.steps,
        "lr_schedule": sphinx_train.rates,
        "sampler": sphinx_train.sampler,
        "quant": quantized,
    }

    @property
    def slots(self) -> int:
        """How many prompts a call has places for."""
        found = self.release.recipe.modalities[REGION].slots
        assert found is not None
        return found

    def media(self, asking: Mapping[str, Any]) -> tuple[Media, ...]:
        """The reference cuts prompts that have no place, and without prompts shows no picture either."""
        vps = asking.get("vps")
        if vps is None:
            return ()
        return marked(vps[: self.slots], self.picture(asking.get("image")))

    def records(self) -> SphinxSource:
        """Boxes moved by numpy's generator as the case seeds it, from record to record."""
        chance = np.random.RandomState(self.facts()["dataset"]["np_random_seed"])
        return MdvpSource(self.inputs / "train.yaml", chance=chance)
