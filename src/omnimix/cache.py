"""What is worked out once and kept beside the user's other caches: where it lies, how it is keyed, how it is bounded."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOVED = "OMNIMIX_CACHE"
"""The variable that moves the folder."""


def folder(kind: str) -> Path:
    """Where things of a kind lie: `$OMNIMIX_CACHE/KIND`, else `~/.cache/omnimix/KIND`."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(MOVED) or Path(home) / "omnimix") / kind


def digest(*parts: Any) -> str:
    """A key of plain data and bytes."""
    found = hashlib.blake2b(digest_size=20)
    for part in parts:
        content = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        found.update(len(content).to_bytes(8, "little") + content)
    return found.hexdigest()


def stamp(file: Path) -> tuple[str, int, int]:
    """What a file is known by without being read: its place, size and time of change."""
    about = file.stat()
    return str(file.resolve()), about.st_size, about.st_mtime_ns


@contextlib.contextmanager
def alone(place: Path) -> Iterator[None]:
    """Around work that one process of a machine shall do, while others wait for what it makes."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write(place: Path, content: bytes) -> None:
    """A file that is there whole or not at all, whoever else writes it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=place.parent, prefix=".", delete=False) as draft:
        try:
            draft.write(content)
            draft.close()
            Path(draft.name).replace(place)
        except BaseException:
            Path(draft.name).unlink()
            raise


def prune(place: Path, most: int) -> None:
    """Remove what was written longest ago until a folder has at most so many bytes."""
    files = [(f.stat().st_mtime_ns, f.stat().st_size, f) for f in place.glob("*") if f.is_file()]
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= most:
            return
        file.unlink(missing_ok=True)
        total -= size
