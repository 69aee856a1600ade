"""Golden cases of Prismatic: which word of case.json asks for which comparisons.

`prismatic_model` compares a checkpoint (requests, a labelled batch), `prismatic_train` training runs,
`prismatic_data` prompts, datasets, collator, samplers and rates, `prismatic_pixels` preprocessing alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from omnimix_golden.prismatic import (
    data as prismatic_data,
    model as prismatic_model,
    pixels as prismatic_pixels,
    train as prismatic_train,
)
from omnimix_golden.prismatic.case import PrismaticCase
from omnimix_golden.run import Section


class PrismaticReading(PrismaticCase):
    """Cases of the family `prismatic`."""

    family = "prismatic"
    about = frozenset({"checkpoint_files", "layout", "photos", "uint8_sha256", "vision_embed_dim"})
    sections: ClassVar[Mapping[str, Section]] = {
        "tokenizers": prismatic_data.tokenizers,
        "default_system_prompts": prismatic_data.default_systems,
        "prompts": prismatic_data.prompts,
        "cases": prismatic_pixels.pictures,
        "transform_steps": prismatic_pixels.steps,
        "llm": prismatic_model.vocabulary,
        "string_token_ids": prismatic_model.single_tokens,
        "requests": prismatic_model.requests,
        "finetune_dataset": prismatic_data.finetune,
        "align_dataset": prismatic_data.align,
        "collator": prismatic_data.collator,
        "split_modality_sampler": prismatic_data.by_modality,
        "align_stage_distributed_sampler": prismatic_data.shuffled,
        "learning_rate": prismatic_data.rates,
        "batch": prismatic_model.batch,
        "trainable_parameters_per_stage": prismatic_train.learning,
        "training": prismatic_train.runs,
    }
