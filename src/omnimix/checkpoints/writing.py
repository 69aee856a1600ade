"""Writing safetensors a piece at a time: a model larger than the memory becomes a folder.

The safetensors library wants all tensors of a file at once. The format is plain: eight bytes with the
header's length, a JSON header with dtype, shape and place of every tensor, then the bytes one after another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from omnimix.checkpoints.files import write_json
from omnimix.errors import CheckpointError

SHARD = 5 * 10**9
"""Bytes of a file of weights at most, unless a single tensor is larger."""

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of the format."""


def size(sketch: Tensor) -> int:
    """Bytes of a tensor."""
    return sketch.numel() * sketch.element_size()


def narrowest(tensors: Iterable[Tensor]) -> torch.dtype:
    """The smallest floating type that holds all numbers exactly."""
    kept = [torch.bfloat16, torch.float16]
    for tensor in tensors:
        kept = [dtype for dtype in kept if torch.equal(tensor, tensor.to(dtype).to(tensor.dtype))]
        if not kept:
            return torch.float32
    return kept[0]


def shards(sketches: Mapping[str, Tensor], most: int = SHARD) -> list[list[str]]:
    """Names of the tensors of each file, in the order of the names."""
    found: list[list[str]] = [[]]
    held = 0
    for name in sorted(sketches):
        if found[-1] and held + size(sketches[name]) > most:
            found.append([])
            held = 0
        found[-1].append(name)
        held += size(sketches[name])
    return found


def write(
    folder: Path,
    sketches: Mapping[str, Tensor],
    pieces: Callable[[str], Iterable[Tensor]],
    most: int = SHARD,
) -> list[Path]:
    """Write `model.safetensors`, or shards and their index.

    Args:
        folder: exists.
        sketches: dtype and shape of every tensor, on the meta device.
        pieces: the numbers of a tensor in order, flattened, in as many pieces as suit the caller.
        most: bytes of a file.

    Raises:
        CheckpointError: a dtype that the format does not have.
    """
    groups = shards(sketches, most)
    names = [
        "model.safetensors"
        if len(groups) == 1
        else f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors"
        for i in range(len(groups))
    ]
    for name, group in zip(names, groups, strict=True):
        _file(folder / name, {key: sketches[key] for key in group}, pieces)
    if len(groups) > 1:
        total = sum(size(sketch) for sketch in sketches.values())
        places = {key: name for name, group in zip(names, groups, strict=True) for key in group}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        write_json(folder / "model.safetensors.index.json", index)
    return [folder / name for name in names]


def save(folder: Path, tensors: Mapping[str, Tensor], most: int = SHARD) -> list[Path]:
    """Write tensors at hand, with the index if there are several files; returns all files."""
    files = write(folder, tensors, lambda name: [tensors[name]], most)
    index = folder / "model.safetensors.index.json"
    return [*files, index] if len(files) > 1 else files


def _file(
    path: Path, sketches: Mapping[str, Tensor], pieces: Callable[[str], Iterable[Tensor]]
) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    # Wide numbers first, so that every tensor starts at a multiple of its element's size.
    order = sorted(sketches, key=lambda name: (-sketches[name].element_size(), name))
    for name in order:
        sketch = sketches[name]
        if sketch.dtype not in DTYPES:
            raise CheckpointError(f"{name} is of {sketch.dtype}, which safetensors does not hold")
        start, end = end, end + size(sketch)
        header[name] = {
            "dtype": DTYPES[sketch.dtype],
            "shape": list(sketch.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            written = sum(file.write(raw) for raw in _bytes(pieces(name), sketches[name].dtype))
            assert written == size(sketches[name]), name


def _bytes(pieces: Iterable[Tensor], dtype: torch.dtype) -> Iterator[memoryview]:
    for piece in pieces:
        flat = piece.detach().to(dtype).contiguous().flatten()
        if flat.numel():
            yield flat.view(torch.uint8).numpy().data
