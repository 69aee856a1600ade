"""xGen-MM's fine-tuning data in its own words: `data_path`, a path map, and records with `<image>` marks.

The rules stand in golden/specs/xgen_mm.md section 7; golden case xgen_mm/data_mixing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field

from omnimix.data.base import Source, SourceSpec
from omnimix.data.containers import JsonRows, kept, reading, sound
from omnimix.data.llava import words_of
from omnimix.data.placing import role_of
from omnimix.data.roots import inside, is_none
from omnimix.data.rows import id_of, refuse_unread
from omnimix.data.talks import turns_of
from omnimix.errors import MediaError, SampleError
from omnimix.media.image import ImageOpener
from omnimix.types import Media, Part, Sample, Turn, text_of

MARK = "<image>"


class XgenSft(SourceSpec):
    """Several JSON lists of LLaVA's records, of each a number of them, one after another.

    A record that cannot be used (text with a mark, a picture that cannot be read, more than `most` pictures)
    is replaced by the next one.

    Attributes:
        data_path: for each file how many records are taken: drawn again and again where that is more than
            the file has, else without repeating; the number of all (or null, where it is not known beforehand)
            shuffles them.
        image_folders: where pictures lie: the first key that occurs in a path is replaced wherever it
            occurs. Without any, paths are relative to the training file.
        seed: of the draw, begun afresh for every file.
        most: most pictures of a record.
        delete: strings that are taken out of every text, since the tokenizer would read them as tokens.
        max_length: a longer record is cut on the right, as the published trainer cuts it: before the pictures
            are put in, so that each of them counts as one token. A stage's own limit takes its place.
    """

    kind: Literal["xgen_sft"] = "xgen_sft"
    data_path: dict[str, int | None]
    image_folders: dict[str, str] = {}
    seed: int = 42
    most: int = 4
    delete: tuple[str, ...] = ("<s>",)
    max_length: int = Field(default=2048, gt=0)

    def open(self, folder: Path) -> Source:
        return _XgenSft(self, folder)


class _XgenSft(Source):
    """The files are read once, pictures when they are asked for."""

    cuts_items = True

    def __init__(self, spec: XgenSft, folder: Path) -> None:
        self.spec = spec
        self.folder = folder
        self.opener = ImageOpener()
        self.records: list[dict[str, Any]] = []
        for name, count in spec.data_path.items():
            rows = JsonRows(folder / name)
            many = len(rows) if count is None else count
            self.records += [kept(rows, i) for i in drawn(len(rows), many, spec.seed)]
        self.max_length = spec.max_length
        self.length = len(self.records)
        if not self.length:
            raise SampleError("no record is asked for", where="data_path")

    def where(self, index: int) -> str:
        return str(self.records[index]["place"])

    def record(self, index: int) -> dict[str, Any]:
        """The record at a place.

        Raises:
            SampleError: no conversation, a turn that is no text, or items under a key that is not read.
        """
        where = self.where(index)
        found = sound(self.records[index])
        turns = turns_of(found, where)
        refuse_unread(found, frozenset({"image"}), "the dataset", where)
        for number, turn in enumerate(turns, 1):
            said = text_of(turn["value"], f"turn {number}", where)
            if "<video>" in said or "<audio>" in said:
                raise SampleError(
                    "a mark stands for a video or sound, and none is read", where=where
                )
        return found

    def extent(self, index: int) -> tuple[bool, int]:
        """Whether a record has a picture, and the words of all its turns."""
        record = self.record(index)
        return not is_none(record.get("image")), words_of(record, self.where(index))

    def __getitem__(self, index: int) -> Sample:
        """The record at a place, or the next one that can be used.

        Raises:
            SampleError: none can from there to the end, or a record that is none.
        """
        why = ""
        for place in range(index, len(self.records)):
            with reading(self.where(place)):
                record = repaired(self.record(place), self.spec.most)
                if record is None:
                    continue
                try:
                    pictures = [self._picture(path, place) for path in files_of(record)]
                except MediaError as error:
                    why = why or f"; a picture cannot be read: {error.what}"
                    continue
                return self._sample(record, pictures, place)
        raise SampleError(
            f"no record from place {index} to the end can be used{why}",
            where=", ".join(self.spec.data_path),
            hint="mend the last records of the data",
        )

    def _picture(self, path: Any, place: int) -> Media:
        """A picture, opened at once: whether it can be read decides about its record."""
        name = text_of(path, "the path of a picture", self.where(place))
        if ".." in PurePosixPath(name).parts:
            raise SampleError(f"the picture path {name!r} leads upwards", where="image")
        file = self._file(name, self.where(place))
        return Media.image(self.opener.open(Media.image(file)), label=name)

    def _file(self, name: str, where: str) -> str:
        """A picture's file: below the folder that the beginning of its path is mapped to, or the training file's."""
        folders = self.spec.image_folders
        lies = str((self.folder / mapped(name, folders)).absolute())  # looked up below `top`
        key = next((key for key in folders if key in name), "")
        top = self.folder / folders[key] if key and name.startswith(key) else self.folder
        return str(inside(top, lies, "picture", where))

    def _sample(self, record: dict[str, Any], pictures: list[Media], place: int) -> Sample:
        name = id_of(record, self.where(place))
        waiting = list(pictures)
        turns = []
        for turn in record["conversations"]:
            text = turn["value"]
            for word in self.spec.delete:
                text = text.replace(word, "")
            content: list[Part] = []
            for i, piece in enumerate(text.split(MARK)):
                if i and not waiting:
                    raise SampleError(
                        f"more marks {MARK} than the {len(pictures)} pictures",
                        where=name,
                        hint="write one mark for each picture",
                    )
                content += [waiting.pop(0)] if i else []
                content += [piece] if piece else []
            turns.append(Turn(role_of(turn["from"], name), tuple(content)))
        return Sample(tuple(turns), name)


def drawn(length: int, count: int, seed: int) -> list[int]:
    """Which records of a file are taken."""
    chance = random.Random(seed)
    if count > length:
        return chance.choices(range(length), k=count)
    return chance.sample(range(length), count)


def files_of(record: Mapping[str, Any]) -> list[str]:
    """Paths of a record's pictures."""
    files = record.get("image")
    if isinstance(files, list):
        return list(files)
    return [] if files is None or is_none(files) else [files]


def mapped(path: str, folders: Mapping[str, str]) -> str:
    """Where a picture lies.

    Raises:
        SampleError: no key occurs in the path (the reference would end the run without a word).
    """
    for key, folder in folders.items():
        if key in path:
            return path.replace(key, folder)
    if folders:
        raise SampleError(
            f"no folder is named for the picture {path!r}",
            where="image_folders",
            hint=f"the keys are {', '.join(folders)}",
        )
    return path


def repaired(record: Mapping[str, Any], most: int = 4) -> dict[str, Any] | None:
    """The record with its marks put right, None where the next one is to be taken.

    One picture has exactly one mark in the first question; where that is not so, all marks of that turn go
    and one is put in front. Later turns and records with several pictures stay as they are.
    """
    turns = [{**turn, "value": str(turn["value"])} for turn in record["conversations"]]
    files = files_of(record)
    if len(files) > most or (not files and any(MARK in turn["value"] for turn in turns)):
        return None
    if len(files) == 1:
        first = next((turn for turn in turns if turn["from"] == "human"), None)
        if first is not None and first["value"].count(MARK) != 1:
            first["value"] = f"{MARK}\n{first['value'].replace(MARK, '').strip()}"
    return {**record, "conversations": turns}
