"""A cleaned copy of a dataset: what can be mended is, what cannot is left out, and each change says why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omnimix.data.base import Source
from omnimix.data.check.rows import Checked, Checker
from omnimix.data.containers import needed
from omnimix.data.opened import ListedRows
from omnimix.data.rows import RowSource
from omnimix.disk import write_text
from omnimix.errors import SampleError

MENDED = frozenset({"duplicate-id", "text"})
"""Faults that are mended: a number is put behind the id, and NUL bytes are taken out."""


def mend(
    check: Checker, failed: Iterable[Checked], place: Path
) -> tuple[Path, list[dict[str, Any]]]:
    """Write the rows that can be used into a new file, and the changes beside it.

    Args:
        failed: rows with faults, as a survey found them.
        place: the file without its ending: `.jsonl`, or `.parquet` where rows hold bytes.

    Returns:
        The file, and every change with its row, what was done and why.

    Raises:
        SampleError: a dataset whose rows lie in several files of its own list, or no row that is left.
    """
    source = check.source
    if not isinstance(source, RowSource):
        raise SampleError(
            "this dataset lists its files itself; a cleaned copy is written of a single one",
            where=source.where(0),
            hint="name the file: omnimix check RECIPE FILE --fix",
        )
    faulty = {row.index: row for row in failed}
    changes: list[dict[str, Any]] = []
    kept = []
    for index in range(len(source.rows)):
        if index not in faulty:
            kept.append(source.rows[index])
            continue
        row, change = _mended(check, source, faulty[index])
        reasons = "; ".join(fault.said for fault in faulty[index].faults)
        changes.append({"where": faulty[index].where, "change": change, "reason": reasons})
        if row is not None:
            kept.append(row)
    if not kept:
        raise SampleError("no row is left that can be used", where=source.path.name)
    file = _write(kept, place)
    lines = "".join(json.dumps(change, ensure_ascii=True) + "\n" for change in changes)
    write_text(place.with_name(f"{place.name}.changes.jsonl"), lines)
    return file, changes


def _mended(check: Checker, source: RowSource, row: Checked) -> tuple[Any, str]:
    """The row as it can be used, or None; and what was done."""
    if not {fault.code for fault in row.faults} <= MENDED:
        return None, "left out"
    changed: Any = _without_nul(source.rows[row.index])
    done = ["NUL bytes taken out"] if changed != source.rows[row.index] else []
    if any(fault.code == "duplicate-id" for fault in row.faults):
        changed = {**changed, "id": f"{row.id}-{row.index + 1}"}
        done.append(f"the id is {changed['id']} now")
    alone = RowSource(ListedRows([changed], source.rows.folder), source.form, source.roots)
    again = Checker(alone, check.processor, check.max_length, check.apart)(0)
    return (None, "left out") if again.faults else (changed, ", ".join(done))


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, Mapping):
        return {key: _without_nul(one) for key, one in value.items()}
    return [_without_nul(one) for one in value] if isinstance(value, list) else value


def _write(rows: list[Any], place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        lines = "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)
    except TypeError:  # bytes of items
        needed("pyarrow", "data", place)
        import pyarrow
        from pyarrow import parquet

        file = place.with_name(f"{place.name}.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        return file
    file = place.with_name(f"{place.name}.jsonl")
    write_text(file, lines)
    return file


def of(source: Source) -> str:
    """What a cleaned copy is called: the file's own name and `.clean`."""
    path = getattr(source, "path", Path("rows"))
    return f"{path.stem or 'rows'}.clean"
