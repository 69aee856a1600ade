"""Results for others: every item as JSON lines or Parquet, and answers in the form of official servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omnimix.disk import write_text
from omnimix.errors import OmnimixError
from omnimix.evaluate.answers import BenchmarkResult

EXPORTS = {
    "vqa": ("question_id", True),
    "textvqa": ("question_id", True),
    "docvqa": ("questionId", True),
    "vizwiz": ("image", False),
}
"""Official servers: what they call a question's name, and whether it is a number."""


def exported(result: BenchmarkResult, form: str) -> list[dict[str, Any]]:
    """Answers in the form that the benchmark's official server takes.

    Raises:
        OmnimixError: the benchmark has no such server.
    """
    if form not in EXPORTS:
        raise OmnimixError(
            f"{result.benchmark} has no server that takes answers", hint="score it here"
        )
    word, is_number = EXPORTS[form]
    return [
        {
            word: int(item.line["id"]) if is_number else item.line["id"],
            "answer": item.line["answer"],
        }
        for item in result.items
    ]


def write_items(result: BenchmarkResult, out: Path) -> None:
    """Every item with its score, as JSON lines or, where the name ends so, as Parquet.

    Raises:
        SampleError: Parquet without the package pyarrow.
    """
    if out.suffix != ".parquet":
        write_text(out, "".join(json.dumps(line) + "\n" for line in result.lines()))
        return
    from omnimix.data.containers import needed

    needed("pyarrow", "data", out)
    import pyarrow
    import pyarrow.parquet

    lists = ("regions", "boxes")
    rows = [
        {key: json.dumps(value) if key in lists else value for key, value in line.items()}
        for line in result.lines()
    ]
    table = pyarrow.Table.from_pylist(rows)
    words = {"omnimix": json.dumps(result.pinned)}
    draft = out.with_name(f".{out.name}.part")
    pyarrow.parquet.write_table(table.replace_schema_metadata(words), draft)
    draft.replace(out)
