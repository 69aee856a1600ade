"""A benchmark as a row of YAML: its official files, prompt, parser and measure; the rows lie in `benchmarks/*.yaml`."""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from omnimix.config import Spec, read_yaml, validate
from omnimix.data.base import Source
from omnimix.errors import OmnimixError, RegistryError, SampleError, reason
from omnimix.evaluate import parsing
from omnimix.evaluate.official import (
    JoinedFiles,
    OfficialFiles,
    OfficialRows,
    file_in,
    pointed,
    value_at,
    why,
)
from omnimix.prompts.questions import question
from omnimix.registry import did_you_mean
from omnimix.types import Box, Media, Part, Point, Sample, Turn

ROWS = Path(__file__).parent / "benchmarks"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PLACE = re.compile(r"<image ?(\d+)>")


class Download(Spec):
    """An official file.

    Attributes:
        url: where it lies.
        sha256: of its content; where the authors publish none, the first copy's is kept beside it.
        into: the folder that it is put, or unpacked, into.
        unpack: it is an archive.
    """

    url: str
    sha256: str = ""
    into: str = ""
    unpack: bool = False


class Judge(Spec):
    """How a judge is asked about an answer.

    Attributes:
        prompt: with `{question}`, `{reference}` and `{answer}`.
        reads: `share`: the first number of its reply, from 0 to `most`; `pair`: two marks, of the reference first.
        most: the best mark.
    """

    prompt: str
    reads: Literal["share", "pair"] = "share"
    most: float = 1.0


class BenchmarkSpec(Spec):
    """A benchmark.

    Fields of a row are named as in `value_at`; templates are Python's (`{image_id:012d}`).

    Attributes:
        title, licence, home: what its authors call it, under which licence its files are given, and on which page.
        source, differs: where prompt, parser and measure come from, and what is done in another way here.
        version: raised by 1 where a change of the row changes scores.
        rows, join, each, only: where the rows lie, see `OfficialRows`.
        id: template of a row's name.
        pictures: templates of paths below the folder; `=field` stands for a picture in the row itself.
        question: template.
        answers: field of what is right, a text or a list of them.
        says: what an answer of the file stands for (`1: "True"`).
        choices: field of a list, or fields of which those that hold nothing are left out.
        offered: choices that are the same in every row.
        right: how `answers` names one of the choices.
        options: what can be answered, where there are no choices and likelihoods are ranked.
        box: field of the box that is right.
        form: how boxes of the file are written, `xyxy` or `xywh`.
        regions: fields of marks on the picture, boxes of four numbers (in `form`) and points of two.
        boxes_in_text: `[x1, y1, x2, y2]` in a question, shares of the picture, are marks on it as well.
        group: template of the part that a row counts in.
        bins: names of groups that are numbers up to each of these.
        prompts: by style; of `default` where none is named. `{question}`, `{choices}` and fields of the row.
        parser, measure: how an answer is read and scored.
        max_new_tokens: the length of an answer, where none is asked for.
        judge: how an answer is judged, where no rule can score it.
        get: the official files, as `omnimix data get` fetches them.
        export: the form in which the official server takes answers.
    """

    title: str
    licence: str
    home: str
    source: str = ""
    differs: str = ""
    version: int = 1
    rows: OfficialFiles
    join: tuple[JoinedFiles, ...] = ()
    each: dict[str, str] = {}
    only: dict[str, tuple[Any, ...]] = {}
    id: str
    pictures: tuple[str, ...]
    question: str = ""
    answers: str = ""
    says: dict[str, str] = {}
    choices: str | tuple[str, ...] = ()
    offered: tuple[str, ...] = ()
    right: Literal["text", "letter", "index"] = "text"
    options: tuple[str, ...] = ()
    box: str = ""
    form: Literal["xyxy", "xywh"] = "xyxy"
    regions: tuple[str, ...] = ()
    boxes_in_text: bool = False
    group: str = ""
    bins: dict[float, str] = {}
    prompts: dict[str, str]
    parser: str = "text"
    measure: str
    max_new_tokens: int = 16
    judge: Judge | None = None
    get: tuple[Download, ...] = ()
    export: str = ""

    def prompt(self, style: str) -> str:
        """The template of a style.

        Raises:
            RegistryError: the benchmark has none of that name.
        """
        if style not in self.prompts:
            raise RegistryError(
                f"there is no prompt {style!r}", hint=did_you_mean(style, self.prompts)
            )
        return self.prompts[style]

    def pinned(self, style: str) -> dict[str, Any]:
        """What scores depend on, beside the answers' model."""
        from omnimix.registry import MEASURES

        prompt = hashlib.sha256(self.prompt(style).encode()).hexdigest()[:12]
        measure = MEASURES.load(self.measure).version
        return {
            "version": self.version,
            "prompt": f"{style}@{prompt}",
            "parser": f"{self.parser}@{parsing.VERSION}",
            "measure": f"{self.measure}@{measure}",
        }


