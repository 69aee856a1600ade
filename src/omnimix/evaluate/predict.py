"""Answers to a data set in a file, one JSON line a record; a run that was stopped goes on where it was."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import heapq
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omnimix import regions, versions
from omnimix.compose import recipe as recipes
from omnimix.compose.fingerprint import of_weights
from omnimix.data.sources import Source
from omnimix.disk import digest, write_text, writing
from omnimix.errors import OmnimixError
from omnimix.evaluate.asking import Reply, ask
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.parallel.process_group import ProcessGroup


@dataclass(frozen=True)
class Predicted:
    """What a run left behind.

    Attributes:
        rows: records in the file.
        failed: how many of them could not be asked.
        empty: how many answers are empty.
        first: why the first of those that failed did.
    """

    rows: int
    failed: int
    empty: int
    first: str = ""


def predict(
    assistant: Assistant,
    source: Source,
    data: Path,
    out: Path,
    options: Options | None = None,
    batch_size: int = 32,
    limit: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[Reply], dict[str, Any]] | None = None,
    pinned: Mapping[str, Any] | None = None,
    group: ProcessGroup | None = None,
) -> Predicted:
    """Write the answers to all records, one JSON line each in their order.

    A line is `{"row", "id", "answer", "regions", "finished", "tokens"}`, rows counted from 1, regions in pixels of
    the question's last picture, or `{"row", "id", "error"}` where the record could not be asked. Beside the file lies
    `NAME.run.json` with what the answers depend on. A run that was killed is gone on with: the whole file is
    then the same as that of one run.

    Args:
        data: the file or folder that `source` was opened from.
        out: where the answers go.
        limit: the first so many records; all by default.
        overwrite: begin anew where `out` holds answers of another run.
        note: what else is written into a line.
        pinned: what the answers and their scores depend on, in place of the content of `data`.
        group: processes of which each has the whole model; batches are dealt out to them, and each keeps a file of its
            own beside `out`, until the first puts them together. How many there are makes no difference to `out`.

    Raises:
        OmnimixError: answers of another model, data set or other options lie in `out`, or no record is there.
    """
    options = options or Options()
    total = min(source.length or 0, source.length or 0 if limit is None else limit)
    if total < 1:
        raise OmnimixError("there is no record to ask", where=str(data), hint="ask at least one")
    run = _run(assistant, data, options, batch_size, pinned)
    group = group or ProcessGroup()
    with group.agreed():
        if group.rank == 0:
            _begin(out, run, batch_size, overwrite)
    try:
        for end in _answered(assistant, source, out, total, options, batch_size, note, group):
            if progress is not None:
                progress(end, total)
        with group.agreed():
            if group.rank == 0:
                _join(out)
    except OSError as error:
        raise OmnimixError(
            f"cannot write the answers ({error.strerror})",
            where=str(out),
            hint="make room and run the same command again; it goes on where it stopped",
        ) from None
    return _summary(out)


def _answered(
    assistant: Assistant,
    source: Source,
    out: Path,
    total: int,
    options: Options,
    batch_size: int,
    note: Callable[[Reply], dict[str, Any]] | None,
    group: ProcessGroup,
) -> Iterator[int]:
    """Ask what is left, each rank its share of the batches; gives up to which row all have come."""
    with out.open("rb") as lines:
        done = sum(1 for _ in lines)
    own = out if group.size == 1 else _part(out, group.rank)
    with own.open("a", encoding="utf-8", newline="\n") as file:
        for start in range(done, total, batch_size * group.size):
            # In step, so that a rank that fails ends all, and a stop leaves no gaps of more than a batch.
            with group.agreed():
                mine = start + batch_size * group.rank
                rows = range(mine, min(mine + batch_size, total))
                for replies in ask(assistant, source, rows, options, batch_size):
                    file.writelines(
                        json.dumps(line_of(one) | (note(one) if note else {})) + "\n"
                        for one in replies
                    )
                file.flush()
                os.fsync(file.fileno())
            yield min(start + batch_size * group.size, total)


def line_of(reply: Reply) -> dict[str, Any]:
    """One line of the file."""
    head: dict[str, Any] = {"row": reply.row + 1, "id": reply.sample.id if reply.sample else None}
    answer = reply.answer
    if answer is None:
        return head | {"error": reply.error}
    return head | {
        "answer": answer.text,
        "regions": [regions.to_json(region) for region in answer.regions],
        "finished": answer.finished,
        "tokens": answer.tokens,
    }


def _run(
    assistant: Assistant,
    data: Path,
    options: Options,
    batch_size: int,
    pinned: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What the answers depend on, as it is written beside them."""
    words = asdict(options)
    return {
        **identity(assistant),
        **(pinned or {"data": _content(data)}),
        # The answers of a batch may differ in their last bits from those of another.
        "batch_size": batch_size,
        "options": {**words, "stop_strings": list(options.stop_strings or ())},
        "versions": {name: versions.version(name) for name in ("omnimix", "torch", "transformers")},
    }


