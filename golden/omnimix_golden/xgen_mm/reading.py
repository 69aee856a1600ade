"""Golden cases of xGen-MM: which word of case.json asks for which comparisons.

`xgen_model` compares a checkpoint (texts, pictures, answers), `xgen_train` labelled batches and the short
training run, `xgen_data` data mixing and samplers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from omnimix_golden.run import Section
from omnimix_golden.xgen_mm import data as xgen_data, model as xgen_model, train as xgen_train
from omnimix_golden.xgen_mm.case import XGenCase


class XGenReading(XGenCase):
    """Cases of the family `xgen_mm`."""

    about = frozenset({"backbones", "mixing_rule"})
    sections: ClassVar[Mapping[str, Section]] = {
        "mixed_order": xgen_data.mixed,
        "lengths": xgen_data.lengths,
        "grouped_sampler": xgen_data.grouped_orders,
        "one_modality": xgen_data.one_modality,
        "length_grouped_no_modality": xgen_data.no_modality,
        "plain_distributed_sampler": xgen_data.plain,
        "path_mapping": xgen_data.paths,
        "marker_check": xgen_data.marks,
        "conversation_template": xgen_model.template,
        "tokenizer": xgen_model.tokenizer,
        "sft": xgen_model.conversations,
        "sft_with_add_bos_token": xgen_model.with_bos,
        "images": xgen_model.pictures,
        "real_scale": xgen_model.real_scale,
        "generate": xgen_model.answers,
        "tensor_names": xgen_model.no_sampling,
        "hubbase": xgen_model.base_release,
        "checkpoint_layouts": xgen_model.layouts,
        "trainable": xgen_train.learning,
        "batches": xgen_train.batches,
        "trainrun": xgen_train.run,
    }
