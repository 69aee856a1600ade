"""Conversations in the form of multi_token: text with placeholders, and a list of items per modality.

Placeholders such as `<image>` exist at this door alone: behind it every item stands in its turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from omnimix.errors import SampleError, kind_of
from omnimix.types import ROLES, Media, Sample, Turn

T = TypeVar("T")
Surplus = Literal["refuse", "ignore"]
"""What becomes of items without a placeholder; the reference ignores them."""


@dataclass(frozen=True)
class Published:
    """How a modality is written in a row or request.

    Attributes:
        modality: its name in our recipes.
        token: the placeholder in the text.
        key: of the list of items.
    """

    modality: str
    token: str
    key: str


def published(modality: str) -> Published:
    """How a modality is written; one that multi_token does not know by the same rule."""
    plural = "speech_audios" if modality == "speech" else f"{modality}s"
    return Published(modality, f"<{modality}>", plural)


PUBLISHED = tuple(map(published, ("image", "imagebind", "document", "speech", "sound", "video")))
"""The table of sshh12/multi_token, commit 6eb9813 (`multi_token/modalities/*.py`)."""


def short_name(item: Any) -> str:
    """What an item is called in messages: the name of its file, where it is one."""
    name = item.get("path") if isinstance(item, Mapping) else item
    return name if isinstance(name, str) and len(name) <= 200 and "\n" not in name else ""


def conversation(
    messages: Any,
    lists: Mapping[str, Any],
    modalities: Iterable[str],
    id: str = "conversation",
    surplus: Surplus = "refuse",
) -> Sample:
    """Messages with placeholders, and the items that belong there, as a sample.

    Args:
        messages, lists, modalities, surplus: as of `turns`; an item that is no `Media` becomes one.
        id: of the sample, for messages.

    Raises:
        SampleError: as `turns`.
    """

    def media(item: Any, row: Published, _: int) -> Media:
        return (
            item if isinstance(item, Media) else Media(row.modality, item, label=short_name(item))
        )

    said, _ = turns(messages, lists, modalities, media, id, surplus)
    return Sample(tuple(Turn(role, tuple(content)) for role, content in said), id)


def turns(
    messages: Any,
    lists: Mapping[str, Any],
    modalities: Iterable[str],
    make: Callable[[Any, Published, int], T],
    where: str,
    surplus: Surplus = "refuse",
) -> tuple[list[tuple[str, list[str | T]]], list[T]]:
    """Messages with placeholders as roles and contents, every item in its place; and the items left over.

    Args:
        messages: `{"role": "user" or "assistant", "content": text}` each.
        lists: for each key of `published` its items in reading order over all messages. Other keys are passed
            over, and a list may be missing where the text has no placeholder for it.
        modalities: names of the recipe's modalities. Words in angle brackets that belong to none of them
            are text.
        make: what stands for an item: given the item, its modality and its number in its list.
        where: for messages.
        surplus: what becomes of items without a placeholder.

    Raises:
        SampleError: messages of another form, an unknown role, a placeholder in an answer, or not as many
            items as placeholders.
    """
    doors = {row.token: row for row in map(published, modalities)}
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise SampleError(
            "the messages are no list" if messages else "there are no messages",
            where=f"{where}: messages",
            hint='write [{"role": "user", "content": "..."}, ...]',
        )
    for i, message in enumerate(messages, start=1):
        if fault := _fault(message, doors):
            raise SampleError(fault[0], where=f"{where}: message {i}", hint=fault[1])
    text = "\n".join(message["content"] for message in messages)
    waiting = {}
    for token, row in doors.items():
        items = _items(lists.get(row.key), row, text.count(token), surplus, where)
        waiting[token] = iter([make(item, row, i) for i, item in enumerate(items)])
    # The group keeps the placeholders between the pieces; without any the pattern matches nowhere.
    cuts = re.compile(f"({'|'.join(map(re.escape, doors)) or '(?!)'})")
    placed: list[tuple[str, list[str | T]]] = []
    for message in messages:
        pieces = filter(None, cuts.split(message["content"]))
        content = [next(waiting[piece]) if piece in doors else piece for piece in pieces]
        placed.append((message["role"], content))
    return placed, [item for rest in waiting.values() for item in rest]


def _fault(message: Any, tokens: Iterable[str]) -> tuple[str, str] | None:
    """What is wrong with a message, and the way out."""
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        return "a message has a role and content", 'write {"role": "user", "content": "..."}'
    role, content = message["role"], message["content"]
    if role not in ROLES:
        return f"unknown role {role!r}", "the roles are user and assistant"
    if not isinstance(content, str):
        hint = "items stand in the text as placeholders and in a list of their own"
        return f"the content is text, not {kind_of(content)}", hint
    for token in tokens:
        if role != "user" and token in content:
            what = f"the placeholder {token} stands in a turn of the {role}"
            return what, "items stand in messages of the user alone"
    return None


def _items(items: Any, row: Published, places: int, surplus: Surplus, where: str) -> Sequence[Any]:
    items = [] if items is None else items
    if not isinstance(items, Sequence) or isinstance(items, str | bytes):
        raise SampleError(
            f"{row.key} is a list, not {kind_of(items)}",
            where=where,
            hint=f"write one item for each {row.token}",
        )
    if places > len(items) or (len(items) > places and surplus == "refuse"):
        raise SampleError(
            f"{places} placeholders {row.token} in the messages, but {len(items)} items in {row.key}",
            where=where,
            hint="give one item for each placeholder, in reading order",
        )
    return items
