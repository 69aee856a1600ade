"""Reading weights: strictly, memory-mapped, shard by shard, so that peak memory stays near the model's size.

Tensors of a file are views of the mapped file until somebody changes them; a rule of a table that changes
a tensor makes a new one only for that tensor. Nothing is ever unpickled beyond plain tensors and numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from omnimix import _transformers
from omnimix.checkpoints.base import Layout, Release, Weights
from omnimix.checkpoints.files import check_finite, looks_like, tensors_of
from omnimix.checkpoints.later import Later, later
from omnimix.compose.holding import Holding
from omnimix.compose.model import MultimodalLM
from omnimix.compose.model_config import OmnimixConfig
from omnimix.compose.processor import Processor
from omnimix.errors import CheckpointError, first_of

__all__ = [
    "Report",
    "check",
    "later_tensors",
    "load",
    "misfit",
    "named",
    "native_tensors",
    "tensors_of",
]

SHOWN = 4
"""How many names a message lists before it only counts."""


@dataclass
class Report:
    """What became of every key.

    Attributes:
        used: number of foreign tensors used.
        unused: source and key of each that was left out on purpose, with the reason.
        notes: of the release.
    """

    used: int = 0
    unused: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def native_tensors(release: Release) -> tuple[dict[str, Tensor], Report]:
    """Our tensors from the release's files.

    Raises:
        CheckpointError: as `later_tensors`.
    """
    found, report = later_tensors(release)
    return {name: one.read() for name, one in found.items()}, report


def later_tensors(release: Release) -> tuple[dict[str, Later], Report]:
    """The same, each read when it is asked for.

    Raises:
        CheckpointError: a key nobody knows, one that a rule needs and is not there, or two for one name.
    """
    found: dict[str, Later] = {}
    report = Report(notes=release.notes)
    unknown: list[str] = []
    missing: list[str] = []
    for source in release.weights:
        stored = _stored(source, release.layout)
        plan = source.table.reading(stored)
        unknown += plan.unknown
        missing += plan.missing
        report.unused |= {f"{source.name}: {key}": reason for key, reason in plan.unused.items()}
        report.used += sum(len(move.foreign) for move in plan.moves)
        made = later(plan, stored)
        twice = sorted(made.keys() & found.keys())
        if twice:
            raise CheckpointError(
                f"{named(twice)} would be filled twice, the second time by {source.name}",
                where=str(release.layout.root),
            )
        found |= made
    if unknown or missing:
        raise misfit(release, missing, unknown)
    return found, report


def _stored(source: Weights, layout: Layout) -> Mapping[str, Tensor]:
    return layout.opened.tensors(*source.files) if source.tensors is None else source.tensors


def misfit(
    release: Release,
    missing: Sequence[str],
    unknown: Sequence[str],
    shapes: Sequence[str] = (),
) -> CheckpointError:
    """The one error about keys that do not fit: all three lists and what the folder looks like."""
    said = []
    if missing:
        said.append(f"{len(missing)} weights are missing: {named(missing)}")
    if unknown:
        said.append(f"{len(unknown)} keys are unexpected: {named(unknown)}")
    if shapes:
        said.append(f"{len(shapes)} weights have another shape: {named(shapes)}")
    root = release.layout.root
    return CheckpointError(
        f"{'; '.join(said)} ({release.layout.family}, {release.layout.kind}; {looks_like(root)})",
        where=str(root),
        hint="the files must come from one release, and the parts must be those it was made with",
    )


def named(names: Sequence[str]) -> str:
    """The first few names and how many more there are."""
    return first_of(names, SHOWN)


def load(
    release: Release,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    extra: Mapping[str, Tensor] | None = None,
    holding: Holding | None = None,
) -> tuple[MultimodalLM, Processor, Report]:
    """The model of a release with every weight accounted for, and its processor.

    Args:
        device: where the model goes.
        dtype: of its weights; float32 where left out.
        extra: tensors under our own names that no file brings, or in place of those a file brings.
        holding: how the model is held, where not whole on `device`; then each tensor is read when its turn
            comes, and of a cut one the part alone.

    Raises:
        CheckpointError: the one error that lists missing, unexpected and misshapen weights.
    """
    waits = holding is not None or any(source.one_by_one for source in release.weights)
    ours, report = later_tensors(release) if waits else native_tensors(release)
    tensors: dict[str, Any] = {**ours, **(extra or {})}
    holding = holding or Holding(device)
    # Built once: what transformers makes on the meta device is compared before it is filled.
    model = _transformers.model_from(
        MultimodalLM,
        OmnimixConfig(recipe=release.recipe),
        tensors,
        built=lambda skeleton: check(release, skeleton, tensors),
        dtype=dtype or torch.float32,
        **holding.words(release.recipe),
    )
    check_finite(model.named_parameters(), str(release.layout.root))
    processor = Processor.from_recipe(
        release.recipe,
        release.folder,
        release.files,
        model.tokens_per_tile,
        release.tokenizer,
    )
    return holding.settle(model.eval()), processor, report


def check(release: Release, skeleton: MultimodalLM, tensors: Mapping[str, Tensor | Later]) -> None:
    """Compare names and shapes with the model that the recipe makes, before a byte is copied.

    Raises:
        CheckpointError: they differ.
    """
    wanted = {name: tensor.shape for name, tensor in skeleton.state_dict().items()}
    shared = _transformers.tied_names(skeleton)
    missing = sorted(wanted.keys() - tensors.keys() - shared)
    unknown = sorted(tensors.keys() - wanted.keys())
    shapes = [
        f"{name} {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if missing or unknown or shapes:
        raise misfit(release, missing, unknown, shapes)
