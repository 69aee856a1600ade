"""What a name of pretrained files stands for: a folder in the hub's layout, one file, or a hub id.

`located` is the one place where such a name becomes a path. Hub ids go through `huggingface_hub`: resumable,
cached, and never on the wire where `HF_HUB_OFFLINE` is set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from omnimix.errors import CheckpointError, kind_of

CONFIGS = ("*.json", "*.model", "*.txt", "*.jinja")
"""Files of a repository that are small: configurations, tokenizers, chat templates."""

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")

OLDER = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin")
"""Weights of a repository that has none as safetensors; they are read with `weights_only`."""

_WORDS: ContextVar[dict[str, Any] | None] = ContextVar("hub", default=None)


@contextmanager
def asked(token: str | None = None, cache_dir: str | Path | None = None) -> Iterator[None]:
    """Inside, every download goes with this token and into this cache; None is `huggingface_hub`'s own."""
    given = {"token": token, "cache_dir": cache_dir}
    reset = _WORDS.set({word: value for word, value in given.items() if value is not None})
    try:
        yield
    finally:
        _WORDS.reset(reset)


def words() -> dict[str, Any]:
    """Further words of `snapshot_download`."""
    return dict(_WORDS.get() or {})


def offline() -> bool:
    """Whether the hub is switched off."""
    switches = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(w, "").upper() in ("1", "ON", "YES", "TRUE") for w in switches)


def is_id(name: str) -> bool:
    """Whether a name may be one of the hub's (`owner/model`)."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def is_inside(name: str) -> bool:
    """Whether a name stays below the folder that it is looked up in."""
    path = PurePath(name)
    windows = PureWindowsPath(name)  # a model is carried from one system to another
    parts = {*path.parts, *windows.parts}
    return not (
        path.is_absolute() or windows.drive or windows.root or ".." in parts or "\0" in name
    )


def located(
    name: str, folders: Sequence[Path], what: str, hint: str, weights: bool = True
) -> tuple[Path, bool]:
    """Where pretrained files lie, and whether their name is one of the hub's.

    Args:
        name: a folder or file, counted from one of `folders`, else a hub id.
        folders: looked into in order: the recipe's own, the training file's.
        what: the part's name for messages.
        hint: the way out where there is nothing of the name.
        weights: fetch the weights too, not the small files alone.

    Raises:
        CheckpointError: neither there nor to be had.
    """
    for folder in folders:
        path = folder / Path(name).expanduser()
        if path.exists():
            return path.resolve(), False
    if not is_id(name):
        looked = ", ".join(str(folder) for folder in folders) or "nowhere"
        raise CheckpointError(f"there is no {what} at {name!r} (looked in {looked})", hint=hint)
    place = fetched(name, what, (*CONFIGS, *(WEIGHTS if weights else ())), hint)
    if weights and not any(place.glob("*.safetensors")):
        place = fetched(name, what, (*CONFIGS, *OLDER), hint)
    return place, True


def fetched(
    name: str, what: str, files: Sequence[str], hint: str, revision: str | None = None
) -> Path:
    """The local folder of a repository, with the files of these patterns.

    Raises:
        CheckpointError: it cannot be had, and is not in the cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(files),
                local_files_only=offline(),
                **words(),
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        line = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        reason = line.strip().rstrip(".")
        if offline():
            reason = "offline, and not in the cache"
        elif isinstance(error, LocalEntryNotFoundError):
            reason = f"not in the local cache, and the hub cannot be reached: {reason}"
        raise CheckpointError(
            f"the {what} {name!r} cannot be had from the hub ({reason})", hint=hint
        ) from None


def looks_like(path: Path) -> str:
    """What lies at a path, in a few words for messages."""
    if not path.exists():
        return "there is nothing"
    if path.is_file():
        return f"a file of {path.stat().st_size:,} bytes"
    names = sorted(child.name + ("/" if child.is_dir() else "") for child in path.iterdir())
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if names[6:] else "")
    return f"the folder holds {shown or 'nothing'}"


def token_text(token: Any) -> str | None:
    """A token in a tokenizer's configuration: its text, or a table that holds it."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return str(text) if text else None


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, with or without a byte order mark in front; None where there is no such file.

    Raises:
        CheckpointError: the file is there and cannot be read, is no JSON, or holds something else.
    """
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the file is no JSON ({error})", where=str(path), hint="copy it again"
        ) from None
    if not isinstance(data, dict):
        raise CheckpointError(
            f"the file holds {kind_of(data)} where a table of words is wanted",
            where=str(path),
            hint="copy it again",
        )
    return data
