"""Where two models begin to differ on one question: prompt, ids, pixels, features, embeddings, logits, answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from omnimix.compose import fingerprint
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.types import Sample

EXACT = ("prompt", "ids", "answer")
"""Stages in which anything but the same is a difference; of the others it is what their numbers are apart."""


@dataclass(frozen=True)
class Difference:
    """What two models have in one stage.

    Attributes:
        same: whether it is within the tolerance.
        largest: the largest difference of a number; None where there are none, or of another count.
        said: what differs, in words.
    """

    stage: str
    same: bool
    largest: float | None = None
    said: str = ""


def differences(
    a: Assistant, b: Assistant, sample: Sample, tolerance: float = 1e-3, max_new_tokens: int = 32
) -> list[Difference]:
    """Every stage in the order in which a question passes them.

    Args:
        tolerance: share of the largest number of a stage up to which two are the same.
    """
    first, second = (_stages(one, sample, max_new_tokens) for one in (a, b))
    found = []
    for name in first:
        ours, theirs = first[name], second[name]
        if name in EXACT:
            found.append(Difference(name, ours == theirs, None, _words(ours, theirs)))
        else:
            found.append(_numbers(name, ours, theirs, tolerance))
        if name == "pixels" and not found[-1].same:
            step = fingerprint.parting(a.processor.weave, b.processor.weave, sample)
            found[-1] = replace(
                found[-1],
                said=" ".join(filter(None, (found[-1].said, f"from {step}")))
                if step
                else found[-1].said,
            )
    return found


def _stages(assistant: Assistant, sample: Sample, max_new_tokens: int) -> dict[str, Any]:
    options = Options(max_new_tokens)
    woven = assistant.weave(sample, options)
    tokenizer = assistant.processor.weave.tokenizer
    ids = [int(one) for one in woven.ids[woven.owner == 0]]
    batch = assistant.batch([woven])
    model = assistant.model
    with torch.inference_mode():
        items = batch.get("items")
        encoded = model.encode(items) if items else {}
        stages: dict[str, Any] = {
            "prompt": tokenizer.decode(ids),
            "ids": ids,
            "pixels": [t for name in items or () for t in items[name].tensors()] if items else [],
            "features": [one.tokens for one in encoded.values()],
            "embeddings": [
                model.embed(batch.input_ids, items, batch.item_places if items else None)
            ],
            "logits": [model(**batch).logits[:, -1]],
        }
    answer = assistant.write_many([woven], 1, options)[0]
    return stages | {"answer": list(answer.ids)}


def _words(ours: Any, theirs: Any) -> str:
    if ours == theirs:
        return ""
    at = next(
        (i for i, (x, y) in enumerate(zip(ours, theirs, strict=False)) if x != y),
        min(len(ours), len(theirs)),
    )
    return f"from {at + 1} on: {ours[at : at + 40]!r} and {theirs[at : at + 40]!r}"


def _numbers(name: str, ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> Difference:
    shapes = [[tuple(one.shape) for one in many] for many in (ours, theirs)]
    if shapes[0] != shapes[1]:
        return Difference(name, False, None, f"of shape {shapes[0]} and {shapes[1]}")
    pairs = [
        (x.double().cpu(), y.double().cpu()) for x, y in zip(ours, theirs, strict=True) if x.numel()
    ]
    if not pairs:
        return Difference(name, True, 0.0)
    largest = max(float((x - y).abs().max()) for x, y in pairs)
    size = max(float(x.abs().max()) for x, _ in pairs)
    return Difference(name, largest <= tolerance * max(size, 1e-12), largest)


def first_of_all(found: list[Difference]) -> Difference | None:
    """The first stage that differs; all behind it may differ for its sake."""
    return next((one for one in found if not one.same), None)
