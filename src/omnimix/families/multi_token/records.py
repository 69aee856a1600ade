"""Rows in the form of multi_token: an id, one list of items per modality, and messages with placeholders.

`{"id": "7", "images": ["a.png", "b.png"], "messages": [{"role": "user", "content": "<image><image> Which?"},
{"role": "assistant", "content": "The first."}]}`, as JSON, JSON lines, or a folder of Arrow files: what
`save_to_disk` writes, or a dataset's own `*.arrow`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from omnimix.data.base import Source, SourceSpec
from omnimix.data.opened import open_rows
from omnimix.data.placing import READS
from omnimix.data.roots import MediaWord, Roots
from omnimix.data.rows import RowFormat, RowSource, id_of
from omnimix.errors import SampleError
from omnimix.families.multi_token.placeholders import PUBLISHED, Surplus, conversation, published
from omnimix.types import Media, Sample

READ_AS_TEXT = ("document",)
"""Modalities whose items are the thing itself, not the name of a file."""


_OWN = frozenset(row.key for row in PUBLISHED)


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
    media: MediaWord = None
    modalities: tuple[str, ...] = tuple(row.modality for row in PUBLISHED)
    surplus: Surplus = "refuse"

    def open(self, folder: Path) -> Source:
        rows = open_rows(folder / self.path)
        form = MultiTokenFormat(modalities=self.modalities, surplus=self.surplus)
        return RowSource(rows, form, Roots(folder, self.media, rows.folder))


class MultiTokenFormat(RowFormat):
    """`{"messages": [{"role": "user", "content": "<document><image> Which?"}, {"role": "assistant", "content": "The
    first."}], "images": ["a.png"], "documents": ["A text."]}`.

    Attributes:
        modalities, surplus: as of the dataset.
    """

    kind: Literal["multi_token"] = "multi_token"
    modalities: tuple[str, ...] = tuple(row.modality for row in PUBLISHED)
    surplus: Surplus = "refuse"

    @classmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        return "messages" in row and bool((_OWN - READS) & row.keys())

    def reads(self) -> frozenset[str]:
        return frozenset(published(name).key for name in self.modalities)

    def sample(self, row: Mapping[str, Any], roots: Roots, where: str) -> Sample:
        if "messages" not in row:
            raise SampleError(
                "not a row in the form of multi_token",
                where=where,
                hint='write {"id": ..., "images": [...], "messages": [{"role": "user", ...}]}',
            )
        id = id_of(row, where)
        lists = placed_items(row, self.modalities, roots, id)
        return conversation(row["messages"], lists, self.modalities, id, self.surplus)


def placed_items(
    row: Mapping[str, Any], modalities: Iterable[str], roots: Roots, where: str
) -> dict[str, Any]:
    """The lists of a row with every file found in its folder.

    Args:
        row: keys of lists that belong to none of the modalities are passed over.
        modalities: by our names.

    Raises:
        SampleError: a path that leads out of the folders, an address, or an item of an unknown form.
    """
    lists = {told: row[told.key] for told in map(published, modalities) if told.key in row}
    return {
        # What is no list is refused with the row's other faults.
        told.key: [_media(item, told.modality, roots, where) for item in items]
        if isinstance(items, list | tuple)
        else items
        for told, items in lists.items()
    }


def _media(item: Any, modality: str, roots: Roots, where: str) -> Media | str:
    if modality in READ_AS_TEXT and isinstance(item, str):
        return item
    return roots.media(modality, item, where)
