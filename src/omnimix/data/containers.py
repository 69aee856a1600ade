"""Containers: where rows lie, whatever their form. Each gives plain data by index and says where a row stands.

What a file is, its content says; a row is read when it is asked for, so that a container is small, however large
the file, and crosses into worker processes as a path and a few numbers.
"""

from __future__ import annotations

import abc
import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from omnimix.data.saved import arrow_files
from omnimix.errors import OmnimixError, SampleError, placed, reason

NO_LIST = "the file holds no list of records"
LINES = (".jsonl", ".ndjson")
"""Endings of files with a row a line, in whatever case."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Whatever goes wrong inside is a sentence about one row."""
    try:
        with placed(where):
            yield
    except (OmnimixError, MemoryError):
        raise
    except Exception as error:
        raise SampleError(
            f"the row has not the form it should have ({wrong_form(error)})", where=where
        ) from error


def wrong_form(error: Exception) -> str:
    """As `reason`; what only those understand who know what the program does with a row is left out."""
    if isinstance(error, TypeError | AttributeError):
        return "a value is of another kind than it should be"
    return reason(error)


class Rows(Sequence[Any], abc.ABC):
    """Rows of one container.

    Attributes:
        path: the file or folder.
        folder: that paths in the rows are relative to.
    """

    path: Path
    folder: Path

    @abc.abstractmethod
    def where(self, index: int) -> str:
        """Where a row stands, for messages."""

    def files(self) -> list[Path] | None:
        """The files that rows are read from; None where they are in memory."""
        return [self.path]

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        with reading(self.where(index)):
            return self._row(index)

    @abc.abstractmethod
    def _row(self, index: int) -> Any: ...


PLACE, FAULT = "place", "fault"


def kept(rows: Rows, index: int) -> dict[str, Any]:
    """A row to keep in memory, with its place; one that cannot be read holds its error, and raises in `sound`."""
    where = rows.where(index)
    try:
        row = rows[index]
    except SampleError as error:
        return {FAULT: error, PLACE: where}
    return {**(row if isinstance(row, dict) else {}), PLACE: where}


def sound(row: dict[str, Any]) -> dict[str, Any]:
    """A kept row, or the error with which it could not be read."""
    if isinstance(fault := row.get(FAULT), SampleError):
        raise fault
    return row


class JsonRows(Rows):
    """A JSON list, or JSON lines; byte order marks are read, and lines end at `\\n` alone.

    Raises:
        SampleError: a file that cannot be read, a list that is no JSON, or no list at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.parent
        try:
            with path.open("rb") as file:
                head = file.read(4)
                found = ((mark, name) for mark, name in _MARKS if head.startswith(mark))
                mark, self.encoding = next(found, (b"", "utf-8"))
                file.seek(len(mark))
                first = file.read(4096).decode(self.encoding, "replace").lstrip()[:1]
            lined = path.suffix.lower() in LINES or (first == "{" and self._is_lined(len(mark)))
            self.lined = lined and first != "["
            spans = self._lines(len(mark)) if self.lined else self._list(len(mark))
        except (OSError, UnicodeDecodeError) as error:
            raise SampleError(f"cannot read the file ({reason(error)})", where=str(path)) from None
        self.spans = np.array(spans, dtype=np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self.spans)

    def where(self, index: int) -> str:
        line = int(self.spans[index, 2])
        if self.lined:
            return f"{self.path.name}: line {line}"
        many = f" (line {line})" if self.spans[-1, 2] > 1 else ""
        return f"{self.path.name}: record {index + 1}{many}"

    def _row(self, index: int) -> Any:
        start, end, _ = self.spans[index]
        with self.path.open("rb") as file:
            file.seek(int(start))
            content = file.read(int(end - start))
        try:
            return json.loads(content.decode(self.encoding))
        except json.JSONDecodeError as error:
            what = f"not JSON ({error.msg} at column {error.colno})"
        except UnicodeDecodeError as error:
            what = f"not {self.encoding} (at byte {error.start + 1})"
        except (ValueError, RecursionError) as error:
            what = f"not JSON that can be read ({error})"
        raise SampleError(what, where=self.where(index), hint="write one JSON object a line")

    def _is_lined(self, skip: int) -> bool:
        """Whether a file without the ending of one holds a row a line: several lines, each whole."""
        lines = (text for text, _, _ in self._texts(skip) if text.strip())
        try:
            return isinstance(json.loads(next(lines, "")), dict) and next(lines, None) is not None
        except (ValueError, RecursionError):
            return False

    def _texts(self, skip: int) -> Iterator[tuple[str, int, int]]:
        """Every line with its first and last byte."""
        at = skip
        newline = "\n".encode(self.encoding)
        with self.path.open("rb") as file:
            file.seek(skip)
            # Only in UTF-8 is every byte 10 a line's end.
            wide = len(newline) > 1
            content = file.read().decode(self.encoding).split("\n") if wide else file
            for line in content:
                raw = line if isinstance(line, bytes) else f"{line}\n".encode(self.encoding)
                text = raw.decode(self.encoding, "replace")
                yield text, at, at + len(raw)
                at += len(raw)

    def _lines(self, skip: int) -> list[tuple[int, int, int]]:
        lines = enumerate(self._texts(skip), 1)
        spans = [(start, end, n) for n, (text, start, end) in lines if text.strip()]
        if not spans:
            raise SampleError("the file holds no record", where=str(self.path))
        return spans

    def _list(self, skip: int) -> list[tuple[int, int, int]]:
        """First and last byte of every element, and its line; the whole is checked to be JSON."""
        text = self.path.read_bytes()[skip:].decode(self.encoding)
        try:
            places = list(_elements(text))
        except (ValueError, RecursionError) as error:
            raise SampleError(f"not JSON ({error})", where=str(self.path)) from None
        if not places:
            raise SampleError(NO_LIST, where=str(self.path))
        spans, byte, char, line = [], skip, 0, 1
        for start, end in places:
            between = text[char:start]
            byte += len(between.encode(self.encoding))
            line += between.count("\n")
            inside = text[start:end]
            size = len(inside.encode(self.encoding))
            spans.append((byte, byte + size, line))
            byte, char, line = byte + size, end, line + inside.count("\n")
        return spans


def _elements(text: str) -> Iterator[tuple[int, int]]:
    """First and last character of every element of a JSON list; nothing where the text is no list."""
    decoder = json.JSONDecoder()

    def blank(at: int) -> int:
        while at < len(text) and text[at] in " \t\n\r":
            at += 1
        return at

    at = blank(0)
    if text[at : at + 1] != "[":
        json.loads(text)  # says what is wrong, where it is no JSON either
        return
    at = blank(at + 1)
    while text[at : at + 1] != "]":
        _, end = decoder.raw_decode(text, at)
        yield at, end
        at = blank(end)
        if text[at : at + 1] == ",":
            at = blank(at + 1)
            if text[at : at + 1] == "]":
                raise json.JSONDecodeError("a comma before the end of the list", text, at)
        elif text[at : at + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    if blank(at + 1) != len(text):
        raise json.JSONDecodeError("Extra data", text, blank(at + 1))


class CsvRows(Rows):
    """A table of text with a header; commas, semicolons or tabs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.parent
        csv.field_size_limit(1 << 27)
        try:
            raw = path.read_bytes()
            found = ((m, n) for m, n in _MARKS if raw.startswith(m))
            mark, encoding = next(found, (b"", "utf-8"))
            text = raw[len(mark) :].decode(encoding)
            header = text.split("\n", 1)[0]
            cut = max("\t,;", key=header.count)
            reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=cut, strict=True)
            self.rows: list[dict[str, Any]] = []
            self.lines: list[int] = []
            line = 2
            for row in reader:
                self.rows.append(row)
                self.lines.append(line)
                line = reader.line_num + 1
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise SampleError(f"cannot read the table ({error})", where=str(path)) from None
        if not self.rows:
            raise SampleError("the file holds no record", where=str(path))

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int) -> str:
        return f"{self.path.name}: line {self.lines[index]}"

    def _row(self, index: int) -> Any:
        row = self.rows[index]
        if None in row:
            raise SampleError(
                "more fields than the header names",
                where=self.where(index),
                hint='put a field that holds the separator into "quotes"',
            )
        return row


