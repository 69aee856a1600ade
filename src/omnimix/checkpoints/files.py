"""Files of a checkpoint: JSON told apart from broken JSON, weights mapped and opened once.

Nothing is ever unpickled beyond plain tensors and numbers.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from omnimix.errors import CheckpointError, UnsafeFileError
from omnimix.hub import looks_like, read_json

__all__ = ["Files", "looks_like", "read_json", "tensors_of"]


def write_json(path: Path, data: Mapping[str, Any]) -> Path:
    """Write a JSON object; returns its path."""
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return path


def layers(keys: Iterable[str], prefix: str) -> int:
    """How many numbered layers stand behind a prefix such as `llma.layers.`."""
    number = re.compile(rf"{re.escape(prefix)}(\d+)\.")
    return len({match[1] for key in keys if (match := number.match(key))})


def heads(
    word: str, what: str, width: int, released: tuple[int, int], said: Mapping[str, Any]
) -> int:
    """How many heads a network has, which no shape tells: what is said, else those of the released width.

    Args:
        word: by which it is said.
        what: the network, for messages.
        released: its width and heads.

    Raises:
        CheckpointError: another width without a word, or heads that do not divide it.
    """
    known, usual = released
    if said.get(word) is None and width != known:
        raise CheckpointError(
            f"the {what} is {width} wide, the released one {known}, so its number of heads is not known",
            hint=f"give it with --word {word}=N",
        )
    number = int(said.get(word) or usual)
    if width % number:
        raise CheckpointError(
            f"{word} is {number}, which does not divide the width {width} of the {what}",
            hint="give the number that it was made with",
        )
    return number


class Files:
    """Files of weights, each opened once however many steps look into it."""

    def __init__(self) -> None:
        self._opened: dict[Path, dict[str, Tensor]] = {}

    def tensors(self, *paths: Path) -> dict[str, Tensor]:
        """The tensors of files together, mapped; see `tensors_of`. Keys of an adapter are those of peft's files."""
        together: dict[str, Tensor] = {}
        for path in paths:
            if path not in self._opened:
                self._opened[path] = _unnamed(tensors_of(path))
            together |= self._opened[path]
        return together

    def sizes(self, paths: Iterable[Path]) -> dict[str, tuple[int, ...]]:
        """The shape of every key; no weight is read."""
        return {key: tuple(tensor.shape) for key, tensor in self.tensors(*paths).items()}


_LORA = re.compile(r"(.*\.lora_(?:A|B|magnitude_vector))\.(\w+)(\.weight)")


def _unnamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys without the name of the adapter (`.default.`), which the state of a living model has; one of several stays."""
    named = {key: match for key in tensors if (match := _LORA.fullmatch(key))}
    if len({match[2] for match in named.values()}) != 1:
        return tensors
    return {named[key][1] + named[key][3] if key in named else key: t for key, t in tensors.items()}


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, mapped; keys of nested dictionaries are joined by dots.

    Args:
        path: `.safetensors`, or a file of `torch.save` (read with `weights_only`).

    Raises:
        UnsafeFileError: a pickle that holds more than tensors.
        CheckpointError: missing or truncated.
    """
    if not path.is_file():
        raise CheckpointError(
            "there is no such file of weights", where=str(path), hint="copy the whole checkpoint"
        )
    if path.suffix == ".safetensors":
        return _safetensors(path)
    check_pointer(path)
    try:
        # What torch wrote before 1.6 is no archive, and cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        stored = torch.load(path, weights_only=True, mmap=mapped, map_location="cpu")
    except Exception as error:
        # Of a whole archive, or a pickle as it begins, a refusal speaks of what it holds, else of lost bytes.
        whole = mapped or (_first(path) == pickle.PROTO and "Unsupported" in str(error))
        if isinstance(error, pickle.UnpicklingError) and whole:
            raise UnsafeFileError(
                "the file holds Python objects beside tensors and is not opened, since that would "
                "run code",
                where=str(path),
                hint="get it from its maker as safetensors, or save its state dict alone",
            ) from None
        raise _damaged(path, error) from None
    tensors = dict(_flat(stored))
    if not tensors:
        raise CheckpointError("the file holds no tensors", where=str(path))
    return tensors


def check_finite(tensors: Iterable[tuple[str, Tensor]], where: str | None) -> None:
    """That weights are numbers, before anything is answered from them.

    Raises:
        CheckpointError: names the first that holds not-a-number or an infinity.
    """
    for name, tensor in tensors:
        if tensor.is_meta or not tensor.is_floating_point() or tensor.itemsize < 2:
            continue
        # A sum is finite only where all is, and far cheaper to look at; one may also overflow.
        if not bool(tensor.detach().sum().isfinite()) and not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"the weight {name} holds values that are not finite (not-a-number or infinity)",
                where=where,
                hint="take a checkpoint from before training went astray, or copy the file again",
            )


def _first(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1)


def check_pointer(path: Path) -> None:
    """That a file is no pointer to another that Git LFS keeps elsewhere.

    Raises:
        CheckpointError: it is one.
    """
    with path.open("rb") as file:
        pointer = file.read(64).startswith(b"version https://git-lfs")
    if pointer:
        raise CheckpointError(
            "the file is a pointer of Git LFS, and the weights themselves were not fetched",
            where=str(path),
            hint="run git lfs pull in the folder, or download the file from its page",
        )


def _safetensors(path: Path) -> dict[str, Tensor]:
    check_pointer(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> CheckpointError:
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return CheckpointError(
        f"the file of {path.stat().st_size:,} bytes is truncated or no file of weights "
        f"({line.strip().rstrip('.')[:160]})",
        where=str(path),
        hint="copy it again and compare its size with the original's",
    )


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _flat(inner, f"{name}.{i}" if name else str(i))
