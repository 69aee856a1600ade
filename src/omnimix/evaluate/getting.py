"""Fetching a benchmark's official files: checksums, gone on with after a stop, archives that stay in their folder."""

from __future__ import annotations

import json
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from omnimix.disk import digest, write_text, writing
from omnimix.errors import MediaError, OmnimixError
from omnimix.evaluate.benchmark import BenchmarkSpec, Download

SUMS = "checksums.json"
"""In the benchmark's folder: what was fetched and its content's SHA-256, so that a second copy is held to the first."""

_CHUNK = 1 << 20
_MOST = 10**6
"""Files of an archive; more is no benchmark."""


def get(
    spec: BenchmarkSpec,
    folder: Path,
    progress: Callable[[str, int, int], None] | None = None,
    checked: Callable[[str], None] | None = None,
) -> list[str]:
    """Fetch and unpack what is not there yet.

    Args:
        progress: called with a file's name, bytes that are there, and all of them (0 where not known).
        checked: raises for an address that may not be asked; redirects are asked about too.

    Returns:
        A line about each file.

    Raises:
        OmnimixError: nothing to fetch, another content than the checksum says, or an archive that leads out.
    """
    if not spec.get:
        raise OmnimixError(
            f"{spec.title} is given by its authors alone ({spec.licence})",
            where=spec.home,
            hint="fetch it there, and name its folder with --folder",
        )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    sums = _sums(folder)
    said = []
    for one in spec.get:
        if one.url in sums and sums[one.url].get("done"):
            said.append(f"{_name(one.url)}: there already")
            continue
        path = folder / ".fetched" / _name(one.url)
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            _fetch(one.url, path, progress, checked)
            found = digest(path)
            known = one.sha256 or sums.get(one.url, {}).get("sha256", "")
            if known and found != known:
                path.unlink()
                raise MediaError(
                    f"its content is another ({found[:12]}, not {known[:12]})",
                    where=one.url,
                    hint="fetch it again; if it stays so, the authors changed the file",
                )
            place = folder / one.into
            if one.unpack:
                unpack(path, place)
                path.unlink()
            else:
                place.mkdir(parents=True, exist_ok=True)
                path.replace(place / path.name)
        sums[one.url] = {"sha256": found, "done": True}
        write_text(folder / SUMS, json.dumps(sums, indent=2) + "\n")
        said.append(f"{_name(one.url)}: sha256 {found}" + ("" if one.sha256 else " (first seen)"))
    shutil.rmtree(folder / ".fetched", ignore_errors=True)
    return said


def _name(url: str) -> str:
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return name if name not in ("", "..") else "file"


def _sums(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        found: dict[str, dict[str, Any]] = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        return {}


class _Checked(urllib.request.HTTPRedirectHandler):
    def __init__(self, checked: Callable[[str], None] | None) -> None:
        self.checked = checked

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if self.checked:
            self.checked(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(
    url: str,
    path: Path,
    progress: Callable[[str, int, int], None] | None,
    checked: Callable[[str], None] | None,
) -> None:
    """Fetch into a file; what a stopped fetch left of it is gone on with where the server can."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise MediaError("files are fetched over http and https", where=url)
    if checked:
        checked(url)
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    asked = {"Range": f"bytes={have}-"} if have else {}
    opener = urllib.request.build_opener(_Checked(checked))
    try:
        with opener.open(urllib.request.Request(url, headers=asked), timeout=60) as answer:  # noqa: S310
            if have and answer.status != 206:  # it began anew
                have = 0
            length = int(answer.headers.get("Content-Length") or 0)
            with part.open("ab" if have else "wb") as file:
                for chunk in iter(lambda: answer.read(_CHUNK), b""):
                    file.write(chunk)
                    if progress:
                        progress(path.name, file.tell(), have + length if length else 0)
            if length and part.stat().st_size != have + length:
                raise MediaError("the connection ended before the file did", where=url, hint=_AGAIN)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing is left to fetch
            raise MediaError(f"the server there answers {error.code}", where=url) from None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        why = getattr(error, "reason", error)
        raise MediaError(f"it cannot be fetched ({why})", where=url, hint=_AGAIN) from None
    part.replace(path)


_AGAIN = "run the same command again; it goes on where it stopped"


def unpack(path: Path, folder: Path) -> None:
    """Unpack a zip or tar file; files alone, and none outside the folder.

    Raises:
        MediaError: another kind of file, a damaged one, or one that leads out of the folder.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _write_all(folder, path, _of_zip(archive))
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                _write_all(folder, path, _of_tar(archive))
        else:
            raise MediaError("the file is no zip and no tar archive", where=path.name)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError) as error:
        raise MediaError(f"the archive is damaged ({error})", where=path.name) from None


def _of_zip(archive: zipfile.ZipFile) -> Iterator[tuple[str, IO[bytes]]]:
    for one in archive.infolist():
        if not one.is_dir():
            with archive.open(one) as file:
                yield one.filename, file


def _of_tar(archive: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    for one in archive:
        if one.isfile() and (file := archive.extractfile(one)) is not None:
            yield one.name, file
        elif not one.isdir():
            raise MediaError(f"it holds {one.name!r}, which is no file", where=str(archive.name))


def _write_all(folder: Path, path: Path, members: Iterator[tuple[str, IO[bytes]]]) -> None:
    base = folder.resolve()
    for count, (name, file) in enumerate(members):
        place = (base / name).resolve()
        if "\\" in name or "\0" in name or not place.is_relative_to(base) or place == base:
            raise MediaError(f"{name!r} leads out of the folder", where=path.name)
        if count >= _MOST:
            raise MediaError(f"it holds more than {_MOST} files", where=path.name)
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as out:
            shutil.copyfileobj(file, out, _CHUNK)


def public(url: str) -> None:
    """Refuse an address at home.

    Raises:
        MediaError: the host is unknown, or leads to a network that is not public.
    """
    import socket

    url_parts = urlsplit(url)
    try:
        found = socket.getaddrinfo(url_parts.hostname or "", url_parts.port or 443)
    except (OSError, ValueError) as error:
        raise MediaError(f"the host is unknown ({error})", where=url) from None
    import ipaddress

    if not all(ipaddress.ip_address(one[4][0]).is_global for one in found):
        raise MediaError("the address leads to a network that is not public", where=url)


def downloads(spec: BenchmarkSpec, mirror: str | None) -> BenchmarkSpec:
    """The benchmark with its files fetched from another place, `MIRROR/NAME` each."""
    if mirror is None:
        return spec
    moved = [
        Download.model_validate({**one.dump(), "url": f"{mirror.rstrip('/')}/{_name(one.url)}"})
        for one in spec.get
    ]
    return spec.model_copy(update={"get": tuple(moved)})
