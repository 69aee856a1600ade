"""Folders of Arrow files as the package `datasets` leaves them: which of the files hold the rows."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from omnimix.errors import SampleError

STATE = "state.json"
"""What `save_to_disk` says beside the rows."""


def is_cache(file: Path) -> bool:
    """Whether `datasets` wrote a file for itself: what `map`, `filter` or `shuffle` once made of the rows."""
    return file.suffix == ".arrow" and file.name.startswith(("cache-", "tmp"))


def arrow_files(folder: Path) -> list[Path]:
    """The files of rows in a folder and below it: those that a `state.json` beside them names, else all but caches.

    Raises:
        SampleError: a `state.json` that names a file elsewhere, or one that is not there.
    """
    named = _named(folder)
    if named is not None:
        return named
    found = [file for file in sorted(folder.rglob("*.arrow")) if not is_cache(file)]
    beside = {inner: _named(inner) for inner in {file.parent for file in found}}
    return [file for file in found if (named := beside[file.parent]) is None or file in named]


def _named(folder: Path) -> list[Path] | None:
    """What `state.json` in a folder names, in its order; None where there is none that names files."""
    where = folder / STATE
    try:
        state: Any = json.loads(where.read_text(encoding="utf-8"))
        names = [str(one["filename"]) for one in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # of another program, which may call a file so as well
    if state.get("_indices_data_files"):
        raise SampleError(
            "the rows are chosen by a file of indices, which is not read",
            where=str(where),
            hint="open the folder with datasets, call flatten_indices() and save it again",
        )
    for name in names:
        # A name is of the system that wrote it.
        if any(p.anchor or ".." in p.parts for p in (PurePosixPath(name), PureWindowsPath(name))):
            raise SampleError(f"{name!r} leads out of the folder", where=str(where))
        if not (folder / name).is_file():
            raise SampleError(
                f"the file {name!r} that it names is not there",
                where=str(where),
                hint="bring the file back, or save the dataset again",
            )
    return [folder / name for name in names]
