"""The error tree: every error says what is wrong, where, what was expected, and the way out.

Library code raises these for anything a user can cause; `assert` is kept for our own mistakes.
The command line prints them as one sentence and exits with code 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

_NUMBERED = re.compile(r"\[Errno -?\d+\] ([^:()]+)(?:: ('[^']*'|\"[^\"]*\"))?|\(os error \d+\)")
"""How the system's refusals are written where a sentence quotes one: with a number, and the path once more."""


class OmnimixError(Exception):
    """Base of every error that a user can cause.

    Args:
        what: what is wrong, one sentence without a final stop.
        where: the file, record id or YAML path that it concerns.
        hint: the way out, one sentence without a final stop.
    """

    exit_code: ClassVar[int] = 2
    """How the command line ends."""

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what = _NUMBERED.sub(r"\1", what)
        self.where = where
        self.hint = hint
        super().__init__(self.sentence())

    def sentence(self) -> str:
        """The whole message on one line."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        hint = f" {_ended(_begun(self.hint))}" if self.hint else ""
        return f"{_ended(text)}{hint}"

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (data workers), so the keyword arguments must survive pickling.
        return (_rebuild, (type(self), self.what, self.where, self.hint))

    def at(self, where: str) -> OmnimixError:
        """The same error with an outer place in front (file, then record, then field)."""
        place = f"{where}: {self.where}" if self.where else where
        return type(self)(self.what, where=place, hint=self.hint)


def _begun(sentence: str) -> str:
    """With a capital, unless it begins with the name of a file or a word of a recipe (`config.json`, `max_bytes`)."""
    named = any(sign in sentence.split(" ", 1)[0].rstrip(".,;:?!") for sign in "._/=")
    return sentence if named else sentence[0].upper() + sentence[1:]


def _ended(sentence: str) -> str:
    """With a final stop, unless it has one: `did you mean 'lr'?` is left alone."""
    return sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."


def reason(error: BaseException) -> str:
    """What an exception that is none of ours says, on one line and without the name of its class."""
    if isinstance(error, OmnimixError):
        return error.sentence().rstrip(".")
    if isinstance(error, UnicodeDecodeError):
        return f"no {error.encoding} at byte {error.start + 1}"
    said = " ".join(_NUMBERED.sub(r"\1", str(error)).split())[:160]
    if isinstance(error, KeyError):
        return f"{said} is missing"
    return said or "no reason is given"


def first_of(names: Sequence[str], most: int = 3) -> str:
    """The first few of them and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def kind_of(data: object) -> str:
    """What plain data is, in words."""
    names = {
        type(None): "null",
        str: "a text",
        dict: "a table",
        list: "a list",
        bool: "true or false",
    }
    number = isinstance(data, int | float)
    return names.get(type(data)) or ("a number" if number else f"a {type(data).__name__}")


@contextmanager
def placed(where: str) -> Iterator[None]:
    """Errors raised inside that name no place are about this one."""
    try:
        yield
    except OmnimixError as error:
        raise error if error.where else error.at(where) from None


def _rebuild(
    kind: type[OmnimixError], what: str, where: str | None, hint: str | None
) -> OmnimixError:
    return kind(what, where=where, hint=hint)


class Unavailable(OmnimixError):
    """No fault of what was asked: the engine is full, broken or ending. Asked later, or elsewhere, it may be answered.

    Attributes:
        busy: it is full, and nothing else.
    """

    busy = False


class RecipeError(OmnimixError):
    """A recipe or training file that cannot be used: unknown word, wrong type, parts that do not fit."""


class RegistryError(OmnimixError):
    """A name that no table knows."""


class MediaError(OmnimixError):
    """A picture, sound or document that is missing, broken or beyond the limits."""


class RegionError(OmnimixError):
    """A region that does not lie on its picture or has no extent."""


class SampleError(OmnimixError):
    """A record that cannot be used: no target, an item without a place, a place without an item."""


class ContextError(OmnimixError):
    """A conversation longer than the model's context."""


class SpliceError(OmnimixError):
    """Holes and features that do not agree in number."""


class CheckpointError(OmnimixError):
    """A folder or file that is no model, or one whose weights do not fit."""


class UnsafeFileError(CheckpointError):
    """A file of weights that holds Python objects: opening it would run code."""


class WriteError(OmnimixError):
    """A file or folder that cannot be written: a full disk, a missing permission."""


class ParallelError(OmnimixError):
    """Processes that cannot hold a model together, or one of which failed."""


class TrainError(OmnimixError):
    """A training run that cannot start or go on."""


class DroppedError(TrainError):
    """More records of a dataset cannot be used than its stage allows."""

    exit_code = 1