@cache
def table() -> dict[str, BenchmarkSpec]:
    """All benchmarks by name."""
    found: dict[str, BenchmarkSpec] = {}
    for path in sorted(ROWS.glob("*.yaml")):
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
        found |= {
            name: BenchmarkSpec.model_validate(row)
            for name, row in rows.items()
            if not name.startswith("_")  # what several rows have in common
        }
    return found


def named(name: str) -> BenchmarkSpec:
    """A benchmark, or that of a YAML file of one's own (`mine.yaml`, one row as in `benchmarks/*.yaml`).

    Raises:
        RegistryError: unknown name, with the nearest known one.
    """
    if name.endswith((".yaml", ".yml")):
        return validate(BenchmarkSpec, read_yaml(name), name)
    if name not in table():
        raise RegistryError(f"unknown benchmark {name!r}", hint=did_you_mean(name, table()))
    return table()[name]


class Official(Source):
    """The records of a benchmark; the last turn, `references`, `group` and `choices` say what is right.

    Args:
        folder: holds the official files.
        style: of the prompt.
    """

    def __init__(self, spec: BenchmarkSpec, folder: Path, style: str = "default") -> None:
        self.spec, self.folder, self.template = spec, folder, spec.prompt(style)
        self.table = OfficialRows(folder, spec.rows, spec.join, spec.each, spec.only)
        self.length = len(self.table)
        self._others: dict[tuple[str, str], int] = {}

    def cut(self, rows: str) -> None:
        """Keep some rows, `start:end` as Python writes it.

        Raises:
            OmnimixError: another form, or none is left.
        """
        if not re.fullmatch(r"-?\d*:-?\d*", rows):
            raise OmnimixError(
                "this is no slice", where=rows, hint="write start:end, as :200 or -200:"
            )
        ends = [int(end) if end else None for end in rows.split(":")]
        self.table.places = self.table.places[slice(*ends)]
        self.length = len(self.table)

    def choose(self, index: Path) -> None:
        """Keep the rows of an index file (`omnimix data prepare`), in its order.

        Raises:
            OmnimixError: the file cannot be read, or names a row that is not there.
        """
        try:
            names = list(json.loads(index.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise OmnimixError(
                f"cannot read the index ({reason(error)})", where=str(index)
            ) from None
        known = {}
        for at, place in enumerate(self.table.places):
            with contextlib.suppress(OmnimixError, LookupError, ValueError, TypeError):
                known[self.spec.id.format_map(self.table[at])] = place
        missing = [name for name in names if name not in known]
        if missing:
            raise OmnimixError(
                f"{len(missing)} rows of the index are not there; the first: {missing[0]}",
                where=str(index),
                hint="prepare it again from these files",
            )
        self.table.places = [known[name] for name in names]
        self.length = len(names)

    def where(self, index: int) -> str:
        return self.table.where(index)

    def files(self) -> list[Path] | None:
        return self.table.files()

    def __getitem__(self, index: int) -> Sample:
        row = self.table[index]
        where = self.where(index)
        try:
            return self._sample(row, where)
        except (LookupError, ValueError, TypeError, AttributeError, SyntaxError) as error:
            raise SampleError(why(error), where=where) from None

    def _sample(self, row: dict[str, Any], where: str) -> Sample:
        spec = self.spec
        choices = self._choices(row)
        references = self._references(row, choices)
        pictures = [one for word in spec.pictures if (one := self._picture(word, row, where))]
        if not pictures:
            raise SampleError("the row has no picture", where=where)
        words = {**row, "question": spec.question.format_map(row), "choices": lettered(choices)}
        text = self.template.format_map(words).strip("\n")
        right: tuple[Part, ...] = tuple(references[:1])
        if spec.box:
            right = (Media.region(_box(value_at(row, spec.box), spec.form)),)
        marks = [
            region
            for field in spec.regions
            if field in row
            for region in _marks(row[field], spec.form)
        ]
        if spec.boxes_in_text:
            text, marks = pointed(text, pictures[-1])
        asked = question(text, pictures, marks).content if marks else woven(text, pictures)
        meta = {
            "references": references,
            "group": _group(spec, row),
            "choices": choices,
            "picture": pictures[-1].label,
        }
        turns = (Turn("user", tuple(asked)), Turn("assistant", right or ("",)))
        return Sample(turns, spec.id.format_map(row), meta)

    def _choices(self, row: Mapping[str, Any]) -> list[str]:
        words = self.spec.choices
        if not words:
            return list(self.spec.offered)
        if isinstance(words, str):
            found = value_at(row, words)
            # Lists in tables of text are written as Python's.
            found = ast.literal_eval(found) if isinstance(found, str) else found
            return [str(one) for one in found]
        return [str(row[word]) for word in words if not _nothing(row.get(word))]

    def _references(self, row: Mapping[str, Any], choices: Sequence[str]) -> list[str]:
        spec = self.spec
        if not spec.answers:
            return []
        found = value_at(row, spec.answers)
        texts = [str(one) for one in found] if isinstance(found, list) else [str(found)]
        texts = [spec.says.get(text, text) for text in texts]
        if spec.right == "index":
            return [_letter(int(float(text)), choices) for text in texts]
        if spec.right == "letter" or not choices:
            return texts
        return [_letter(choices.index(text), choices) for text in texts]

    def _picture(self, word: str, row: Mapping[str, Any], where: str) -> Media | None:
        if not word.startswith("="):
            name = word.format_map(row)
            return Media("image", file_in(self.folder, name, where), label=name)
        value = row[word[1:]]
        if _nothing(value):
            return None
        if isinstance(value, Mapping):
            value = value.get("bytes") or value["path"]
        if isinstance(value, str) and len(value) <= 64:  # the row whose picture this one has too
            value = self._shared(word[1:], value)
        data = base64.b64decode(value, validate=False) if isinstance(value, str) else bytes(value)
        name = hashlib.sha256(data).hexdigest()[:12]
        return Media("image", data, label=f"{word[1:]}:{name}")

    def _shared(self, field: str, index: str) -> Any:
        if (field, index) not in self._others:
            for at in range(len(self.table)):
                self._others[field, str(self.table[at].get("index"))] = at
        return self.table[self._others[field, index]][field]


def woven(text: str, pictures: Sequence[Media]) -> list[Part]:
    """A text and its pictures: in front, or where `<image 1>` names them."""
    if not _PLACE.search(text):
        return [*pictures, text]
    parts: list[Part] = []
    left = dict(enumerate(pictures, 1))
    pieces = _PLACE.split(text)
    for place, piece in enumerate(pieces):
        if place % 2 and int(piece) in left:
            parts.append(left.pop(int(piece)))
        elif place % 2:  # named a second time
            parts.append(f"<image {piece}>")
        elif piece:
            parts.append(piece)
    return [*left.values(), *parts]


def lettered(choices: Sequence[str]) -> str:
    """`A. one` in a line each."""
    return "\n".join(f"{LETTERS[i]}. {choice}" for i, choice in enumerate(choices))


def _group(spec: BenchmarkSpec, row: Mapping[str, Any]) -> str:
    name = spec.group.format_map(row)
    if not spec.bins:
        return name
    for most, bin_name in sorted(spec.bins.items()):
        if float(name) <= most:
            return bin_name
    raise ValueError(f"{name} belongs to no part")


def _letter(index: int, choices: Sequence[str]) -> str:
    if not 0 <= index < len(choices):
        raise ValueError(f"choice {index} of {len(choices)}")
    return LETTERS[index]


def _nothing(value: Any) -> bool:
    return value is None or value in ("", "nan") or value != value


def _box(value: Any, form: str) -> Box:
    numbers = [float(one) for one in (json.loads(value) if isinstance(value, str) else value)]
    if len(numbers) != 4:
        raise ValueError(f"a box has 4 numbers, not {len(numbers)}")
    a, b, c, d = numbers
    return Box.from_xywh(a, b, c, d) if form == "xywh" else Box(a, b, c, d)


def _marks(value: Any, form: str) -> list[Box | Point]:
    return [
        _box(one, form) if len(one) == 4 else Point(float(one[0]), float(one[1])) for one in value
    ]


def opened(name: str, folder: Path, style: str = "default") -> tuple[BenchmarkSpec, Official]:
    """A benchmark and its records.

    Raises:
        OmnimixError: no such benchmark, prompt, folder or file.
    """
    spec = named(name)
    if not folder.is_dir():
        raise OmnimixError(
            "there is no such folder", where=str(folder), hint=f"{spec.title}: see {spec.home}"
        )
    return spec, Official(spec, folder, style)
