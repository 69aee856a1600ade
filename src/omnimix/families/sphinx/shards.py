"""What lies in a SPHINX folder: shards of one of three layouts, and the small files beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from omnimix.checkpoints.base import Layout, looks_like
from omnimix.checkpoints.shards import APART, Joined, Laid
from omnimix.errors import CheckpointError
from omnimix.families.sphinx.names import CUTS, PREFIX

SAVED = re.compile(r"consolidated\.(\d+)-of-(\d+)\.model\.pth")
DIFFERENCE = re.compile(r"consolidated\.(\d+)-of-(\d+)\.model-diff\.pth")
META = re.compile(r"consolidated\.(\d+)\.pth")

KINDS = {SAVED: "saved by its trainer", META: "Meta's own", DIFFERENCE: "a difference"}
"""File names of a layout, and what it is called in messages."""


@dataclass(frozen=True, kw_only=True)
class Shards(Layout):
    """One folder of shards.

    Attributes:
        names: the layout, a key of `KINDS`.
        config, meta, tokenizer: files beside the shards; None where there is none.
    """

    names: re.Pattern[str]
    config: Path | None
    meta: Path | None
    tokenizer: Path | None


def look(root: Path) -> Shards | None:
    """What lies in a folder; None where there are no shards.

    Raises:
        CheckpointError: shards that are missing, or of two ways of cutting.
    """
    for names, kind in KINDS.items() if root.is_dir() else ():
        matches = [match for path in root.iterdir() if (match := names.fullmatch(path.name))]
        if matches:
            files = _all_there(root, names, sorted(matches, key=lambda match: match[0]))
            return Shards(
                "sphinx",
                f"{kind}, {len(files)} shard{'s' if len(files) > 1 else ''}",
                root,
                files,
                names=names,
                config=_first(root, "config.json", "params.json"),
                meta=_first(root, "meta.json"),
                tokenizer=_first(root, "tokenizer.model"),
            )
    return None


def _all_there(
    root: Path, names: re.Pattern[str], matches: Sequence[re.Match[str]]
) -> tuple[Path, ...]:
    """The shards in order, each number once."""
    totals = {int(match[2]) for match in matches} if names is not META else {len(matches)}
    if len(totals) > 1:
        said = " and ".join(map(str, sorted(totals)))
        raise CheckpointError(
            f"the folder holds checkpoints of {said} shards side by side",
            where=str(root),
            hint="keep the shards of one of them alone in a folder",
        )
    (total,) = totals
    by_number = {int(match[1]): root / match[0] for match in matches}
    absent = sorted(set(range(total)) - by_number.keys())
    if absent or len(by_number) != total:
        odd = absent[0] if absent else max(by_number)
        name = re.sub(r"\.\d+", f".{odd:02d}", matches[0][0], count=1)
        raise CheckpointError(
            f"{len(by_number)} of {total} shards are there: "
            f"{name} is {'missing' if absent else 'one too many'}",
            where=str(root),
            hint="copy the whole folder again",
        )
    return tuple(by_number[i] for i in range(total))


def _first(root: Path, *names: str) -> Path | None:
    return next((root / name for name in names if (root / name).is_file()), None)


def stacked(lowest: Shards, over: Sequence[Path] = ()) -> list[Shards]:
    """A folder and those that are laid over it.

    Raises:
        CheckpointError: one without shards, or a difference with nothing below it.
    """
    folders = [lowest]
    for root in over:
        folder = look(root)
        if folder is None:
            raise CheckpointError(
                f"no shards of SPHINX: {looks_like(root)}",
                where=str(root),
                hint="a folder holds consolidated.00-of-02.model.pth and its like",
            )
        folders.append(folder)
    if lowest.names is DIFFERENCE:
        raise CheckpointError(
            "the folder holds a difference to other weights, not the weights",
            where=str(lowest.root),
            hint="name the folder of those weights first and this one as the part 'over'",
        )
    return folders


def _full_keys(layout: Shards, path: Path) -> dict[str, Tensor]:
    """The tensors of one shard by their full keys, whatever the file nests them in."""
    stored = layout.opened.tensors(path)
    nested = f"model.{PREFIX}"
    if any(key.startswith(nested) for key in stored):
        return {k.removeprefix("model."): t for k, t in stored.items() if k.startswith("model.")}
    if layout.names is META or not any(key.startswith(PREFIX) for key in stored):
        return {f"{PREFIX}{key.removeprefix('model.')}": tensor for key, tensor in stored.items()}
    return stored


def whole(folders: Sequence[Shards], trusting: bool = False) -> tuple[Laid, list[str]]:
    """The tensors of folders laid one over another, joined when they are asked for, and notes.

    Args:
        trusting: take the first file's replicas however far the others are apart.

    Raises:
        CheckpointError: shards of different models in a folder.
    """
    layers: list[tuple[Joined, bool]] = []
    notes: list[str] = []
    for folder in folders:
        pieces = [_full_keys(folder, path) for path in folder.files]
        try:
            joined = Joined(pieces, CUTS, [path.name for path in folder.files])
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
