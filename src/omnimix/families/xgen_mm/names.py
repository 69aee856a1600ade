"""Which key of xGen-MM's checkpoints is which weight, one table for reading and writing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omnimix.checkpoints.tables import Ignore, Rename, RenameTable, Rule

HUB, TRAINER, BARE = "hub folder", "trainer's file", "bare state dict"

PREFIXES = {
    "vlm.": HUB,
    "model_state_dict.": TRAINER,
    "model_state_dict.module.": TRAINER,
    "": BARE,
    "module.": BARE,
}
"""What stands before every key of the model in each layout; `module.` is DDP's."""

TOWER = "image.branches.0.encoders.0.tower."
CONNECTOR = "image.branches.0.connector."
LATENTS = "vision_tokenizer.latents"

ADDED = 3
"""Rows that the three marks add to the language model's tables."""

_HEAD = "the pooling head of SigLIP is used by nobody"


@dataclass(frozen=True)
class Decoupled(Rule):
    """A table whose added rows are kept apart: base rows, then added ones, then the unused base rows.

    Attributes:
        base, extra: foreign names of the table and of the rows added to it.
        ours: our name of the joined one.
        used: how many base rows are used.
    """

    base: str
    extra: str
    ours: str
    used: int

    @property
    def foreign(self) -> tuple[str, ...]:
        return (self.base, self.extra)

    @property
    def native(self) -> tuple[str, ...]:
        return (self.ours,)

    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        base, extra = tensors
        return [torch.cat([base[: self.used], extra, base[self.used :]])]

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        (joined,) = tensors
        end = self.used + ADDED
        return [torch.cat([joined[: self.used], joined[end:]]), joined[self.used : end].clone()]


def table(prefix: str, used: int) -> RenameTable:
    """The rename table of one layout.

    Args:
        prefix: of every key, see `PREFIXES`.
        used: rows of the language model's tables that are used (`initial_tokenizer_len`).
    """
    lm = f"{prefix}lang_model."
    # Embedding, head and the head's bias are decoupled: what the marks add lies in a tensor of its own.
    decoupled = [
        ("model.embed_tokens.weight", "model.embed_tokens.additional_embedding.weight"),
        ("lm_head.weight", "lm_head.additional_fc.weight"),
        ("lm_head.bias", "lm_head.additional_fc.bias"),
    ]
    return RenameTable(
        *(Decoupled(lm + base, lm + extra, f"language.{base}", used) for base, extra in decoupled),
        Rename(f"{lm}*", "language.*"),
        Ignore(f"{prefix}vision_encoder.head.*", _HEAD),
        Rename(f"{prefix}vision_encoder.*", f"{TOWER}*"),
        Rename(f"{prefix}vision_tokenizer.*", f"{CONNECTOR}*"),
        Ignore("optimizer_state_dict.*", "the optimizer's state is not carried over"),
        Ignore("lr_scheduler_state_dict.*", "the schedule's state is not carried over"),
    )


SIGLIP = RenameTable(
    Ignore("vision_model.head.*", _HEAD),
    Rename("vision_model.*", f"{TOWER}*"),
    Ignore("text_model.*", "the text tower of SigLIP is used by nobody"),
    Ignore("logit_scale", "belongs to SigLIP's own loss"),
    Ignore("logit_bias", "belongs to SigLIP's own loss"),
)
"""A whole SigLIP model, of which the vision tower is ours."""


def prefix_of(keys: Iterable[str]) -> str | None:
    """What stands before every key of the model; None where these are no keys of xGen-MM."""
    for key in keys:
        if key.endswith(LATENTS):
            prefix = key.removesuffix(LATENTS)
            return prefix if prefix in PREFIXES else None
    return None
