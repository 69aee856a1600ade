"""Weights of two models with equal recipes, interpolated: theta = beta * A + (1 - beta) * B.

The "domain mix" of arXiv 2311.07575. Tensors are read, mixed in float32 and written a piece at a time, so that
neither model has to fit into the memory.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnimix import _transformers
from omnimix.checkpoints import writing
from omnimix.checkpoints.base import Layout, Release, Weights
from omnimix.checkpoints.later import Later
from omnimix.checkpoints.parts import weight_files
from omnimix.checkpoints.reading import later_tensors, named
from omnimix.checkpoints.tables import Rename, RenameTable
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError, OmnimixError

PIECE = 1 << 22
"""Numbers that are mixed at once."""


@dataclass(frozen=True)
class Weighting:
    """How much of A goes into a tensor.

    Attributes:
        whole: beta of everything that no part names.
        parts: beta of parts of the model's tree (`language`, `image.branches.0.connector`); the longest
            name counts.
    """

    whole: float = 0.5
    parts: Mapping[str, float] = field(default_factory=dict)

    def of(self, name: str) -> float:
        """Beta of one tensor."""
        fitting = [part for part in self.parts if within(name, part)]
        return self.parts[max(fitting, key=len)] if fitting else self.whole

    def check(self, names: Mapping[str, Any], extrapolate: bool) -> None:
        """Refuse weights out of range and parts that the model does not have.

        Raises:
            OmnimixError: names the weight or the part.
        """
        for what, weight in (("the weight", self.whole), *self.parts.items()):
            if not math.isfinite(weight):
                raise OmnimixError(f"{what} is {weight}", hint="give a number from 0 to 1")
            if not 0 <= weight <= 1 and not extrapolate:
                raise OmnimixError(
                    f"{what} is {weight:g}, which lies outside 0 to 1",
                    hint="1 is all of the first model, 0 all of the second; to go beyond both, "
                    "add --extrapolate",
                )
        for part in self.parts:
            if not any(within(name, part) for name in names):
                known = ", ".join(sorted({part_of(name) for name in names}))
                raise OmnimixError(f"the model has no part {part!r}", hint=f"its parts are {known}")


def within(name: str, part: str) -> bool:
    """Whether a tensor belongs to a part of the tree."""
    return name == part or name.startswith(f"{part}.")


def part_of(name: str) -> str:
    """The part of the tree that a tensor is counted under: `language`, `image.branches.0.connector` ..."""
    words = name.split(".")
    if words[0] == "language" or len(words) < 3:
        return words[0]
    if words[1] != "branches":
        return ".".join(words[:2])
    return ".".join(words[:5] if words[3:4] == ["encoders"] else words[:4])


@dataclass(frozen=True)
class OpenedModel:
    """A model opened for mixing; no weight is read yet.

    Attributes:
        place: where it lies, for messages.
        release: its recipe and files.
        tensors: under our own names, without those that are another's by tying.
    """

    place: str
    release: Release
    tensors: Mapping[str, Later]

    @property
    def recipe(self) -> Recipe:
        return self.release.recipe

    @property
    def files(self) -> list[Path]:
        """All files that weights come from."""
        return sorted({file for source in self.release.weights for file in source.files})


def opened(place: str, release: Release, whole: bool = True) -> OpenedModel:
    """Open a release.

    Args:
        whole: refuse one that leaves parameters of its recipe out.

    Raises:
        CheckpointError: missing, misshapen or unknown weights.
    """
    tensors, _ = later_tensors(release)
    skeleton = MultimodalLM.on_meta(release.recipe)
    tied = _transformers.tied_names(skeleton)
    wanted = {n: t.shape for n, t in skeleton.state_dict().items() if n not in tied}
    missing = sorted(wanted.keys() - tensors.keys())
    if missing and whole:
        raise CheckpointError(
            f"{len(missing)} weights are missing: {named(missing)}",
            where=place,
            hint="copy the whole model; where the second model holds only what was trained, "
            "--partial takes the rest from the first",
        )
    odd = sorted(tensors.keys() - wanted.keys() - tied)
    if odd:
        raise CheckpointError(f"{len(odd)} weights are unexpected: {named(odd)}", where=place)
    for name, shape in wanted.items():
        if name in tensors and tensors[name].shape != shape:
            found = list(tensors[name].shape)
            raise CheckpointError(f"{name} is {found} instead of {list(shape)}", where=place)
    kept = {name: tensors[name] for name in wanted if name in tensors}
    return OpenedModel(place, release, kept)


def native(folder: Path) -> Release:
    """A folder of `save_pretrained` in the words of a released checkpoint."""
    recipe = Processor.from_pretrained(folder).recipe
    files = weight_files(folder, "model")
    layout = Layout("native", "model folder", folder, files)
    return Release(
        layout, recipe, folder, (Weights("model", files, RenameTable(Rename("*", "*"))),)
    )


def same_words(a: Processor, b: Processor) -> str | None:
    """The first token in which two tokenizers differ; None where they are equal."""
    first, second = a.weave.tokenizer, b.weave.tokenizer
    if first.size != second.size:
        return f"{first.size} tokens in the first and {second.size} in the second"
    for i in range(first.size):
        one, other = first.decode([i], specials=True), second.decode([i], specials=True)
        if one != other:
            return f"token {i} is {one!r} in the first and {other!r} in the second"
    return None


@dataclass
class Sums:
    """Squares of the numbers of a part: of A, of B, of what came out, and of A less B."""

    tensors: int = 0
    numbers: int = 0
    a: float = 0.0
    b: float = 0.0
    result: float = 0.0
    apart: float = 0.0

    def norms(self) -> dict[str, float | int]:
        """For the certificate."""
        return {
            "tensors": self.tensors,
            "numbers": self.numbers,
            "a": math.sqrt(self.a),
            "b": math.sqrt(self.b),
            "result": math.sqrt(self.result),
            "a_less_b": math.sqrt(self.apart),
        }


class Mixer:
    """Mixes tensor by tensor and keeps count.

    Args:
        a, b: of equal recipes; what B does not hold is taken from A.
        weighting: how much of A.
        dtype: of the floating tensors that come out; None leaves each as A has it.
    """

    def __init__(
        self, a: OpenedModel, b: OpenedModel, weighting: Weighting, dtype: torch.dtype | None
    ):
        self.a = a
        self.b = b
        self.weighting = weighting
        self.sums: dict[str, Sums] = {}
        self.only_a = sorted(a.tensors.keys() - b.tensors.keys())
        self.chosen: dict[str, str] = {}
        """Counters and masks that differ, and the model that each was taken from."""
        self.sketches = {name: _as(one.sketch, dtype) for name, one in a.tensors.items()}

    def tensor(self, name: str) -> Tensor:
        """One mixed tensor, whole."""
        sketch = self.sketches[name]
        return torch.cat([piece.to(sketch.dtype) for piece in self.pieces(name)]).view(sketch.shape)

    def pieces(self, name: str) -> Iterator[Tensor]:
        """The numbers of a mixed tensor in order, float32 where they are floating."""
        mine = self.a.tensors[name].read()
        yours = self.b.tensors[name].read() if name in self.b.tensors else mine
        sums = self.sums.setdefault(part_of(name), Sums())
        sums.tensors += 1
        if not mine.is_floating_point():
            yield self._whole_numbers(name, mine, yours).flatten()
            return
        beta = self.weighting.of(name)
        sums.numbers += mine.numel()
        pairs = zip(mine.flatten().split(PIECE), yours.flatten().split(PIECE), strict=True)
        for one, other in pairs:
            x, y = one.float(), other.float()
            # Where both hold the same number it stays that number, whatever beta's rounding.
            mixed = x if beta == 1 else y if beta == 0 else beta * x + (1 - beta) * y
            mixed = torch.where(x == y, x, mixed).to(self.sketches[name].dtype)
            sums.a += _square(x)
            sums.b += _square(y)
            sums.result += _square(mixed)
            sums.apart += _square(x - y)
            yield mixed

    def _whole_numbers(self, name: str, mine: Tensor, yours: Tensor) -> Tensor:
        """Counters, indices and masks cannot be mixed: those of the model with the larger share."""
        if torch.equal(mine, yours):
            return mine
        self.chosen[name] = "a" if self.weighting.of(name) >= 0.5 else "b"
        return mine if self.chosen[name] == "a" else yours


def _as(sketch: Tensor, dtype: torch.dtype | None) -> Tensor:
    return sketch if dtype is None or not sketch.is_floating_point() else sketch.to(dtype)


def _square(numbers: Tensor) -> float:
    # The norm over float32 in float64 without a copy of the numbers.
    return float(torch.linalg.vector_norm(numbers, dtype=torch.float64)) ** 2


def hashed(path: Path, told: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            if told is not None:
                told(len(block))
    return digest.hexdigest()


def write(mixer: Mixer, out: Path, most: int = writing.SHARD) -> list[Path]:
    """The mixed weights as safetensors, piece by piece."""
    return writing.write(out, mixer.sketches, mixer.pieces, most)
