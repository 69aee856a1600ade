"""Plain records of many tasks as conversations in a model's own wording; the wordings are tables of data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import Field

from omnimix.config import Spec, read_yaml, validate
from omnimix.data.base import Source, SourceSpec
from omnimix.data.containers import JsonRows, reading
from omnimix.data.roots import Roots
from omnimix.data.rows import id_of, refuse_unread
from omnimix.errors import RecipeError, SampleError
from omnimix.registry import did_you_mean
from omnimix.types import Box, Media, Part, Point, Region, Sample, Turn, text_of

FOLDER = Path(__file__).parent

_FIELD = re.compile(r"\{(\w+)\}")
_NAMED = re.compile(r"(<p>.*?</p>)")


class ManyFields(Spec):
    """A list of small records.

    Attributes:
        each: how one is written.
        between: what parts two of them.
        fields: what their fields hold.
    """

    each: str
    between: str = ", "
    fields: dict[str, Literal["text", "region"]] = {}


Holds: TypeAlias = Literal["text", "region", "grounded"] | ManyFields


class Task(Spec):
    """How a task is asked and answered; see the head of a table for its words.

    Attributes:
        question, answer: wordings; in braces stand fields of the record.
        fields: what fields hold: `text` where nothing is said, `region`, `grounded`, or a table for a list
            of small records.
        image: whether the record has a picture; true by default.
    """

    question: str
    answer: str
    fields: dict[str, Holds] = {}
    image: bool = True


class _Table(Spec):
    tasks: dict[str, Task] = Field(min_length=1)


@cache
def table(name: str) -> dict[str, Task]:
    """A table of tasks that ships with omnimix.

    Raises:
        RecipeError: unknown name, with the nearest known one.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = [found.stem for found in FOLDER.glob("*.yaml")]
        raise RecipeError(f"unknown table of tasks {name!r}", hint=did_you_mean(name, known))
    return validate(_Table, {"tasks": read_yaml(path)}, path.name).tasks


class TaskRecords(SourceSpec):
    """A JSON list (or JSON lines) of plain records of one task.

    `{"image": "a.jpg", "phrase": "the left cup", "box": [10, 20, 80, 90]}` for the task `rec`. The regions
    are pixels of the picture; the model's own coordinates come from its recipe.

    Attributes:
        path: the file.
        task: a row of the table.
        table: the wording, `sphinx`.
        images: folder that picture paths are relative to; default the file's own. Paths that lead out of
            it are refused.
        rename: for a field of the task the record's own word, `{phrase: sentence, box: bbox}`.
        boxes: how four numbers are meant: two corners, or a corner and a size (COCO).
    """

    kind: Literal["tasks"] = "tasks"
    path: str
    task: str
    table: str = "sphinx"
    images: str | None = None
    rename: dict[str, str] = {}
    boxes: Literal["xyxy", "xywh"] = "xyxy"

    def open(self, folder: Path) -> Source:
        tasks = table(self.table)
        if self.task not in tasks:
            raise RecipeError(
                f"unknown task {self.task!r} of the table {self.table!r}",
                where="task",
                hint=did_you_mean(self.task, tasks),
            )
        return _Records(self, tasks[self.task], folder)


class _Records(Source):
    def __init__(self, spec: TaskRecords, task: Task, folder: Path) -> None:
        self.spec = spec
        self.task = task
        self.path = folder / spec.path
        self.rows = JsonRows(self.path)
        self.roots = Roots(folder / spec.images if spec.images else self.path.parent)
        self.length = len(self.rows)

    def where(self, index: int) -> str:
        return self.rows.where(index)

    def __getitem__(self, index: int) -> Sample:
        with reading(self.where(index)):
            return self._sample(self.rows[index], self.where(index))

    def _sample(self, given: Any, where: str) -> Sample:
        if not isinstance(given, dict):
            raise SampleError("a record is a table of words", where=where)
        own = self.spec.rename.values()
        known = {"image", *self.task.fields, *_FIELD.findall(self.task.question), *own}
        refuse_unread(given, frozenset(known), f"the task {self.spec.task!r}", where)
        record = {
            **given,
            **{ours: given[own] for ours, own in self.spec.rename.items() if own in given},
        }
        writer = _Writer(record, where, self.spec.boxes)
        question = [*self._picture(record, where), *writer.parts(self.task.question, self.task)]
        answer = writer.parts(self.task.answer, self.task)
        turns = (Turn("user", tuple(question)), Turn("assistant", tuple(answer)))
        return Sample(turns, id_of(given, where), {"task": self.spec.task})

    def _picture(self, record: Mapping[str, Any], where: str) -> Iterator[Media]:
        if not self.task.image:
            return
        name = record.get("image")
        if not isinstance(name, str) or not name:
            raise SampleError(
                f"the record has no picture, which the task {self.spec.task!r} asks about",
                where=where,
                hint='write {"image": "a.jpg", ...}',
            )
        yield self.roots.media("image", name, where)


