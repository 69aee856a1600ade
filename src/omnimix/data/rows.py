"""Rows of any form in any container, as samples: one table of formats, one reader of containers."""

from __future__ import annotations

import abc
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from omnimix.config import Spec, part
from omnimix.data.base import Source, SourceSpec
from omnimix.data.containers import Rows, reading
from omnimix.data.opened import ListedRows, open_rows, shards_of
from omnimix.data.placing import ROLES
from omnimix.data.roots import MediaWord, Roots, is_none
from omnimix.data.streams import BUFFER, FileStream, IterableStream
from omnimix.errors import OmnimixError, SampleError
from omnimix.registry import FORMATS
from omnimix.types import Sample

_ITEM = re.compile(
    r"(?P<sense>image|img|picture|photo|video|audio|sound|speech|document)s?"
    r"(?P<about>_?(path|file|url|name|filename|bytes)s?)?"
)
"""Keys that other tools keep items under."""

_TURNS = ("messages", "turns", "conversations")
"""Keys that rows keep their turns under."""

_SCALES = ("loss_scale", "weight", "loss")
"""What says of a turn what it counts for: our word, that of OpenAI and ShareGPT (0 or 1), and ms-swift's (true or false)."""

_GIVEN: ContextVar[Mapping[str, Any]] = ContextVar("_GIVEN", default=MappingProxyType({}))


@contextmanager
def given(rows: Mapping[str, Any]) -> Iterator[None]:
    """Inside, the path `@NAME` of a dataset stands for `rows[NAME]`, as `read_rows` takes them."""
    token = _GIVEN.set(rows)
    try:
        yield
    finally:
        _GIVEN.reset(token)


LOOKED = 16
"""Rows at the front of a file that its format is found by."""


class RowFormat(Spec, abc.ABC):
    """How a row says its conversation. A subclass is one form; its words are what may differ within it."""

    kind: str

    @classmethod
    @abc.abstractmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """Whether a row has the keys of this form; each row of the table answers for its own alone."""

    @abc.abstractmethod
    def sample(self, row: Mapping[str, Any], roots: Roots, where: str) -> Sample:
        """The conversation of a row.

        Raises:
            SampleError: the row is not of this form.
        """

    def reads(self) -> frozenset[str]:
        """The keys that items are read from; others that look like items are refused, never passed over."""
        return frozenset()

    def read(self, row: Any, roots: Roots, where: str) -> Sample:
        """As `sample`, of anything that a container may hold.

        Raises:
            SampleError: no table, or items under a key that this form does not know.
        """
        if not isinstance(row, Mapping):
            raise SampleError("a row is a table of words", where=where)
        self.no_unread_items(row, where)
        return _scaled(self.sample(row, roots, where), row, where)

    def no_unread_items(self, row: Mapping[str, Any], where: str) -> None:
        """Refuse items that would be left out without a word."""
        refuse_unread(row, self.reads(), f"the format {self.kind!r}", where)


def _scaled(sample: Sample, row: Mapping[str, Any], where: str) -> Sample:
    """What answers count for in the loss, as the row (`loss_scale`) and its turns say.

    Raises:
        SampleError: no number, or one of a turn that the row's format joins to another or learns nothing of.
    """
    said = next((row[name] for name in _TURNS if isinstance(row.get(name), list | tuple)), ())
    if not said and isinstance(row.get("completion"), list):
        said = [*row["prompt"], *row["completion"]]
    rivals = [one for name in ("chosen", "rejected") for one in _listed(row.get(name))]
    try:
        scales = [_scale_of(one) for one in rivals or said]
        if rivals and any(scale not in (None, 1) for scale in scales):
            raise SampleError(
                "what counts for more among preferences are rows, not turns of theirs"
            )
        if any(scale is not None for scale in scales) and not rivals:
            # A system turn that the row keeps elsewhere stands in front of them.
            front = len(sample.turns) - len(scales)
            if front < 0:
                raise SampleError("loss_scale of a turn that is joined to another one")
            each = [*[None] * front, *scales]
            turns = zip(sample.turns, each, strict=True)
            scaled = tuple(t if s is None else replace(t, loss_scale=s) for t, s in turns)
            sample = replace(sample, turns=scaled)
        whole = row.get("loss_scale")
        if whole is not None:
            replace(sample.turns[0], loss_scale=whole)  # says what is wrong with it
            sample = sample.scaled(whole)
    except SampleError as error:
        raise error.at(where) from None
    return sample


