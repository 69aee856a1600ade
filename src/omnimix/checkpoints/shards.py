"""Weights cut over several files for tensor parallel: joined tensor by tensor, and cut anew.

Which dimension of which key is cut is data (`Cuts`: pattern to dimension); every other key is whole in each
file. Nothing is joined before it is asked for, so that a model is read with one tensor in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from omnimix.checkpoints.tables import match
from omnimix.errors import CheckpointError

Cuts: TypeAlias = Mapping[str, int]
"""Pattern on keys (one `*`) to the dimension along which the tensor is cut."""

SMALL = 1 << 20
"""Numbers of a tensor that is small enough to be compared when a folder is opened."""

APART = 0.02
"""Replicas that differ by more than this share of their norm are not of one run: rounding to bf16 makes
0.004 at most, and ranks of one run drift by less."""


def dimension(key: str, cuts: Cuts) -> int | None:
    """Along which dimension a key is cut; None where every file holds it whole."""
    return next((dim for pattern, dim in cuts.items() if match(pattern, key) is not None), None)


class Joined(Mapping[str, Tensor]):
    """The whole tensors of one checkpoint in shards.

    Args:
        shards: the tensors of each file, mapped.
        cuts: see `Cuts`.
        names: of the files, for messages.

    Raises:
        CheckpointError: the files hold other keys or shapes, so they are not of one model.
    """

    def __init__(
        self, shards: Sequence[Mapping[str, Tensor]], cuts: Cuts, names: Sequence[str]
    ) -> None:
        self.shards = shards
        self.names = names
        self.dims = {key: dimension(key, cuts) for key in shards[0]}
        for number in range(1, len(shards)):
            self._check(number)

    def _check(self, number: int) -> None:
        first, other = self.shards[0], self.shards[number]
        names = f"{self.names[0]} and {self.names[number]}"
        odd = sorted(first.keys() ^ other.keys())
        if odd:
            raise _strangers(f"{len(odd)} keys are in one of {names} only: {odd[0]}")
        for key, tensor in first.items():
            if tensor.shape != other[key].shape:
                raise _strangers(
                    f"{key} is {list(tensor.shape)} in {self.names[0]} and "
                    f"{list(other[key].shape)} in {self.names[number]}"
                )

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every whole tensor; nothing is joined for it."""
        found = {}
        for key, dim in self.dims.items():
            shape = list(self.shards[0][key].shape)
            if dim is not None:
                shape[dim] = sum(shard[key].shape[dim] for shard in self.shards)
            found[key] = tuple(shape)
        return found

    def apart(self) -> float:
        """How far small tensors that every file holds whole are apart, as a share of their norm."""
        worst = 0.0
        for shard in self.shards[1:]:
            change = norm = 0.0
            for key, dim in self.dims.items():
                first = self.shards[0][key]
                if dim is None and first.is_floating_point() and 0 < first.numel() <= SMALL:
                    norm += float(first.float().square().sum())
                    if not torch.equal(first, shard[key]):
                        change += float((first.float() - shard[key].float()).square().sum())
            worst = max(worst, (change / norm) ** 0.5 if norm else change)
        return worst

    def __getitem__(self, key: str) -> Tensor:
        dim = self.dims[key]
        if dim is None or len(self.shards) == 1:
            return self.shards[0][key]
        return torch.cat([shard[key] for shard in self.shards], dim=dim)

    def __iter__(self) -> Iterator[str]:
        return iter(self.dims)

    def __len__(self) -> int:
        return len(self.dims)

    def __contains__(self, key: object) -> bool:
        return key in self.dims


def _strangers(what: str) -> CheckpointError:
    return CheckpointError(
        f"the shards belong to different models: {what}",
        hint="keep the shards of one model alone in a folder, and copy them from one place",
    )


class Laid(Mapping[str, Tensor]):
    """Checkpoints laid one over another: a later one has its keys in place of an earlier one's.

    Args:
        layers: whole tensors, and whether they are differences that are added to what lies below.
    """

    def __init__(self, layers: Sequence[tuple[Joined, bool]]) -> None:
        self.layers = layers
        self.sizes = {key: size for layer, _ in layers for key, size in layer.sizes.items()}

    def __getitem__(self, key: str) -> Tensor:
        found: Tensor | None = None
        for layer, adds in self.layers:
            if key in layer:
                found = layer[key] if found is None or not adds else found + layer[key]
        if found is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)


def piece(key: str, tensor: Tensor, cuts: Cuts, rank: int, of: int) -> Tensor:
    """What the file of one rank holds of a tensor.

    Raises:
        CheckpointError: the tensor does not divide by the number of files.
    """
    dim = dimension(key, cuts)
    if dim is None or of == 1:
        return tensor
    if tensor.shape[dim] % of:
        raise CheckpointError(
            f"{key} has {tensor.shape[dim]} rows along dimension {dim}, which {of} shards cannot share",
            hint="choose a number of shards that divides the heads and the hidden width",
        )
    return tensor.chunk(of, dim=dim)[rank]


def save(
    tensors: Mapping[str, Tensor],
    cuts: Cuts,
    of: int,
    out: Path,
    dtype: torch.dtype | None = None,
) -> list[Path]:
    """Write `consolidated.NN-of-MM.model.pth`, one file in memory at a time.

    Args:
        dtype: every floating tensor is cast to it; None leaves them as they are.

    Raises:
        CheckpointError: a tensor cannot be cut so.
    """
    if of < 1:
        raise CheckpointError(f"{of} shards cannot be written", hint="give 1, 2, 4 ...")
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for rank in range(of):
        held: dict[str, Tensor] = {}
        for key in tensors:
            part = piece(key, tensors[key], cuts, rank, of)
            if dtype is not None and part.is_floating_point():
                part = part.to(dtype)
            held[key] = part.contiguous().clone()  # a view would save all that it looks into
        path = out / f"consolidated.{rank:02d}-of-{of:02d}.model.pth"
        torch.save({"model": held}, path)
        files.append(path)
    return files