class _Writer:
    """Fills the fields of a task with those of one record."""

    def __init__(self, record: Mapping[str, Any], where: str, boxes: str) -> None:
        self.record = record
        self.where = where
        self.boxes = boxes

    def parts(self, form: str, task: Task) -> list[Part]:
        """A question or answer as text and regions."""
        return _joined(self._filled(form, task.fields, self.record))

    def _filled(
        self, form: str, fields: Mapping[str, Any], record: Mapping[str, Any]
    ) -> Iterator[Part]:
        for i, piece in enumerate(_FIELD.split(form)):
            if i % 2 == 0:
                yield piece
                continue
            if piece not in record:
                raise SampleError(
                    f"the record has no {piece!r}",
                    where=self.where,
                    hint=f"it has {', '.join(map(repr, record)) or 'nothing'}; see `rename`",
                )
            yield from self._field(piece, record[piece], fields.get(piece, "text"))

    def _field(self, name: str, value: Any, holds: Holds) -> Iterator[Part]:
        if isinstance(holds, ManyFields):
            yield from self._rows(name, value, holds)
        elif holds == "region":
            yield from map(Media.region, self._regions(name, value))
        elif holds == "grounded":
            yield from self._grounded(text_of(value, f"the field {name!r}", self.where))
        else:
            # A sentence that brings its own full stop would end in two.
            text = text_of(value, f"the field {name!r}", self.where).strip()
            yield text.removesuffix(".") if name in ("phrase", "object", "request") else text

    def _rows(self, name: str, value: Any, rows: ManyFields) -> Iterator[Part]:
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise SampleError(f"{name!r} is no list of tables", where=self.where)
        for i, row in enumerate(value):
            yield rows.between if i else ""
            yield from self._filled(rows.each, rows.fields, row)

    def _grounded(self, text: str) -> Iterator[Part]:
        waiting = self.record.get("boxes")
        pieces = _NAMED.split(text)
        names = len(pieces) // 2
        if not isinstance(waiting, list) or len(waiting) != names:
            have = len(waiting) if isinstance(waiting, list) else 0
            raise SampleError(
                f"the caption has {names} <p>names</p> and 'boxes' {have} entries",
                where=self.where,
                hint="give for each name one box, or a list of boxes",
            )
        for i, piece in enumerate(pieces):
            yield piece
            if i % 2:
                yield from map(Media.region, self._regions("boxes", waiting[i // 2]))

    def _regions(self, name: str, value: Any) -> list[Region]:
        if isinstance(value, list) and value and all(isinstance(row, list) for row in value):
            return [region for row in value for region in self._regions(name, row)]
        numbers = value if isinstance(value, list) else []
        if len(numbers) not in (2, 4) or not all(isinstance(v, int | float) for v in numbers):
            raise SampleError(
                f"{name!r} is {value!r}, no region",
                where=self.where,
                hint="a point is [x, y], a box four numbers, in pixels of the picture",
            )
        if len(numbers) == 2:
            return [Point(*numbers)]
        x, y, right, low = numbers
        return [Box(x, y, x + right, y + low) if self.boxes == "xywh" else Box(*numbers)]


def _joined(parts: Iterator[Part]) -> list[Part]:
    """Neighbouring texts as one, empty ones left out."""
    found: list[Part] = []
    for part in parts:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        elif part != "":
            found.append(part)
    return found
