"""Conversations as messages of OpenAI's API, to be sent to a server or kept in a file, and back."""

from __future__ import annotations

import base64
import binascii
import json
import mimetypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnimix.errors import OmnimixError, SampleError, kind_of, reason
from omnimix.regions import from_json, to_json
from omnimix.types import Media, Part, Turn, text_of

TYPES = {"image": "image_url", "audio": "audio_url", "video": "video_url", "document": "file"}
"""How an item of a kind is written."""


def written(turns: Sequence[Turn], source: Callable[[Media], Media] = lambda item: item) -> Any:
    """Turns as messages.

    Args:
        source: gives an item as it was before it was opened.

    Raises:
        OmnimixError: an item that is no file, or of a kind that messages have no word for.
    """
    return [
        {"role": turn.role, "content": [_part(part, source) for part in turn.content]}
        for turn in turns
    ]


def _part(part: Part, source: Callable[[Media], Media]) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.kind == "region":
        on = {} if part.on is None else {"on": part.on}
        return {"type": "region", "region": to_json(part.data), **on}
    item = source(part)
    if item.kind not in TYPES:
        raise OmnimixError(
            f"messages have no word for an item of kind {item.kind!r}",
            hint=f"they take {', '.join(TYPES)}",
        )
    url, name = _url(item), TYPES[item.kind]
    if name == "file":
        return {"type": name, "file": {"file_data": url, "filename": Path(item.label).name}}
    return {"type": name, name: {"url": url}}


def _url(item: Media) -> str:
    data, kind = item.data, "application/octet-stream"
    if isinstance(data, str | Path):
        kind = mimetypes.guess_type(str(data))[0] or kind
        try:
            data = Path(data).read_bytes()
        except OSError as error:
            raise OmnimixError(
                f"cannot read the file ({reason(error)})", where=str(item.data)
            ) from None
    if not isinstance(data, bytes):
        raise OmnimixError("the item is no file", where=item.label, hint="give a path")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def read(path: Path) -> list[Turn]:
    """The turns of a file of `written`; its items are bytes.

    Raises:
        OmnimixError: no such file, or no messages; names the place.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "this is no JSON"
        raise OmnimixError(f"cannot read the conversation ({reason})", where=str(path)) from None
    messages = data.get("messages") if isinstance(data, Mapping) else data
    if not isinstance(messages, list):
        raise OmnimixError(
            "the file holds no messages", where=str(path), hint="open one that /save wrote"
        )
    return [_turn(message, f"{path}: messages.{i}") for i, message in enumerate(messages)]


def _turn(message: Any, where: str) -> Turn:
    if not isinstance(message, Mapping):
        raise SampleError(f"a message is a table, not {kind_of(message)}", where=where)
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise SampleError("the message has no content", where=where)
    return Turn(
        str(message.get("role")),
        tuple(_read(part, f"{where}.content.{i}") for i, part in enumerate(parts)),
    )


def _read(part: Any, where: str) -> Part:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        return text_of(part.get("text"), where=where)
    if kind == "region":
        return Media("region", from_json(part.get("region"), where), on=part.get("on"))
    for name, word in TYPES.items():
        if kind == word and isinstance(part.get(word), Mapping):
            url = part[word].get("file_data" if word == "file" else "url")
            try:
                head, data = str(url).split(";base64,", 1)
                if head.startswith("data:"):
                    label = str(part[word].get("filename") or name)
                    return Media(name, base64.b64decode(data, validate=True), label=label)
            except (ValueError, binascii.Error):
                pass
            raise SampleError("the item is no data URL", where=where, hint="/save writes them")
    raise SampleError(f"unknown type {kind!r} of a part", where=where)
