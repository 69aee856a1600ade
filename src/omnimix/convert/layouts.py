"""From one layout to another, proven on a probe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnimix import _transformers
from omnimix.checkpoints.base import Parts
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.convert import certificate
from omnimix.convert.report import Check
from omnimix.disk import whole_folder
from omnimix.errors import CheckpointError
from omnimix.generate import folder as folders
from omnimix.registry import CHECKPOINTS, did_you_mean

NATIVE = "native"
_CPU = torch.device("cpu")


def convert(
    source: str | Path,
    out: str | Path,
    to: str = NATIVE,
    parts: Parts | None = None,
    merge: bool = False,
    **options: Any,
) -> list[Check]:
    """Write a model in another layout, read it back, and compare both on a probe.

    Args:
        source: a shipped model's name, a model folder or a released checkpoint.
        out: a folder that does not exist yet or is empty.
        to: `native`, or a family of `CHECKPOINTS`.
        parts: of a released checkpoint, what it does not hold.
        merge: work the adapters into the weights first.
        options: words of the layout, `shards` for instance.

    Returns:
        The comparisons, which `certificate.json` in the folder records.

    Raises:
        CheckpointError: the folder is used, the recipe cannot be expressed there, there is nothing to
            merge, or the numbers differ.
    """
    place = Path(out)
    _check(place, to, options)
    found, recognised = folders.look(source)
    model, processor = folders.read(found, _CPU, parts=parts, recognised=recognised)
    expected = certificate.probe(model, processor)
    if merge:
        processor = _merged(model, processor, found)
    came = f"{recognised[0].name}, {recognised[1].kind}" if recognised is not None else NATIVE
    with whole_folder(place) as draft, _transformers.quiet():
        if to == NATIVE:
            model.save_pretrained(draft)
            processor.save_pretrained(draft)
        else:
            CHECKPOINTS.load(to)().write(model, processor, draft, **options)
        del model  # two of them need not fit
        return _proven(draft, expected, {"from": came, "to": to})


def _check(place: Path, to: str, options: Mapping[str, Any]) -> None:
    """Refuse what cannot be written, before anything is read."""
    if to != NATIVE and to not in CHECKPOINTS:
        raise CheckpointError(
            f"unknown layout {to!r}", hint=did_you_mean(to, [NATIVE, *CHECKPOINTS])
        )
    known = () if to == NATIVE else CHECKPOINTS.load(to).options
    for word in options:
        if word not in known:
            raise CheckpointError(
                f"the layout {to} has no word {word!r}",
                hint=f"it knows {', '.join(known)}" if known else "leave it out",
            )
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise CheckpointError(
            "the folder to write to is not empty", where=str(place), hint="name a new folder"
        )


def _merged(model: MultimodalLM, processor: Processor, found: Path) -> Processor:
    """Work the adapters into the weights; the processor of the model without them."""
    if not model.recipe.adapters:
        raise CheckpointError(
            "the model has no adapters to merge",
            where=str(found),
            hint="use it as it is, or name the folder of the model with adapters",
        )
    model.merge()
    return Processor(model.recipe, processor.weave.tokenizer, model.tokens_per_tile)


def _proven(place: Path, expected: Mapping[str, Tensor], facts: Mapping[str, Any]) -> list[Check]:
    """Read a written folder back, ask it the probe, and put the certificate into it."""
    model, processor = folders.read(place, _CPU)
    answers = certificate.answers(model, processor, expected["picture"].numpy())
    checks = certificate.compare(answers, expected)
    wrong = next((check for check in checks if not check.passed), None)
    if wrong is not None:
        raise CheckpointError(
            f"the converted model differs at {wrong.stage} by {wrong.difference:.1e}",
            where=str(place),
            hint="nothing was kept; report this with the recipe",
        )
    certificate.write(place, expected, checks, {**facts, "recipe": processor.recipe.name})
    return checks
