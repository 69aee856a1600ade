"""Rows in the form of multi_token: an id, one list of items per modality, and messages with placeholders.

`{"id": "7", "images": ["a.png", "b.png"], "messages": [{"role": "user", "content": "<image><image> Which?"},
{"role": "assistant", "content": "The first."}]}`, as JSON, JSON lines, or a folder of Arrow files: what
`save_to_disk` writes, or a dataset's own `*.arrow`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from omnimix.data.sources import Source, SourceSpec, inside, some_records
from omnimix.errors import SampleError
from omnimix.families.multi_token.placeholders import (
    PUBLISHED,
    Surplus,
    conversation,
    published,
    short_name,
)
from omnimix.types import Media, Sample

READ_AS_TEXT = ("document",)
"""Modalities whose items are the thing itself, not the name of a file."""

CHOICES = ("frames", "crops")
"""Words by which an item says itself what is drawn otherwise: frames of a video, parts of a long sound."""


class MultiTokenRows(SourceSpec):
    """A dataset in the form of multi_token.

    Attributes:
        path: a `.json` or `.jsonl` file, an `.arrow` file, or a folder of Arrow files.
        media: folder that paths of items are relative to; default the file's own, or the folder that holds
            the dataset's. Paths that lead out of it are refused.
        modalities: whose placeholders stand for items; the published ones where left out. `<name>` and the
            list `names` are those of any other.
        surplus: what becomes of items without a placeholder.
    """

    kind: Literal["multi_token"] = "multi_token"
    path: str
    media: str | None = None
    modalities: tuple[str, ...] = tuple(row.modality for row in PUBLISHED)
    surplus: Surplus = "refuse"

    def open(self, folder: Path) -> Source:
        path = folder / self.path
        return _Rows(self, path, folder / self.media if self.media else path.parent)


class _Rows(Source):
    """Rows are read when they are asked for, media when the sample is woven."""

    def __init__(self, spec: MultiTokenRows, path: Path, media: Path) -> None:
        self.spec = spec
        self.path = path
        self.media = media
        arrow = path.is_dir() or path.suffix == ".arrow"
        self.rows: Sequence[Any] = ArrowRows(path) if arrow else some_records(path)
        self.length = len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        where = f"{self.path.name}: row {index + 1}"
        row = self.rows[index]
        if not isinstance(row, Mapping) or "messages" not in row:
            raise SampleError(
                "not a row in the form of multi_token",
                where=where,
                hint='write {"id": ..., "images": [...], "messages": [{"role": "user", ...}]}',
            )
        id = str(row["id"]) if row.get("id") not in (None, "") else where
        lists = placed_items(row, self.spec.modalities, self.media, id)
        return conversation(row["messages"], lists, self.spec.modalities, id, self.spec.surplus)


def placed_items(
    row: Mapping[str, Any], modalities: Iterable[str], folder: Path, where: str
) -> dict[str, Any]:
    """The lists of a row with every file found in a folder.

    Args:
        row: keys of lists that belong to none of the modalities are passed over.
        modalities: by our names.

    Raises:
        SampleError: a path that leads out of the folder, an address, or an item of an unknown form.
    """
    lists = {told: row[told.key] for told in map(published, modalities) if told.key in row}
    return {
        # What is no list is refused with the row's other faults.
        told.key: [_media(item, told.modality, folder, where) for item in items]
        if isinstance(items, list | tuple)
        else items
        for told, items in lists.items()
    }


def _media(item: Any, modality: str, folder: Path, where: str) -> Any:
    if modality in READ_AS_TEXT and isinstance(item, str):
        return item
    return Media(modality, _item(item, folder, where), label=short_name(item))


def _item(item: Any, folder: Path, where: str) -> Any:
    """What an opener takes: a path, bytes, samples with their rate, or a list of pictures."""
    if isinstance(item, str):
        return _file(item, folder, where)
    if isinstance(item, list | tuple) and item and all(isinstance(one, str) for one in item):
        return [_file(one, folder, where) for one in item]
    if not isinstance(item, Mapping):
        return item
    thing = _thing(item, folder, where)
    stated = {word: item[word] for word in CHOICES if item.get(word) is not None}
    if stated and "frames" not in thing:
        return {**thing, **stated}
    return thing if len(thing) > 1 else next(iter(thing.values()))


def _thing(item: Mapping[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """What a table names, under the word of an opener; without its choices."""
    if item.get("array") is not None and item.get("sampling_rate"):
        return {"array": item["array"], "sampling_rate": item["sampling_rate"]}
    if item.get("bytes"):
        return {"bytes": item["bytes"]}
    for word in ("path", "url"):
        if isinstance(item.get(word), str):
            return {"path": _file(item[word], folder, where)}
    if isinstance(item.get("frames"), list | tuple):
        return {"frames": [_item(one, folder, where) for one in item["frames"]]}
    if "dataset_args" in item:
        raise SampleError(
            "the item is a reference into a dataset of the hub",
            where=where,
            hint="save the sounds as files and name their paths; nothing is fetched while training",
        )
    raise SampleError(
        f"an item is a path or a table with one of path, bytes, array; this has {', '.join(item)}",
        where=where,
    )


def _file(name: str, folder: Path, where: str) -> str:
    if "://" in name:
        raise SampleError(
            f"the item {name[:80]!r} is an address",
            where=where,
            hint="fetch it before and name the file; nothing is fetched while training",
        )
    return str(inside(folder, name, "item", where))


class ArrowRows(Sequence[Any]):
    """The rows of a folder of Arrow files (or of one), mapped: a row is read when it is asked for.

    Args:
        path: what `save_to_disk` wrote, a folder of `*.arrow`, or one such file.

    Raises:
        SampleError: no such file, or one that is damaged.
    """

    def __init__(self, path: Path) -> None:
        if importlib.util.find_spec("pyarrow") is None:
            raise SampleError(
                "Arrow files need the package pyarrow, which is not installed",
                where=str(path),
                hint="install it with pip install 'omnimix[data]'",
            )
        import pyarrow

        files = [path] if path.is_file() else sorted(path.rglob("*.arrow"))
        if not files:
            raise SampleError("the folder holds no Arrow file", where=str(path))
        self._path = path
        self._rows = pyarrow.concat_tables(map(_table, files), promote_options="default")

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._rows.slice(index, 1).to_pylist()[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return ArrowRows, (self._path,)  # another process maps the files itself


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