def _listed(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return (value,)
    return value if isinstance(value, list | tuple) else ()


def _scale_of(turn: Any) -> Any:
    """What a turn says that its answer counts for; None where it says nothing.

    Raises:
        SampleError: two words that say different things.
    """
    if not isinstance(turn, Mapping):
        return None
    given = {word: turn[word] for word in _SCALES if turn.get(word) is not None}
    if isinstance(learns := given.pop("loss", None), bool):
        given["loss"] = float(learns)
    if ROLES.get(str(turn.get("role", turn.get("from"))), "assistant") != "assistant":
        # There the words of others say nothing; ours is looked at all the same.
        return given.get("loss_scale")
    first, *others = given.values() or [None]
    if any(other != first for other in others):
        raise SampleError(f"{' and '.join(given)} of a turn say different things")
    return first


def refuse_unread(row: Mapping[str, Any], known: frozenset[str], who: str, where: str) -> None:
    """Refuse items under keys that a reader does not know, which it would leave out without a word.

    `image_url` beside an `image` that is read is a note about it, no item.
    """
    for key in row.keys() - known:
        match = _ITEM.fullmatch(str(key).lower())
        if match is None or is_none(row[key]):
            continue
        sense, about = match["sense"], match["about"]
        if about and any(not is_none(row.get(own)) for own in {sense, f"{sense}s"} & known):
            continue
        raise SampleError(
            f"{who} does not read the key {key!r}, which seems to hold items",
            where=where,
            hint=f"it reads {', '.join(sorted(known)) or 'no items'}; rename the key, name another "
            "format, or take the key out",
        )


def id_of(row: Mapping[str, Any], where: str) -> str:
    """A row's own name, else its place in the file."""
    id = row.get("id")
    return str(id) if isinstance(id, str | int) and id != "" else where


@cache
def _formats() -> tuple[type[RowFormat], ...]:
    # Those of the families are narrower than the common ones, so they are asked first.
    return tuple(FORMATS.load(name) for name in reversed(list(FORMATS)))


def format_of(rows: Rows) -> RowFormat:
    """The format of rows, found by the keys of the first ones.

    Raises:
        SampleError: none of the table; says which keys there are.
    """
    keys: list[str] = []
    for index in islice(range(len(rows)), LOOKED):
        try:
            row = rows[index]
        except OmnimixError:
            continue  # is named when it is read
        if not isinstance(row, Mapping):
            continue
        keys = keys or [str(key) for key in row]
        for form in _formats():
            if form.recognises(row):
                return form.model_validate({"kind": form.model_fields["kind"].default})
    raise SampleError(
        f"the rows are in no known format; their keys are {', '.join(keys[:12]) or 'none'}",
        where=rows.path.name,
        hint=f"name the format: {', '.join(FORMATS)}",
    )


class RowSource(Source):
    """Rows are read when they are asked for, media when the sample is woven."""

    def __init__(
        self,
        rows: Rows,
        form: RowFormat | None = None,
        roots: Roots | None = None,
        places: range | None = None,
    ) -> None:
        self.rows = rows
        self.path = rows.path
        self.form = form or format_of(rows)
        self.roots = roots or Roots(rows.folder)
        self.places = range(len(rows)) if places is None else places
        self.length = len(self.places)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self.places):
            raise IndexError(index)
        place = self.places[index]
        where = self.rows.where(place)
        with reading(where):
            return self.form.read(self.rows[place], self.roots, where)

    def where(self, index: int) -> str:
        """A row's place in its file."""
        return self.rows.where(self.places[index])

    def files(self) -> list[Path] | None:
        return self.rows.files()


