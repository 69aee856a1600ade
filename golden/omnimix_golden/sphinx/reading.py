"""Golden cases of SPHINX: which word of case.json asks for which comparisons.

`sphinx_model` compares a conversation stage by stage, `sphinx_answers` what is written, `sphinx_train` data
and training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from omnimix_golden.run import Section
from omnimix_golden.sphinx import (
    answers as sphinx_answers,
    model as sphinx_model,
    train as sphinx_train,
)
from omnimix_golden.sphinx.case import SphinxCase


class SphinxReading(SphinxCase):
    """Cases of the family `sphinx`."""

    family = "sphinx"
    about = frozenset(
        {"checkpoint_dtype", "encoder_dims", "max_seq_len", "nested_under_model_key", "precision"}
    )
    sections: ClassVar[Mapping[str, Section]] = {
        "llama_type": sphinx_model.layouts,
        "tensors": sphinx_model.pictures,
        "conv": sphinx_model.conversation,
        "mix": sphinx_model.mixed,
        "stop": sphinx_answers.stops,
        "generate": sphinx_answers.answers,
        "batch_generate": sphinx_answers.batch,
        "stream": sphinx_answers.stream,
        "score": sphinx_answers.scores,
        "top_p": sphinx_answers.nucleus,
        "dataset": sphinx_train.records,
        "train": sphinx_train.steps,
        "lr_schedule": sphinx_train.rates,
        "sampler": sphinx_train.sampler,
        "quant": sphinx_train.layers_in_few_bits,
    }
