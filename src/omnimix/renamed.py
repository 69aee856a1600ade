"""Words that had another name once (`renamed.yaml`), so that a file which still holds one is told the new one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

_SAID = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))

RENAMED: dict[str, dict[str, str]] = _SAID["renamed"]
"""For each class of settings, and for calls that take any word, the old words and what they are called now."""

ELSEWHERE: dict[str, dict[str, str]] = _SAID["elsewhere"]
"""Words of other trainers for what has a word here."""

HINTS: dict[str, str] = _SAID["hints"]
VALUES: dict[str, dict[str, dict[str, str]]] = _SAID["values"]


def new_value(place: str, word: str, value: object) -> str | None:
    """A sentence that says how a value is called now; None for any other value."""
    new = VALUES.get(place, {}).get(word, {}).get(value) if isinstance(value, str) else None
    return None if new is None else f"`{word}: {value}` is called `{word}: {new}` now"


def new_name(places: Iterable[str], word: str) -> str | None:
    """A sentence that says how a word is called now; None for any other word.

    Args:
        places: names of the class of settings and of those that it is made from, in order.
    """
    for place in places:
        for table, when in ((RENAMED, "now"), (ELSEWHERE, "here")):
            new = table.get(place, {}).get(word)
            if new is not None:
                return f"`{word}` is called `{new}` {when}{HINTS.get(word, '')}"
    return None
