"""Items into their places: marks such as `<image>` in the text, and lists of items beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from omnimix.data.roots import Roots, is_none
from omnimix.errors import SampleError
from omnimix.types import Media, Part, Turn, text_of

KINDS = ("image", "video", "audio")
MARKS = re.compile(f"<({'|'.join(KINDS)})>")

ROLES = {
    **{name: name for name in ("system", "user", "assistant")},
    **{"human": "user", "gpt": "assistant", "developer": "system"},
}
"""Who speaks, in the words of several tools."""

Items: TypeAlias = dict[str, list[Media]]
Strictness: TypeAlias = Literal["strict", "loose"]

READS = frozenset(key for kind in KINDS for key in (kind, f"{kind}s"))


def items_of(row: Mapping[str, Any], roots: Roots, where: str) -> Items:
    """The items of a row by kind, from `image` or `images` and so on.

    Raises:
        SampleError: both keys hold some, or an item of an unknown form.
    """
    found: Items = {}
    for kind in KINDS:
        given = [key for key in (kind, f"{kind}s") if not is_none(row.get(key))]
        if len(given) > 1:
            raise SampleError(
                f"items stand under {kind!r} and {kind + 's'!r}", where=where, hint="keep one"
            )
        for key in given:
            several = row[key]
            listed = isinstance(several, list | tuple)
            named = several if listed else [several]
            found[kind] = [
                roots.media(kind, item, f"{where}: {key} {i}" if listed else where)
                for i, item in enumerate(named, 1)
            ]
    return found


def role_of(said: Any, where: str) -> str:
    """Our word for who speaks.

    Raises:
        SampleError: nobody that is known.
    """
    if not isinstance(said, str) or said not in ROLES:
        raise SampleError(
            f"unknown role {said!r}", where=where, hint=f"the roles are {', '.join(ROLES)}"
        )
    return ROLES[said]


def placed(
    said: Sequence[tuple[str, Any]], items: Items, where: str, marks: Strictness = "strict"
) -> tuple[Turn, ...]:
    """Turns with every item where its mark stands.

    Args:
        said: role and text (or a list of parts, which stand in their places already) of each turn.
        marks: `strict` refuses marks and items that differ in number, and marks in answers; `loose` drops
            surplus marks of pictures, and puts pictures without one in front of the first question.

    Raises:
        SampleError: no text, or marks and items that do not agree.
    """
    texts = [
        content if isinstance(content, list | tuple) else [text_of(content, f"turn {i}", where)]
        for i, (_, content) in enumerate(said, 1)
    ]
    for kind in KINDS:
        loose = marks == "loose" and kind == "image"
        if not loose:
            _agree(kind, said, texts, len(items.get(kind, ())), where)
    waiting = {kind: list(several) for kind, several in items.items()}
    turns = []
    for (role, _), content in zip(said, texts, strict=True):
        parts = [p for one in content for p in _cut(one, waiting, role == "user")]
        turns.append((role, [p for p in parts if p != ""]))
    left = [item for several in waiting.values() for item in several]
    if left:
        first = next((i for i, (role, _) in enumerate(turns) if role == "user"), None)
        if first is None:
            raise SampleError(
                f"there is no question that the {len(left)} items could stand in",
                where=where,
                hint="write a turn of the user in front of the answer",
            )
        turns[first] = (turns[first][0], [*left, *turns[first][1]])
    return tuple(Turn(role, tuple(parts)) for role, parts in turns)


def _agree(
    kind: str,
    said: Sequence[tuple[str, Any]],
    texts: Sequence[Iterable[Any]],
    count: int,
    where: str,
) -> None:
    mark = f"<{kind}>"
    places = 0
    for number, ((role, _), content) in enumerate(zip(said, texts, strict=True), 1):
        here = sum(one.count(mark) for one in content if isinstance(one, str))
        if here and role != "user":
            raise SampleError(
                f"the mark {mark} stands in turn {number}, which is the {role}'s",
                where=where,
                hint="items stand in questions alone",
            )
        places += here
    if places != count:
        name = {"image": "pictures", "video": "videos", "audio": "sounds"}[kind]
        raise SampleError(
            f"{places} marks {mark} for {count} {name}",
            where=where,
            hint="write one mark for each item; pictures alone may be read with marks: loose",
        )


def _cut(part: Part, waiting: Items, asked: bool) -> list[Part]:
    """A text with the next items at its marks; a part that is an item stands already."""
    if not isinstance(part, str):
        return [part]
    found: list[Part] = []
    for i, piece in enumerate(MARKS.split(part)):
        if i % 2 == 0:
            found.append(piece)
        elif asked and waiting.get(piece):
            found.append(waiting[piece].pop(0))
    return found
