"""Shards: tar files in which the members of one sample share a name and differ in their ending (WebDataset)."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

from omnimix.data.containers import Rows
from omnimix.errors import SampleError

FIELDS = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm"), "image"),
    **dict.fromkeys(("wav", "flac", "mp3", "ogg", "opus", "m4a", "aac"), "audio"),
    **dict.fromkeys(("mp4", "webm", "mkv", "mov", "avi"), "video"),
    **dict.fromkeys(("txt", "caption"), "text"),
}
"""What a member is called in the row, by its ending; members of other endings are left alone."""


class TarRows(Rows):
    """The samples of one shard: the words of its `.json`, and its other members by kind.

    Raises:
        SampleError: no tar file, or a packed one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.parent
        samples: dict[str, list[tuple[str, int, int]]] = {}
        self.faults: dict[str, str] = {}
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    self._take(member, samples)
        except (OSError, tarfile.TarError) as error:
            raise SampleError(
                f"no tar file that can be read ({error})",
                where=str(path),
                hint="a packed one (.tar.gz) is unpacked to .tar first: samples are read by their place",
            ) from None
        self.samples = list(samples.items())
        if not self.samples:
            raise SampleError("the shard holds no sample", where=str(path))

    def _take(
        self, member: tarfile.TarInfo, samples: dict[str, list[tuple[str, int, int]]]
    ) -> None:
        if member.isdir():
            return
        name = PurePosixPath(member.name)
        stem, _, ending = name.name.partition(".")
        key = str(name.with_name(stem)) if stem else member.name
        if name.is_absolute() or ".." in name.parts:
            self.faults[key] = f"the member {member.name!r} lies outside the shard"
        elif not member.isfile():
            self.faults[key] = f"the member {member.name!r} is a link, no file"
        samples.setdefault(key, []).append((ending.lower(), member.offset_data, member.size))

    def __len__(self) -> int:
        return len(self.samples)

    def where(self, index: int) -> str:
        return f"{self.path.name}: sample {self.samples[index][0]}"

    def _row(self, index: int) -> Any:
        key, members = self.samples[index]
        if key in self.faults:
            raise SampleError(self.faults[key], where=self.where(index), hint="pack it again")
        row: dict[str, Any] = {"id": key}
        items: dict[str, list[bytes]] = {}
        with self.path.open("rb") as file:
            for ending, start, size in sorted(members):
                kind = FIELDS.get(ending.rpartition(".")[2])
                if kind is None and ending != "json":
                    continue
                file.seek(start)
                content = file.read(size)
                if len(content) < size:
                    raise SampleError(f"the shard ends inside .{ending}", where=self.where(index))
                if ending == "json":
                    row |= json.loads(content)
                elif kind == "text":
                    row["text"] = content.decode("utf-8-sig")
                elif kind is not None:
                    items.setdefault(kind, []).append(content)
        for kind, several in items.items():
            row.pop(f"{kind}s", None)
            row[kind] = several[0] if len(several) == 1 else several
        return row
