"""Writing: a full disk, a missing permission and their like end in a sentence, and what counts is there whole or not."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from omnimix.errors import WriteError

LITTLE = 1 << 20
"""Bytes: with less than that left a disk is called full."""

HINT = "free some space, mend the permission or name another place, then run the same command again"


def digest(path: Path) -> str:
    """The checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(place: Path, hint: str = HINT) -> Iterator[None]:
    """Around writing to a file or into a folder.

    Raises:
        WriteError: says why the place cannot be written to.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = _reason(error, place)
        if reason is None:
            raise
        raise WriteError(f"cannot be written ({reason})", where=str(place), hint=hint) from error


def _reason(error: Exception, place: Path) -> str | None:
    """Why a file could not be written; None where the error is about something else."""
    if isinstance(error, OSError) and error.errno is not None:
        file = error.filename
        if isinstance(file, str) and not _near(Path(file), place):
            return None  # something that was read
        return os.strerror(error.errno)
    # torch and safetensors say where in their source it went wrong, not why.
    for folder in (place, *place.parents):
        if folder.is_dir():
            if shutil.disk_usage(folder).free < LITTLE:
                return os.strerror(errno.ENOSPC)
            break
    words = str(error)
    for number in (errno.ENOSPC, errno.EACCES, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO):
        if os.strerror(number) in words or f"os error {number}" in words:
            return os.strerror(number)
    written = isinstance(error, SafetensorError) or "inline_container" in words
    return f"{words.splitlines()[0][:120]}" if written else None


def _near(file: Path, place: Path) -> bool:
    file, place = file.absolute(), place.absolute()
    return file.is_relative_to(place.parent) or place.is_relative_to(file)


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A folder to write into, which gets the name `place` at the end, when all of it is on the disk.

    Raises:
        WriteError: as `writing`; of what was written nothing is left.
    """
    place = place.resolve()
    draft = place.with_name(f".{place.name}.part")
    with writing(place):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            yield draft
            for path in (*draft.rglob("*"), draft):
                sync(path)
            shutil.rmtree(place, ignore_errors=True)
            draft.replace(place)
            sync(place.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def write_text(file: Path, text: str) -> None:
    """Write a file whole or leave what lies there; a device or a pipe is written to as it is.

    Raises:
        WriteError: as `writing`.
    """
    with writing(file):
        if file.exists() and not file.is_file():
            file.write_text(text, encoding="utf-8")
            return
        file = file.resolve()
        draft = file.with_name(f".{file.name}.part")
        try:
            draft.write_text(text, encoding="utf-8")
            sync(draft)
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
