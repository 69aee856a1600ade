"""What lies in a SPHINX folder: shards of one of three layouts, and the small files beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from omnimix.checkpoints import reading
from omnimix.checkpoints.base import looks_like
from omnimix.checkpoints.shards import APART, Joined, Laid
from omnimix.errors import CheckpointError
from omnimix.families.sphinx.names import CUTS, PREFIX

SAVED = re.compile(r"consolidated\.(\d+)-of-(\d+)\.model\.pth")
DIFFERENCE = re.compile(r"consolidated\.(\d+)-of-(\d+)\.model-diff\.pth")
META = re.compile(r"consolidated\.(\d+)\.pth")

KINDS = {SAVED: "saved by its trainer", META: "Meta's own", DIFFERENCE: "a difference"}
"""File names of a layout, and what it is called in messages."""


@dataclass(frozen=True)
class Folder:
    """One folder of shards.

    Attributes:
        root: where it is.
        files: its shards in order.
        names: the layout, a key of `KINDS`.
        config, meta, tokenizer: files beside them; None where there is none.
    """

    root: Path
    files: tuple[Path, ...]
    names: re.Pattern[str]
    config: Path | None
    meta: Path | None
    tokenizer: Path | None

    @property
    def kind(self) -> str:
        """The layout in words."""
        count = len(self.files)
        return f"{KINDS[self.names]}, {count} shard{'s' if count > 1 else ''}"


def look(root: Path) -> Folder | None:
    """What lies in a folder; None where there are no shards.

    Raises:
        CheckpointError: shards that are missing, or of two ways of cutting.
    """
    if not root.is_dir():
        return None
    for names in KINDS:
        found = sorted((path, m) for path in root.iterdir() if (m := names.fullmatch(path.name)))
        if found:
            files = _all_there(root, names, [(path, match) for path, match in found])
            return Folder(
                root,
                files,
                names,
                _first(root, "config.json", "params.json"),
                _first(root, "meta.json"),
                _first(root, "tokenizer.model"),
            )
    return None


def _all_there(
    root: Path, names: re.Pattern[str], found: Sequence[tuple[Path, re.Match[str]]]
) -> tuple[Path, ...]:
    """The shards in order, each number once.

    Raises:
        CheckpointError: one is missing, or files say different totals.
    """
    totals = {int(match[2]) for _, match in found} if names is not META else {len(found)}
    if len(totals) > 1:
        said = " and ".join(str(total) for total in sorted(totals))
        raise CheckpointError(
            f"the folder holds checkpoints of {said} shards side by side",
            where=str(root),
            hint="keep the shards of one of them alone in a folder",
        )
    total = totals.pop()
    by_number = {int(match[1]): path for path, match in found}
    absent = sorted(set(range(total)) - by_number.keys())
    if absent or len(by_number) != total:
        first = found[0][0].name
        odd = absent[0] if absent else max(by_number)
        name = re.sub(r"\.\d+", f".{odd:02d}", first, count=1)
        what = f"{name} is missing" if absent else f"{name} is one too many"
        raise CheckpointError(
            f"{len(by_number)} of {total} shards are there: {what}",
            where=str(root),
            hint="copy the whole folder again",
        )
    return tuple(by_number[i] for i in range(total))


def _first(root: Path, *names: str) -> Path | None:
    return next((root / name for name in names if (root / name).is_file()), None)


def folders(roots: Sequence[Path]) -> list[Folder]:
    """The folders of a list of paths.

    Raises:
        CheckpointError: one without shards, or a difference with nothing below it.
    """
    found = []
    for root in roots:
        folder = look(root)
        if folder is None:
            raise CheckpointError(
                f"no shards of SPHINX: {looks_like(root)}",
                where=str(root),
                hint="a folder holds consolidated.00-of-02.model.pth and its like",
            )
        found.append(folder)
    if found[0].names is DIFFERENCE:
        raise CheckpointError(
            "the folder holds a difference to other weights, not the weights",
            where=str(found[0].root),
            hint="name the folder of those weights first and this one as the part 'over'",
        )
    return found


def mapped(path: Path) -> dict[str, Tensor]:
    """The tensors of one shard by their full keys, whatever the file nests them in."""
    stored = reading.tensors_of(path)
    nested = f"model.{PREFIX}"
    if any(key.startswith(nested) for key in stored):
        inside = {k.removeprefix("model."): t for k, t in stored.items() if k.startswith("model.")}
        return inside
    if META.fullmatch(path.name) or not any(key.startswith(PREFIX) for key in stored):
        return {f"{PREFIX}{key.removeprefix('model.')}": tensor for key, tensor in stored.items()}
    return stored


def whole(found: Sequence[Folder], trusting: bool = False) -> tuple[Laid, list[str]]:
    """The tensors of folders laid one over another, joined when they are asked for, and notes.

    Args:
        trusting: take the first file's replicas however far the others are apart.

    Raises:
        CheckpointError: shards of different models in a folder.
    """
    layers: list[tuple[Joined, bool]] = []
    notes: list[str] = []
    for folder in found:
        shards = [mapped(path) for path in folder.files]
        try:
            joined = Joined(shards, CUTS, [path.name for path in folder.files])
        except CheckpointError as error:
            raise error.at(str(folder.root)) from None
        apart = joined.apart()
        if apart > APART and not trusting:
            raise CheckpointError(
                "the shards belong to different models: weights that each of them holds whole are "
                f"{apart:.0%} apart",
                where=str(folder.root),
                hint="copy them from one place, or take the first one's with --word replicas=first",
            )
        if apart:
            notes.append(
                f"weights that each shard of {folder.root.name} holds whole differ by {apart:.1e}; "
                "the first one's are taken"
            )
        layers.append((joined, folder.names is DIFFERENCE))
    return Laid(layers), notes
