"""What transformers' users hand to a processor, texts and messages with typed content, as our samples.

Inside omnimix no text ever stands for an item; here, where the two meet, the mark `<kind>` (`<image>`, `<audio>`
...) does, as in chat templates.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence as Many
from dataclasses import dataclass
from typing import Any

from omnimix.errors import SampleError
from omnimix.prompts import chat_template
from omnimix.prompts.questions import question
from omnimix.prompts.template import Template
from omnimix.regions import from_json
from omnimix.types import Media, Part, Sample, Turn

_SOURCES = ("url", "path", "base64", "data")
"""Words under which a part may name its item, beside its own kind (`{"type": "image", "image": ...}`)."""


@dataclass(frozen=True)
class AskedSample:
    """A sample, and whether its answer is still to be written."""

    sample: Sample
    open: bool
    verbatim: bool = False
    """The one user turn is the whole prompt, read as it is."""


def of_messages(messages: Many[Mapping[str, Any]], where: str, open_answer: bool) -> AskedSample:
    """A conversation in transformers' form.

    Raises:
        SampleError: a message, or a part of one, that cannot be read; with its place.
    """
    turns = []
    for i, message in enumerate(messages):
        here = f"{where}[{i}]"
        if not {"role", "content"} <= set(message):
            raise SampleError(
                "no message", where=here, hint='write {"role": "user", "content": ...}'
            )
        content = message["content"]
        parts = [content] if isinstance(content, str) else content
        turns.append(
            Turn(message["role"], tuple(_part(p, f"{here}.{k}") for k, p in enumerate(parts)))
        )
    return AskedSample(Sample(tuple(turns), where), open_answer)


def _part(part: Any, where: str) -> Part:
    if isinstance(part, str | Media):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind == "image_url":  # OpenAI's form
        url = part.get("image_url")
        part = {"url": url.get("url") if isinstance(url, Mapping) else url}
        kind = "image"
    if not isinstance(kind, str) or kind == "text":
        raise SampleError(
            "a part of a message without a type, or a text part without its text",
            where=where,
            hint='write {"type": "text", "text": ...} or {"type": "image", "path": ...}',
        )
    given = [part[word] for word in (kind, *_SOURCES) if part.get(word) is not None]
    if len(given) != 1:
        raise SampleError(
            f"{len(given) or 'no'} items in a part of the type {kind!r}",
            where=where,
            hint=f'name one: {{"type": "{kind}", "{kind}": ...}}, or under {", ".join(_SOURCES)}',
        )
    if part.get("base64") is not None:
        return media(kind, "data:;base64," + str(part["base64"]), where)
    return media(kind, given[0], where)


def media(kind: str, item: Any, where: str) -> Media:
    """One item in any form: what the kind's opener takes, a data URL, a region as plain data.

    Raises:
        SampleError: an address; nothing is fetched.
    """
    if isinstance(item, Media):
        return item
    if kind == "region" and isinstance(item, Mapping | str):
        item = from_json(item, where)
    if isinstance(item, str) and item.startswith("data:"):
        try:
            item = base64.b64decode(item.partition(",")[2], validate=True)
        except binascii.Error as error:
            raise SampleError(f"no data URL in base64 ({error})", where=where) from None
    elif isinstance(item, str) and item.startswith("file://"):
        item = item.removeprefix("file://")
    elif isinstance(item, str) and re.match(r"[a-z][a-z0-9+.-]*://", item, re.IGNORECASE):
        raise SampleError(
            f"the address {item[:60]!r} is not fetched",
            where=where,
            hint="download it first and give the file's path or its bytes",
        )
    return Media(kind, item, label=item if kind != "document" and isinstance(item, str) else where)


def of_texts(
    texts: Many[str], items: Mapping[str, Any], style: Template, bos: str, eos: str
) -> list[AskedSample]:
    """Texts with their items, each a prompt or a question.

    A text that marks where its items stand, or has none, is the prompt as the model reads it. A text beside items
    that it does not mark is a question: the style is put around it and the items stand in front, regions where
    the words point at them (`omnimix.prompts.questions`).

    Args:
        items: by kind: one, a list for all texts in order, or a list of each text's own.

    Raises:
        SampleError: marks and items that differ in number.
    """
    shared = [_shared(kind, given, texts) for kind, given in items.items() if given is not None]
    found = []
    for i, text in enumerate(texts):
        own = {kind: rows[i] for kind, rows in shared if rows[i]}
        where = f"text[{i}]"
        marked = [kind for kind in own if f"<{kind}>" in text]
        if own and not marked:
            regions = [one.data for one in own.pop("region", ())]
            first = own.pop("image", [])
            rest = [one for many in own.values() for one in many]
            turn = question(text, first, regions, rest)
            found.append(AskedSample(Sample((turn,), where), True))
            continue
        found.append(_prompt(text, own, style, bos, eos, where))
    return found


def _prompt(
    text: str, own: Mapping[str, list[Media]], style: Template, bos: str, eos: str, where: str
) -> AskedSample:
    """A prompt: a conversation in the style where it is one, so that it is woven as one; else as it is."""
    rows = chat_template.turns(style, text, bos, eos)
    waiting = {kind: iter(many) for kind, many in own.items()}
    turns = rows or [("user", text.removeprefix(bos) if style.bos else text)]
    made = tuple(Turn(role, tuple(_placed(content, waiting, where))) for role, content in turns)
    for kind, left in waiting.items():
        if (over := len(list(left))) > 0:
            raise SampleError(
                f"{over} more of {kind} than marks <{kind}>",
                where=where,
                hint="mark each where it stands, or none of them",
            )
    return AskedSample(
        Sample(made, where), rows is None or turns[-1][0] != "assistant", rows is None
    )


def _placed(text: str, waiting: Mapping[str, Iterator[Media]], where: str) -> Iterator[Part]:
    if not waiting:
        yield text
        return
    for piece in re.split(f"(<(?:{'|'.join(map(re.escape, waiting))})>)", text):
        if piece[1:-1] not in waiting or piece != f"<{piece[1:-1]}>":
            yield piece
            continue
        one = next(waiting[piece[1:-1]], None)
        if one is None:
            raise SampleError(
                f"more marks {piece} than items of that kind",
                where=where,
                hint="give one item for each mark",
            )
        yield one


def _shared(kind: str, given: Any, texts: Many[str]) -> tuple[str, list[list[Media]]]:
    """The items of one kind, of each text its own."""
    rows = [given] if _is_item(kind, given) else list(given)
    if not (rows and all(row is None or not _is_item(kind, row) for row in rows)):
        counts = [text.count(f"<{kind}>") for text in texts]
        if not any(counts):
            counts = [len(rows)] if len(texts) == 1 else [1] * len(texts)
        if sum(counts) != len(rows):
            raise SampleError(
                f"{len(rows)} items of {kind} for {sum(counts)} places in {len(texts)} texts",
                hint=f"mark each place with <{kind}>, or give a list for each text",
            )
        left = iter(rows)
        rows = [[next(left) for _ in range(count)] for count in counts]
    if len(rows) != len(texts):
        raise SampleError(
            f"{len(rows)} lists of {kind} for {len(texts)} texts", hint="give one list for each"
        )
    made = [
        [media(kind, one, f"{kind}[{i}][{k}]") for k, one in enumerate(row or ())]
        for i, row in enumerate(rows)
    ]
    return kind, made


def _is_item(kind: str, given: Any) -> bool:
    """Whether this is one item, not several; a film may be a list of its pictures, a sound comes with its rate."""
    if not isinstance(given, list | tuple):
        return True
    if kind == "video":
        return bool(given) and not any(
            isinstance(x, str | bytes | list | tuple | Media) for x in given
        )
    return kind == "audio" and len(given) == 2 and isinstance(given[1], int)
