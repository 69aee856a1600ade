"""Parts that a checkpoint does not hold: hub ids and local folders in the hub's layout.

A part is named by a hub id (`timm/vit_so400m_patch14_siglip_384`), a folder, or a file of weights. Hub ids
go through `huggingface_hub`: resumable, cached, and never on the wire where `HF_HUB_OFFLINE` is set.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnimix.checkpoints.base import looks_like, read_json
from omnimix.errors import CheckpointError

CONFIGS = ("*.json", "*.model", "*.txt")
"""Files of a repository that are small: configurations and tokenizers."""

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


def folder(place: str | Path, what: str, files: Sequence[str], revision: str | None = None) -> Path:
    """The local folder (or file) of a part.

    Args:
        place: a local path or a hub id.
        what: the part's name for messages.
        files: patterns of the files that are needed, where they have to be fetched.
        revision: branch, tag or commit on the hub.

    Raises:
        CheckpointError: neither there nor to be had.
    """
    path = Path(place)
    if path.exists():
        return path
    name = str(place)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise CheckpointError(
            f"there is no {what} at {name!r}",
            hint=f"name a local folder or a hub id, for instance --part {what}=FOLDER",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=list(files), local_files_only=_offline()
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        line = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        state = "offline, and not in the cache" if _offline() else line.strip().rstrip(".")
        raise CheckpointError(
            f"the {what} {name!r} cannot be had from the hub ({state})",
            hint=f"give a local folder in the hub's layout: --part {what}=FOLDER",
        ) from None


def _offline() -> bool:
    words = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(w, "").upper() in ("1", "ON", "YES", "TRUE") for w in words)


def weight_files(place: Path, what: str) -> tuple[Path, ...]:
    """The files of weights at a place, shards in order.

    Raises:
        CheckpointError: none there, or an index that names files which are not.
    """
    if place.is_file():
        return (place,)
    index = read_json(place / "model.safetensors.index.json")
    if index is not None and isinstance(index.get("weight_map"), dict):
        names = sorted(set(index["weight_map"].values()))
        absent = [name for name in names if not (place / name).is_file()]
        if absent:
            raise CheckpointError(
                f"{len(absent)} of {len(names)} shards of the {what} are missing: {absent[0]}",
                where=str(place),
                hint="copy the whole folder again",
            )
        return tuple(place / name for name in names)
    found = sorted(place.glob("*.safetensors")) or sorted(place.glob("*.pt"))
    found = found or sorted(place.glob("pytorch_model*.bin"))
    if not found:
        raise CheckpointError(
            f"no weights of the {what}: {looks_like(place)}",
            where=str(place),
            hint="a folder in the hub's layout holds model.safetensors",
        )
    return tuple(found)


def config(place: Path, what: str) -> dict[str, Any]:
    """The `config.json` of a part.

    Raises:
        CheckpointError: there is none.
    """
    found = read_json(place / "config.json") if place.is_dir() else None
    if found is None:
        raise CheckpointError(
            f"no config.json of the {what}: {looks_like(place)}",
            where=str(place),
            hint="name a folder in the hub's layout",
        )
    return found