class RowsSpec(SourceSpec):
    """Rows of any known format, which is found by their keys, in a file or folder of any known kind.

    Attributes:
        path: JSON, JSON lines, CSV, TSV, Parquet, an Arrow folder, or WebDataset's tar files (a folder or a
            pattern, `shards/*.tar`); `@NAME` for rows that Python brings along (`train(FILE, rows={NAME: dataset})`).
        format: the format by name, or with its words, where it is not to be found by the rows.
        media: the folder that paths of items are relative to, several that are tried in turn, or a map from the
            beginning of a path to the folder it stands for; default the folder of the file. Absolute paths
            are read where they lead into one of them, and what leads out is refused.
        slice: some of the rows as Python writes it, so that one file serves to train and to validate: `:-200`
            leaves the last 200 out, `-200:` takes them alone.
        stream: read file after file and hold none of them, for shards that are many or large; needs `max_steps`.
        shuffle_buffer: of a stream, rows that are read ahead and shuffled among themselves, 1000 by default;
            0 keeps the order of files and rows.
    """

    kind: Literal["rows"] = "rows"
    path: str
    format: Annotated[SerializeAsAny[RowFormat], part(FORMATS)] | None = None
    media: MediaWord = None
    slice: Annotated[str, Field(pattern=r"^-?\d*:-?\d*$")] = ":"
    stream: bool = False
    shuffle_buffer: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _streams(self) -> Self:
        if self.shuffle_buffer is not None and not self.stream:
            raise ValueError("shuffle_buffer is of a stream: add stream: true, or leave it out")
        if self.stream and self.slice != ":":
            raise ValueError("a stream is not counted: leave out slice, or stream")
        return self

    def open(self, folder: Path) -> Source:
        if self.path.startswith("@"):
            return self._given(folder)
        if self.stream:
            files = shards_of(folder / self.path)
            form = self.format or _first_format(files)
            opened = partial(_shard, form=form, folder=folder, media=self.media)
            return FileStream(files, opened, _buffer(self.shuffle_buffer))
        return self._sliced(open_rows(folder / self.path), folder)

    def _given(self, folder: Path) -> Source:
        """Rows that a caller in Python brought along.

        Raises:
            SampleError: nobody did.
        """
        rows = _GIVEN.get().get(self.path[1:])
        if rows is None:
            raise SampleError(
                f"no rows called {self.path[1:]!r} were given",
                hint=f"train from Python: train(FILE, rows={{{self.path[1:]!r}: dataset}})",
            )
        if self.stream:
            return _streamed(rows, self.format, self.media, self.shuffle_buffer, folder)
        listed = rows if hasattr(rows, "__len__") else list(rows)
        return self._sliced(ListedRows(listed, folder, self.path), folder)

    def _sliced(self, rows: Rows, folder: Path) -> Source:
        ends = [int(end) if end else None for end in self.slice.split(":")]
        roots = Roots(folder, self.media, rows.folder)
        places = range(len(rows))[slice(*ends)]
        if len(rows) and not places:
            raise SampleError(
                f"no row is left of {len(rows)}",
                where=f"{rows.path.name}: slice {self.slice!r}",
                hint="take fewer rows out",
            )
        return RowSource(rows, self.format, roots, places)


def _shard(file: Path, form: RowFormat, folder: Path, media: MediaWord) -> Source:
    rows = open_rows(file)
    return RowSource(rows, form, Roots(folder, media, rows.folder))


def _sample(form: RowFormat, roots: Roots, row: Any, where: str) -> Sample:
    return form.read(row, roots, where)


def _first_format(files: list[Path]) -> RowFormat:
    """The format of the first file that can be opened."""
    for file in files[:LOOKED]:
        with suppress(SampleError):
            return format_of(open_rows(file))
    return format_of(open_rows(files[0]))  # says what is wrong with it


def _buffer(rows: int | None) -> int:
    return BUFFER if rows is None else rows


def _streamed(
    rows: Any,
    form: RowFormat | None,
    media: MediaWord,
    shuffle_buffer: int | None,
    folder: Path = Path(),
) -> Source:
    if isinstance(rows, str | Path):
        words = RowsSpec(
            path=str(rows), format=form, media=media, stream=True, shuffle_buffer=shuffle_buffer
        )
        return words.open(Path())
    if not isinstance(rows, Iterable) or isinstance(rows, Iterator):
        raise SampleError(
            f"rows of type {type(rows).__name__} can be read once at most, and a stream goes round",
            hint="give a list of tables, a Dataset or an IterableDataset, or a path",
        )
    form = form or format_of(ListedRows(list(islice(iter(rows), LOOKED))))
    read = partial(_sample, form, Roots(folder, media))
    return IterableStream(rows, read, _buffer(shuffle_buffer))


def read_rows(
    rows: Any,
    format: str | Mapping[str, Any] | None = None,
    media: MediaWord = None,
    stream: bool = False,
    shuffle_buffer: int | None = None,
) -> Source:
    """Rows as samples, from Python.

    Args:
        rows: a path, a list of tables, a `Dataset` of the package `datasets`, or anything that is iterated over
            (an `IterableDataset`), which is read to its end first, or row after row as a `stream`.
        format, media, stream, shuffle_buffer: as the words of `RowsSpec`.
    """
    form = None if format is None else RowsSpec(path="", format=format).format  # type: ignore[arg-type]
    if stream:
        return _streamed(rows, form, media, shuffle_buffer)
    if not isinstance(rows, str | Path) and not hasattr(rows, "__len__"):
        rows = list(rows)
    found = open_rows(Path(rows)) if isinstance(rows, str | Path) else ListedRows(rows)
    return RowSource(found, form, Roots(Path(), media, found.folder))
