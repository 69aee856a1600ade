"""Conversations in the form of multi_token: text with placeholders, and a list of items per modality.

Placeholders such as `<image>` exist at this door alone: behind it every item stands in its turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from omnimix.errors import SampleError
from omnimix.types import ROLES, Media, Sample, Turn


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


PUBLISHED: tuple[Published, ...] = (
    Published("image", "<image>", "images"),
    Published("imagebind", "<imagebind>", "imagebinds"),
    Published("document", "<document>", "documents"),
    Published("speech", "<speech>", "speech_audios"),
    Published("sound", "<sound>", "sounds"),
    Published("video", "<video>", "videos"),
)
"""The table of sshh12/multi_token, commit 6eb9813 (`multi_token/modalities/*.py`)."""

_BY_NAME = {row.modality: row for row in PUBLISHED}


def published(modality: str) -> Published:
    """How a modality is written; one that multi_token does not know gets `<name>` and `names`."""
    return _BY_NAME.get(modality) or Published(modality, f"<{modality}>", f"{modality}s")


T = TypeVar("T")


def conversation(
    messages: Any,
    lists: Mapping[str, Any],
    modalities: Iterable[str],
    id: str = "conversation",
    surplus: Literal["refuse", "ignore"] = "refuse",
) -> Sample:
    """Messages with placeholders, and the items that belong there, as a sample.

    Args:
        messages, lists, modalities, surplus: as of `turns`; an item that is no `Media` becomes one.
        id: of the sample, for messages.

    Raises:
        SampleError: as `turns`.
    """

    def media(item: Any, row: Published, _: int) -> Media:
        if isinstance(item, Media):
            return item
        label = item if isinstance(item, str) and len(item) <= 200 and "\n" not in item else ""
        return Media(row.modality, item, label=label)

    said, _ = turns(messages, lists, modalities, media, id, surplus)
    return Sample(tuple(Turn(role, tuple(content)) for role, content in said), id)


def turns(
    messages: Any,
    lists: Mapping[str, Any],
    modalities: Iterable[str],
    make: Callable[[Any, Published, int], T],
    where: str,
    surplus: Literal["refuse", "ignore"] = "refuse",
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
        surplus: what becomes of items without a placeholder; the reference ignores them.

    Raises:
        SampleError: messages of another form, an unknown role, a placeholder in an answer, or not as many
            items as placeholders.
    """
    doors = {row.token: row for row in map(published, modalities)}
    spoken = list(_messages(messages, where))
    waiting = {row.token: _items(lists.get(row.key), row, where) for row in doors.values()}
    _count(spoken, doors, waiting, surplus, where)
    made = {
        token: iter([make(item, doors[token], i) for i, item in enumerate(items)])
        for token, items in waiting.items()
    }
    cuts = re.compile("(" + "|".join(map(re.escape, doors)) + ")") if doors else None
    done: list[tuple[str, list[str | T]]] = []
    for role, text in spoken:
        content: list[str | T] = []
        for i, piece in enumerate(cuts.split(text) if cuts else [text]):
            if i % 2:  # what the pattern captured: a placeholder
                content.append(next(made[piece]))
            elif piece:
                content.append(piece)
        done.append((role, content))
    return done, [item for rest in made.values() for item in rest]


def _messages(messages: Any, where: str) -> Iterable[tuple[str, str]]:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise SampleError(
            "there are no messages" if not messages else "the messages are no list",
            where=f"{where}: messages",
            hint='write [{"role": "user", "content": "..."}, ...]',
        )
    for i, message in enumerate(messages, start=1):
        place = f"{where}: message {i}"
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise SampleError(
                "a message has a role and content",
                where=place,
                hint='write {"role": "user", "content": "..."}',
            )
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise SampleError(
                f"unknown role {role!r}", where=place, hint="the roles are user and assistant"
            )
        if not isinstance(content, str):
            raise SampleError(
                f"the content is text, not {type(content).__name__}",
                where=place,
                hint="items stand in the text as placeholders and in a list of their own",
            )
        yield role, content


def _items(items: Any, row: Published, where: str) -> list[Any]:
    if items is None:
        return []
    if not isinstance(items, Sequence) or isinstance(items, str | bytes):
        raise SampleError(
            f"{row.key} is a list, not {type(items).__name__}",
            where=where,
            hint=f"write one item for each {row.token}",
        )
    return list(items)


def _count(
    turns: list[tuple[str, str]],
    doors: Mapping[str, Published],
    waiting: Mapping[str, list[Any]],
    surplus: str,
    where: str,
) -> None:
    for token, row in doors.items():
        for i, (role, text) in enumerate(turns, start=1):
            if role != "user" and token in text:
                raise SampleError(
                    f"the placeholder {token} stands in a turn of the {role}",
                    where=f"{where}: message {i}",
                    hint="items stand in messages of the user alone",
                )
        marks = sum(text.count(token) for _, text in turns)
        given = len(waiting[token])
        if marks > given or (given > marks and surplus == "refuse"):
            raise SampleError(
                f"{marks} placeholders {token} in the messages, but {given} items in {row.key}",
                where=where,
                hint="give one item for each placeholder, in reading order",
            )
