"""Prismatic's batches: ids, labels and mask without the patches, as its collator makes them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from omnimix.compose.sequence import Sequence
from omnimix.convert.report import Check, same
from omnimix_golden.prismatic.case import PrismaticCase


def pictured(woven: list[Sequence]) -> list[int]:
    """Rows with a picture."""
    return [i for i, sequence in enumerate(woven) if sequence.items.get("image")]


def collated(
    reading: PrismaticCase, woven: list[Sequence], file: str, prefix: str
) -> Iterator[Check]:
    """Ids, labels and mask as the reference's collator makes them, that is without patches."""
    pad = reading.loaded[1].weave.tokenizer.pad
    expected = {
        word: reading.case.get(f"{prefix}/{word}", file)
        for word in ("input_ids", "labels", "attention_mask", "multimodal_indices")
    }
    made = without_items(woven, pad)
    made["multimodal_indices"] = torch.tensor(pictured(woven), dtype=torch.long)
    for word, stage in (
        ("input_ids", "batch ids"),
        ("attention_mask", "batch ids"),
        ("multimodal_indices", "batch ids"),
        ("labels", "labels"),
    ):
        if (want := expected[word]) is not None:
            yield same(stage, f"{prefix} {word}", made[word].long(), want.long())


def without_items(woven: list[Sequence], pad: int) -> dict[str, Tensor]:
    """A right-padded batch of the text alone."""
    texts = [(w.ids[w.owner == 0], w.labels[w.owner == 0]) for w in woven]
    width = max(len(ids) for ids, _ in texts)
    found = {
        "input_ids": torch.full((len(texts), width), pad),
        "labels": torch.full((len(texts), width), -100),
        "attention_mask": torch.zeros(len(texts), width, dtype=torch.bool),
    }
    for i, (ids, labels) in enumerate(texts):
        found["input_ids"][i, : len(ids)] = torch.from_numpy(ids)
        found["labels"][i, : len(ids)] = torch.from_numpy(labels)
        # The reference takes the mask from the ids, so a pad token inside the text would be masked too.
        found["attention_mask"][i] = found["input_ids"][i] != pad
    return found