def identity(assistant: Any) -> dict[str, Any]:
    """Tells whom answers are of: a model and its weights, or what a stand-in says of itself."""
    if hasattr(assistant, "identity"):
        said: dict[str, Any] = assistant.identity()
        return said
    recipe, decoder = recipes.dump(assistant.processor.recipe), assistant.decoder
    return {
        "model": assistant.processor.recipe.name,
        "recipe": hashlib.sha256(recipe.encode()).hexdigest()[:16],
        "weights": decoder.given_up or of_weights(assistant.model),
        **({"engine": decoder.engine} if decoder.engine else {}),
    }


def _content(data: Path) -> str:
    """A hash of a file, or of the names and sizes of a folder's files."""
    if data.is_file():
        return digest(data)[:16]
    files = sorted(path for path in data.rglob("*") if path.is_file())
    listed = "\n".join(f"{path.relative_to(data)} {path.stat().st_size}" for path in files)
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def _part(out: Path, rank: int) -> Path:
    """Where a rank keeps its answers until they are put together."""
    return out.with_name(f".{out.name}.rank{rank}")


def _parts(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f".{glob.escape(out.name)}.rank*"))


def _join(out: Path) -> None:
    """Put what ranks have answered behind one another in the order of rows, up to the first that is missing."""
    parts = _parts(out)
    if not parts:
        return
    draft = out.with_name(f".{out.name}.joined")
    row = 0
    with contextlib.ExitStack() as stack, draft.open("wb") as joined:
        files = [stack.enter_context(path.open("rb")) for path in (out, *parts)]
        for line in heapq.merge(*map(_whole, files), key=_row):
            if _row(line) > row + 1:
                break
            if _row(line) == row + 1:
                joined.write(line)
                row += 1
        joined.flush()
        os.fsync(joined.fileno())
    draft.replace(out)
    for path in parts:
        path.unlink()


def _whole(file: Iterable[bytes]) -> Iterator[bytes]:
    """Lines with an end; one without was torn by a stop."""
    return (line for line in file if line.endswith(b"\n"))


def _row(line: bytes) -> int:
    return int(json.loads(line)["row"])


def _begin(out: Path, run: dict[str, Any], batch_size: int, overwrite: bool) -> None:
    """Make the file ready to be written on: whole batches that this run answered before, or nothing."""
    beside = out.with_name(out.name + ".run.json")
    if not out.parent.is_dir() or out.is_dir():
        raise OmnimixError(
            "no file can be written there",
            where=str(out),
            hint="name a file in a folder that exists",
        )
    parts = _parts(out)
    if overwrite or not (out.exists() and (out.stat().st_size or parts)):
        with writing(out):
            out.write_bytes(b"")
        for path in parts:
            path.unlink()
        write_text(beside, json.dumps(run, indent=2) + "\n")
        return
    _same_run(beside, run, out)
    _join(out)
    lines = out.read_bytes().split(b"\n")[:-1]  # what stands behind the last line end is torn
    # Whole batches alone are kept, so that every batch is asked as it would have been in one go.
    kept = len(lines) // batch_size * batch_size
    with out.open("r+b") as file:
        file.truncate(sum(len(line) + 1 for line in lines[:kept]))


def _same_run(beside: Path, run: dict[str, Any], out: Path) -> None:
    try:
        before = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    # What only the earlier run had (an index, a ranking) differs as well.
    other = [word for word in {**run, **before} if before.get(word) != run.get(word)]
    if other:
        raise OmnimixError(
            f"the file holds answers of another run; what differs: {', '.join(other)}",
            where=str(out),
            hint="name another file, or begin anew with --overwrite",
        )


def _summary(out: Path) -> Predicted:
    rows = failed = empty = 0
    first = ""
    with out.open(encoding="utf-8", newline="\n") as file:
        for line in map(json.loads, file):
            rows += 1
            if (error := line.get("error")) is not None:
                failed, first = failed + 1, first or error
            empty += line.get("answer") == ""
    return Predicted(rows, failed, empty, first)
