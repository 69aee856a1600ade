"""The one reader of containers: which one a path is, by its content."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from omnimix.data.containers import (
    LINES,
    ArrowRows,
    CsvRows,
    JsonRows,
    ParquetRows,
    Rows,
)
from omnimix.data.saved import arrow_files, is_cache
from omnimix.data.shards import TarRows
from omnimix.errors import SampleError

T = TypeVar("T")

_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip", b"BZh": "bzip2"}
_HINT = "rows lie in JSON, JSON lines, CSV, TSV, Parquet, Arrow or tar files"
_FOLDERS = ("*.parquet", "*.tar", "*.jsonl", "*.ndjson", "*.json", "*.csv", "*.tsv")


class ListedRows(Rows):
    """Rows that are in memory already: a list of tables, or a `Dataset` of the package `datasets`."""

    def __init__(self, rows: Any, folder: Path = Path(), name: str = "rows") -> None:
        self.path = folder / name
        self.folder = folder
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int) -> str:
        return f"{self.path.name}: row {index + 1}"

    def files(self) -> list[Path] | None:
        return None

    def _row(self, index: int) -> Any:
        return self.rows[index]


class JoinedRows(Rows):
    """Several containers, one behind the other."""

    def __init__(self, path: Path, parts: Iterable[Rows]) -> None:
        self.path = path
        self.folder = path if path.is_dir() else path.parent
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def _at(self, index: int, ask: Callable[[Rows, int], T]) -> T:
        which = int(np.searchsorted(self.ends, index, side="right"))
        return ask(self.parts[which], index - (int(self.ends[which - 1]) if which else 0))

    def where(self, index: int) -> str:
        return self._at(index, lambda part, i: part.where(i))

    def files(self) -> list[Path] | None:
        found = [part.files() for part in self.parts]
        return None if None in found else [file for files in found for file in files or ()]

    def _row(self, index: int) -> Any:
        return self._at(index, lambda part, i: part[i])


def open_rows(path: Path) -> Rows:
    """The rows of a file, of a folder, or of all files that a pattern (`shards/*.tar`) names.

    Raises:
        SampleError: nothing there, something else, or a damaged file.
    """
    if any(sign in path.name for sign in "*?[") and not path.exists():
        return _joined(path, _matching(path))
    if path.is_dir():
        return _folder(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        what = f"cannot read the file ({error.strerror})"
        raise SampleError(what, where=str(path), hint=_HINT) from None
    return _file(path, head)


def shards_of(path: Path) -> list[Path]:
    """The files of a folder, of a pattern, or the file itself, none of them opened.

    Raises:
        SampleError: nothing there, or several splits.
    """
    if any(sign in path.name for sign in "*?[") and not path.exists():
        found = _matching(path)
    elif path.is_dir():
        _check_splits(path)
        others = (sorted(path.rglob(pattern)) for pattern in _FOLDERS)
        found = arrow_files(path) or next((files for files in others if files), [])
    else:
        found = [path] if path.is_file() else []
    if not found:
        raise SampleError("there is no file of rows", where=str(path), hint=_HINT)
    return found


def _matching(pattern: Path) -> list[Path]:
    """All files that a pattern names; caches of `datasets` only where it begins as they do."""
    found = sorted(pattern.parent.glob(pattern.name))
    return found if is_cache(pattern) else [file for file in found if not is_cache(file)]


def _file(path: Path, head: bytes) -> Rows:
    ending = path.suffix.lower()
    for mark, name in _PACKED.items():
        if head.startswith(mark):
            raise SampleError(f"the file is packed with {name}", where=str(path), hint="unpack it")
    if head.startswith(b"PAR1") or ending == ".parquet":
        return ParquetRows(path)
    if head.startswith(b"ARROW1") or ending == ".arrow":
        return ArrowRows(path)
    if head[257:262] == b"ustar" or ending == ".tar":
        return TarRows(path)
    if ending in (".csv", ".tsv"):
        return CsvRows(path)
    if ending in (".json", *LINES) or head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"[", b"{"):
        return JsonRows(path)
    raise SampleError("the file is none that rows are read from", where=str(path), hint=_HINT)


def _folder(path: Path) -> Rows:
    """What `save_to_disk` wrote, or all files of one kind."""
    _check_splits(path)
    if arrow_files(path):
        return ArrowRows(path)
    for name in ("metadata.jsonl", "metadata.csv", "metadata.parquet"):
        if (path / name).is_file():  # a folder of pictures with what is said about them
            return open_rows(path / name)
    for pattern in _FOLDERS:
        if files := sorted(path.glob(pattern)):
            return _joined(path, files)
    raise SampleError("the folder holds no file of rows", where=str(path), hint=_HINT)


def _check_splits(folder: Path) -> None:
    """Refuse a folder in which training and test rows lie side by side.

    Raises:
        SampleError: a saved `DatasetDict`.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(one.name for one in folder.iterdir() if one.is_dir())
        raise SampleError(
            f"the folder holds several splits: {', '.join(splits)}",
            where=str(folder),
            hint=f"name one of them, {folder.name}/{splits[0] if splits else 'train'}",
        )


def _joined(path: Path, files: list[Path]) -> Rows:
    if not files:
        raise SampleError("no file has such a name", where=str(path), hint="check the pattern")
    return JoinedRows(path, map(open_rows, files))
