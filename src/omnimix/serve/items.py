"""Items of a request: paths below one folder, data URLs, addresses, or plain data become media."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np

from omnimix.compose.modality import ModalitySpec
from omnimix.errors import MediaError, OmnimixError, kind_of
from omnimix.regions import from_json
from omnimix.serve.fetch import Fetched, Fetcher
from omnimix.types import Media

SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:(?=//)|data:|file:", re.IGNORECASE)
_DATA = re.compile(r"data:(?P<type>[^;,]*)(?P<words>(?:;[^;,]*)*),(?P<payload>.*)", re.S | re.I)
_OF_ADDRESSES = bytes.maketrans(b"-_", b"+/")
_FORMS = '{"path": ...}, {"url": ...}, {"text": ...} or {"array": [...], "sampling_rate": ...}'


class Forbidden(OmnimixError):
    """What this server does not do for its clients: a path outside its folder, an address."""


@dataclass(frozen=True)
class ItemReader:
    """Turns what a request says into media; nothing is decoded here.

    Attributes:
        root: the folder below which paths lie; None refuses paths.
        fetcher: gets addresses; None refuses them.
    """

    root: Path | None = None
    fetcher: Fetcher | None = None

    def media(self, item: Any, modality: str, spec: ModalitySpec, where: str) -> Media:
        """One item of a modality. May wait for the network.

        Args:
            item: a string is the text itself for documents, else a path or address; see `_FORMS`.
            where: its place in the request (`images[0]`), which messages name.

        Raises:
            Forbidden: a path outside the folder, or an address where none is fetched.
            OmnimixError: anything else that is no item.
        """
        if spec.media == "region":
            return Media("region", from_json(item, where))
        if isinstance(item, str):
            item = {_word(item, spec): item}
        if isinstance(item, Sequence):
            return Media(modality, _array(item, where), label=where)
        if not isinstance(item, Mapping):
            raise MediaError(
                f"an item cannot be made of {kind_of(item)}",
                where=where,
                hint=f"write a path, a data URL, {_FORMS}",
            )
        return self._words(item, modality, spec, where)

    def _words(
        self, item: Mapping[str, Any], modality: str, spec: ModalitySpec, where: str
    ) -> Media:
        words = frozenset(item)
        if words == {"array", "sampling_rate"}:
            rate = item["sampling_rate"]
            if isinstance(rate, bool) or not isinstance(rate, int) or rate < 1:
                raise MediaError(
                    "the sampling rate is no whole number of hertz",
                    where=where,
                    hint='write {"array": [...], "sampling_rate": 16000}',
                )
            sound = {"array": _array(item["array"], where), "sampling_rate": rate}
            return Media(modality, sound, label=where)
        if len(words) != 1 or not words < {"path", "url", "text", "array"}:
            raise MediaError(
                f"an item of the words {', '.join(map(str, sorted(words))) or 'none'}",
                where=where,
                hint=f"write {_FORMS}",
            )
        ((word, value),) = item.items()
        if word == "array":
            return Media(modality, _array(value, where), label=where)
        if not isinstance(value, str):
            raise MediaError(
                f"the {word} is no text", where=where, hint=f'write {{"{word}": "..."}}'
            )
        if word == "text":
            return Media(modality, _text(value, spec, where), label=where)
        if word == "path":
            return Media(modality, self.path(value, where), label=where)
        return Media(modality, self._bytes(value, where).content, label=where)

    def file(self, kind: str, url: str, where: str) -> Media:
        """A file by its address, data URL or path, as an item of a kind that no modality need take."""
        data = self._bytes(url, where).content if SCHEME.match(url) else self.path(url, where)
        return Media(kind, data, label=where)

    def path(self, name: str, where: str) -> Path:
        """The file of that name below the folder.

        Raises:
            Forbidden: it lies elsewhere, by `..`, by a link, or because it is absolute.
            MediaError: there is no such file.
        """
        if self.root is None:
            raise Forbidden(
                "this server opens no files",
                where=where,
                hint="send a data URL, or start it with --root FOLDER",
            )
        root = self.root.resolve()
        try:
            path = (root / name).resolve()
            inside = path.is_relative_to(root)
            found = inside and path.is_file()
        except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, links in a circle
            inside, found = True, False
        if not inside:
            raise Forbidden(
                "the path leads out of the server's folder",
                where=where,
                hint="name a file below it, or send a data URL",
            )
        if not found:
            raise MediaError(
                f"there is no file {name[:120]!r} in the server's folder",
                where=where,
                hint="paths are relative to the folder of --root",
            )
        return path

    def _bytes(self, address: str, where: str) -> Fetched:
        if address[:5].lower() == "data:":
            return _inline(address, where)
        if not re.match(r"https?:", address, re.I):
            raise Forbidden(
                f"addresses of the kind {address.split(':')[0][:20]!r} are not opened",
                where=where,
                hint="use http, https or data",
            )
        if self.fetcher is None:
            raise Forbidden(
                "this server fetches nothing",
                where=where,
                hint="send a data URL, or start it with --allow-fetch",
            )
        try:
            return self.fetcher.get(address)
        except OmnimixError as error:
            raise error.at(where) from None


def _word(item: str, spec: ModalitySpec) -> str:
    """What a bare string is. Documents are given as their text, whatever it looks like."""
    if spec.media == "document":
        return "text"
    return "url" if SCHEME.match(item) else "path"


def _text(text: str, spec: ModalitySpec, where: str) -> str | bytes:
    """A text as an opener takes it that must not think it the name of a file.

    Raises:
        MediaError: the modality takes no texts.
    """
    if "document" not in spec.opens.takes():
        raise MediaError(
            "a text is no item of this modality",
            where=where,
            hint=f"it takes {', '.join(spec.opens.takes())}",
        )
    return text if spec.media == "document" else text.encode()


def _inline(address: str, where: str) -> Fetched:
    found = _DATA.fullmatch(address)
    if found is None:
        raise MediaError("this is no data URL", where=where, hint="write data:image/png;base64,...")
    payload = found["payload"]
    if ";base64" not in found["words"].lower():
        content = unquote_to_bytes(payload)
    else:
        # As encoders write it that know of addresses or of mail: escaped, in lines, without padding, by the
        # alphabet of addresses. A plus that stands for itself is none of that, and is kept.
        plain = b"".join(unquote_to_bytes(payload).split()).translate(_OF_ADDRESSES).rstrip(b"=")
        try:
            content = base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise MediaError(
                "the data URL holds no base64", where=where, hint="encode the whole file"
            ) from None
    return Fetched(content, found["type"].strip().lower(), "")


def _array(value: Any, where: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Numbers, of any depth but all rows alike."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different length
        array = np.asarray(None)
    if array.dtype.kind not in "iuf" or not array.size:
        raise MediaError(
            "the array is not made of numbers alone, in rows alike",
            where=where,
            hint="write [1.0, 2.0, ...]",
        )
    return array.astype(np.float32)
