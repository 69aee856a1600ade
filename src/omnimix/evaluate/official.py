"""Rows of a benchmark as its authors publish them: which files, where in them the rows lie, which files are joined.

A row is read when it is asked for; only what has to be looked at to know how many there are (lists inside rows, parts
left out, joined files) is read before.
"""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from omnimix.config import Spec
from omnimix.data.containers import Rows, reading
from omnimix.data.opened import ListedRows, open_rows
from omnimix.data.roots import inside
from omnimix.errors import SampleError, kind_of, reason
from omnimix.types import Box, Media, Point


class OfficialFiles(Spec):
    """Where rows lie below a benchmark's folder.

    Attributes:
        files: patterns of files; the rows of all of them stand one behind another.
        at: where in a JSON file the rows lie (`data`, `questions.image`); the fields beside them that are no lists or
            tables are part of every row.
        key: where rows are a table, the field that its keys become.
    """

    files: tuple[str, ...]
    at: str = ""
    key: str = ""


class JoinedFiles(OfficialFiles):
    """Rows of other files that are put together with these.

    Attributes:
        match: our field and theirs that are the same.
        many: ours stay single and get the list of all that fit under this name; else there is one that fits.
    """

    match: tuple[str, str]
    many: str = ""


class _Plain(pickle.Unpickler):
    """Lists, tables, texts and numbers alone: whatever would import a name is refused before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        raise SampleError(f"the file would run code ({module}.{name})", hint="take another copy")


def value_at(row: Any, path: str) -> Any:
    """A field of a row, `a.b` for one inside another and `a[].b` for that of all of a list.

    Raises:
        KeyError: there is none.
    """
    word, _, rest = path.partition(".")
    if word.endswith("[]"):
        many = row[word[:-2]]
        return [value_at(one, rest) if rest else one for one in many]
    found = row[int(word) if isinstance(row, list) else word]
    return value_at(found, rest) if rest else found


def found_files(folder: Path, spec: OfficialFiles) -> list[Path]:
    """The files of a benchmark, in the order of their names.

    Raises:
        SampleError: none is there.
    """
    found = [path for pattern in spec.files for path in sorted(folder.glob(pattern))]
    found = [path for path in dict.fromkeys(found) if path.is_file()]
    if not found:
        raise SampleError(
            f"there is no file {' or '.join(spec.files)}",
            where=str(folder),
            hint="name the folder that holds the official files; omnimix data get NAME says where they are",
        )
    return found


def rows_in(path: Path, spec: OfficialFiles, folder: Path) -> Rows:
    """The rows of one file.

    Raises:
        SampleError: the file cannot be read, or holds none where they should be.
    """
    if path.suffix == ".txt":
        return _lines(path, folder)
    if path.suffix == ".p":
        return _listed(path, _unpickled(path))
    if not (spec.at or spec.key):
        return open_rows(path)
    with reading(path.name):
        whole = json.loads(path.read_text(encoding="utf-8-sig"))
    try:
        rows = value_at(whole, spec.at) if spec.at else whole
    except (KeyError, TypeError, IndexError):
        raise SampleError(f"it has no {spec.at!r}", where=str(path)) from None
    about = {} if not spec.at else _around(whole, spec.at)
    if isinstance(rows, Mapping):
        rows = [{**about, **_table(row), spec.key or "key": key} for key, row in rows.items()]
    elif about:
        rows = [{**about, **row} if isinstance(row, Mapping) else row for row in rows]
    return _listed(path, rows)


def _table(row: Any) -> Mapping[str, Any]:
    return row if isinstance(row, Mapping) else {"value": row}


def _around(whole: Mapping[str, Any], at: str) -> dict[str, Any]:
    parent = value_at(whole, at.rpartition(".")[0]) if "." in at else whole
    return {k: v for k, v in parent.items() if not isinstance(v, list | dict)}


def _listed(path: Path, rows: Any) -> Rows:
    if not isinstance(rows, list):
        raise SampleError(f"{kind_of(rows)} stands where the rows should be", where=str(path))
    return ListedRows(rows, path.parent, path.name)


def _lines(path: Path, folder: Path) -> Rows:
    """Lines `field TAB field`, as MME has them: a picture's questions in a file of its name.

    The picture lies beside the file, or in `images` where the file lies in `questions_answers_YN`; the task is the
    folder of both.
    """
    apart = path.parent.name == "questions_answers_YN"
    task = path.parent.parent if apart else path.parent
    beside = (task / "images" if apart else task) / path.stem
    endings = (".jpg", ".png", ".jpeg")
    picture = next(
        (p for e in endings if (p := beside.with_name(beside.name + e)).is_file()), beside
    )
    about = {"_picture": picture.relative_to(folder).as_posix(), "_task": task.name}
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    rows = [{"fields": line.rstrip("\r").split("\t"), **about} for line in lines if line.strip()]
    return _listed(path, rows)


def _unpickled(path: Path) -> Any:
    with reading(path.name):
        return _Plain(io.BytesIO(path.read_bytes()), encoding="latin1").load()


class OfficialRows(Rows):
    """The rows of a benchmark.

    Every row has, beside its fields, `_file` (name of its file without ending), `_folder` and `_row` (from 0).

    Args:
        each: fields that are lists of one length, of whose elements each makes a row; `as` names them inside it.
        only: rows whose field has one of some values.
    """

    def __init__(
        self,
        folder: Path,
        spec: OfficialFiles,
        join: Sequence[JoinedFiles] = (),
        each: Mapping[str, str] | None = None,
        only: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        self.path = self.folder = folder
        self.paths = found_files(folder, spec)
        self.parts = [rows_in(path, spec, folder) for path in self.paths]
        self.each, self.only = each or {}, only or {}
        self.joined = [(one, _by(folder, one)) for one in join]
        self.places = list(self._placed())

    def __len__(self) -> int:
        return len(self.places)

    def where(self, index: int) -> str:
        part, row, inner = self.places[index]
        more = f" ({inner + 1})" if inner is not None else ""
        return f"{self.parts[part].where(row)}{more}"

    def files(self) -> list[Path]:
        return self.paths

    def _placed(self) -> Iterator[tuple[int, int, int | None]]:
        """Where each row lies; one that cannot be looked into is kept, and raises when it is asked for."""
        for number, part in enumerate(self.parts):
            for index in range(len(part)):
                inner: Sequence[int | None] = (None,)
                if self.each or self.only:
                    try:
                        row = self._whole(number, index)
                        if any(row.get(field) not in values for field, values in self.only.items()):
                            continue
                        if self.each:
                            inner = range(len(value_at(row, next(iter(self.each)))))
                    except (SampleError, LookupError, TypeError, ValueError):
                        inner = (None,)
                yield from ((number, index, one) for one in inner)

    def _whole(self, number: int, index: int) -> dict[str, Any]:
        row = self.parts[number][index]
        if not isinstance(row, Mapping):
            raise SampleError(f"the row is {kind_of(row)}, not a table")
        path = self.paths[number]
        row = {**row, "_file": path.stem, "_folder": path.parent.name, "_row": index}
        for spec, table in self.joined:
            found = table.get(str(value_at(row, spec.match[0])), [])
            if spec.many:
                row[spec.many] = found
            elif not found:
                raise SampleError(f"no row of {spec.files[0]} has its {spec.match[1]}")
            else:
                row = {**found[0], **row}
        return row

    def _row(self, index: int) -> Any:
        number, at, inner = self.places[index]
        row = self._whole(number, at)
        if inner is None and self.each:
            raise SampleError(f"it has no list {next(iter(self.each))!r}")
        for field, name in self.each.items() if inner is not None else ():
            row[name] = value_at(row, field)[inner]
        return row


def _by(folder: Path, spec: JoinedFiles) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for path in found_files(folder, spec):
        rows = rows_in(path, spec, folder)
        for index in range(len(rows)):
            try:
                row = rows[index]
                found.setdefault(str(value_at(row, spec.match[1])), []).append(row)
            except (SampleError, LookupError, TypeError):
                continue  # what it should have been joined to says that it is not there
    return found


def file_in(folder: Path, name: str, where: str) -> Path:
    """A picture below a benchmark's folder.

    Raises:
        SampleError: the name leads out of the folder, or nothing is there.
    """
    path = inside(folder, name, "picture", where)
    if not path.is_file():
        raise SampleError(f"the picture {name} is not there", where=where, hint="fetch it")
    return path


def why(error: Exception) -> str:
    """What a row lacks, in words."""
    if isinstance(error, TypeError):
        return f"a field is of another kind than it should be ({error})"
    if isinstance(error, IndexError):
        return "it has fewer parts than it should have"
    return f"it has no field {error}" if isinstance(error, KeyError) else reason(error)


_SHARES = re.compile(r"\[([\d.]+), ?([\d.]+), ?([\d.]+), ?([\d.]+)\]")


def pointed(text: str, picture: Media) -> tuple[str, list[Box | Point]]:
    """A question with `{1}` for each box of shares in it, and those boxes in pixels of the picture.

    Raises:
        SampleError: the picture cannot be read.
    """
    try:
        with Image.open(picture.data) as shown:
            width, height = shown.size
    except (OSError, ValueError) as error:
        raise SampleError(f"the picture cannot be read ({error})", where=picture.label) from None
    boxes: list[Box | Point] = []

    def named(found: re.Match[str]) -> str:
        x1, y1, x2, y2 = map(float, found.groups())
        boxes.append(Box(x1 * width, y1 * height, x2 * width, y2 * height))
        return f"{{{len(boxes)}}}"

    return _SHARES.sub(named, text), boxes