class _Tables(Rows):
    """Rows of Arrow's tables, in files that are mapped."""

    ending: str

    def __init__(self, path: Path) -> None:
        needed("pyarrow", "data", path)
        self.path = path
        self.folder = path.parent
        self.found = [path] if path.is_file() else self._below(path)
        if not self.found:
            raise SampleError(f"the folder holds no file .{self.ending}", where=str(path))
        self._begin()

    def _below(self, folder: Path) -> list[Path]:
        return sorted(folder.rglob(f"*.{self.ending}"))

    @abc.abstractmethod
    def _begin(self) -> None:
        """Open the files."""

    def files(self) -> list[Path] | None:
        return self.found

    def where(self, index: int) -> str:
        return f"{self.path.name}: row {index + 1}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)  # another process maps the files itself


class ArrowRows(_Tables):
    """A folder that `save_to_disk` of `datasets` wrote, a folder of `*.arrow`, or one such file.

    Raises:
        SampleError: no such file, or one that is damaged.
    """

    ending = "arrow"

    def _below(self, folder: Path) -> list[Path]:
        return arrow_files(folder)

    def _begin(self) -> None:
        import pyarrow

        tables = [_table(file) for file in self.found]
        self.table = pyarrow.concat_tables(tables, promote_options="default")

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def _row(self, index: int) -> Any:
        return self.table.slice(index, 1).to_pylist()[0]


def _table(file: Path) -> Any:
    import pyarrow

    mapped = pyarrow.memory_map(str(file))
    try:
        try:
            return pyarrow.ipc.open_stream(mapped).read_all()
        except pyarrow.ArrowInvalid:
            return pyarrow.ipc.open_file(mapped).read_all()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise SampleError(f"not an Arrow file ({error})", where=str(file)) from None


class ParquetRows(_Tables):
    """A Parquet file or a folder of them; one group of rows is in memory at a time."""

    ending = "parquet"

    def _begin(self) -> None:
        import pyarrow
        from pyarrow import parquet

        try:
            self.open = [parquet.ParquetFile(file, memory_map=True) for file in self.found]
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise SampleError(f"not a Parquet file ({error})", where=str(self.path)) from None
        self.groups = [
            (number, group, file.metadata.row_group(group).num_rows)
            for number, file in enumerate(self.open)
            for group in range(file.metadata.num_row_groups)
        ]
        self.ends = np.cumsum([rows for _, _, rows in self.groups])
        self.held: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def _row(self, index: int) -> Any:
        which = int(np.searchsorted(self.ends, index, side="right"))
        if self.held[0] != which:
            number, group, _ = self.groups[which]
            self.held = which, self.open[number].read_row_group(group)
        before = int(self.ends[which - 1]) if which else 0
        return self.held[1].slice(index - before, 1).to_pylist()[0]


def needed(package: str, extra: str, where: Path) -> None:
    """Refuse by name what needs a package that is not there.

    Raises:
        SampleError: says which, and how it is installed.
    """
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise SampleError(
            f"this needs the package {package}, which is not installed",
            where=str(where),
            hint=f"install it with pip install 'omnimix[{extra}]'",
        )
