"""A golden case: `case.json`, the tensors beside it, and which of them were looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from omnimix.errors import CheckpointError
from omnimix.types import Sample


class Unstated(CheckpointError):
    """A comparison asks for a word that case.json does not have."""


class Facts(dict[str, Any]):
    """A table of case.json; a word it lacks is an error of the case, never a bare KeyError.

    Attributes:
        read: the words that were asked for.
    """

    def __init__(self, table: Mapping[str, Any]) -> None:
        super().__init__(table)
        self.read: set[str] = set()

    def __getitem__(self, word: str) -> Any:
        self.read.add(word)
        return super().__getitem__(word)

    def get(self, word: str, default: Any = None) -> Any:
        self.read.add(word)
        return super().get(word, default)

    def __missing__(self, word: str) -> Any:
        raise Unstated(f"case.json does not state {word!r}")


def awaits_answer(sample: Sample) -> bool:
    """Whether a conversation is still to be answered; one that has its answer is not opened for another."""
    return sample.turns[-1].role != "assistant"


class Case:
    """A folder with a `case.json`. Whatever it is called, its contents alone say how it is read.

    Attributes:
        folder: where it lies.
        facts: what case.json says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "case.json"
        try:
            facts = json.loads(path.read_text(encoding="utf-8"), object_hook=Facts)
        except FileNotFoundError:
            raise CheckpointError(
                "no golden numbers: there is neither a case.json nor a certificate.json",
                where=str(folder),
                hint="name a case folder, or a model folder that `omnimix convert` wrote",
            ) from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"case.json cannot be read ({error})", where=str(path)) from None
        if not isinstance(facts, Facts):
            raise CheckpointError("case.json holds no table of words", where=str(path))
        self.facts = facts
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        self._where: dict[tuple[str, str], Any] = {}
        self._read: set[tuple[str, str]] = set()
        for file in sorted(folder.glob("expected*.safetensors")):
            try:
                opened = self._stack.enter_context(safe_open(file, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"the golden tensors are damaged ({error})",
                    where=str(file),
                    hint="copy the case again",
                ) from None
            for key in opened.keys():  # noqa: SIM118  (no mapping)
                self._where[file.stem, key] = opened

    @property
    def name(self) -> str:
        """What the case calls itself."""
        return str(self.facts.get("case") or self.folder.name)

    @property
    def family(self) -> str:
        """Which family's rules it is read by."""
        family = self.facts.get("family")
        if not isinstance(family, str):
            raise CheckpointError("case.json names no family", where=str(self.folder / "case.json"))
        return family

    def get(self, name: str, file: str = "expected") -> Tensor | None:
        """A golden tensor, or None where the case has none of that name."""
        opened = self._where.get((file, name))
        if opened is None:
            return None
        self._read.add((file, name))
        tensor: Tensor = opened.get_tensor(name)
        return tensor

    def names(self, prefix: str = "", file: str = "expected") -> Iterator[str]:
        """Names of the golden tensors that begin like this, without that beginning."""
        for stem, key in self._where:
            if stem == file and key.startswith(prefix):
                yield key.removeprefix(prefix)

    @property
    def tensors(self) -> int:
        """How many golden tensors the case brings."""
        return len(self._where)

    def has(self, file: str) -> bool:
        """Whether there is a file of golden tensors of that name."""
        return any(stem == file for stem, _ in self._where)

    def unread(self) -> list[str]:
        """Golden tensors that nothing has looked at yet."""
        return sorted(f"{stem}: {key}" for stem, key in self._where.keys() - self._read)

    def absent(self) -> Iterator[tuple[str, str]]:
        """Tensors that the table `tensors` states with a shape, and that are not there in it; and why."""
        stated = self.facts.get("tensors")
        shapes: dict[str, list[list[int]]] = {}
        for (_, key), opened in self._where.items():
            shapes.setdefault(key, []).append(opened.get_slice(key).get_shape())
        for name, row in stated.items() if isinstance(stated, dict) else ():
            # Families write {"shape": [3, 4], ...} or [[3, 4], "float32"]; a sentence states no shape.
            shape = row.get("shape") if isinstance(row, dict) else row[0]
            if isinstance(shape, list) and shape not in shapes.get(name, []):
                found = shapes.get(name)
                yield name, f"has the shape {found[0]}, not {shape}" if found else "is in no file"

    def tolerance(self, *names: str) -> float:
        """The tolerance of the first of these words that the case states; one number holds for all.

        Raises:
            CheckpointError: the case states none of them.
        """
        stated = self.facts.get("tolerance")
        if isinstance(stated, int | float):
            return float(stated)
        for name in names:
            if isinstance(stated, dict) and isinstance(stated.get(name), int | float):
                return float(stated[name])
        raise CheckpointError(
            f"case.json states no tolerance for {names[0]!r}", where=str(self.folder / "case.json")
        )

    def close(self) -> None:
        """Let go of the files."""
        self._stack.close()
