"""Calls that stand in people's scripts: their arguments are checked before anything is done."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError, validate_call

from omnimix.config import first_error
from omnimix.errors import SampleError
from omnimix.registry import did_you_mean

F = TypeVar("F", bound=Callable[..., Any])


def checked_call(function: F) -> F:
    """A call that refuses arguments of another form than its annotations say, before anything is done.

    For calls that stand in people's scripts, where Python's own words (`'NoneType' object is not iterable`) would
    come from somewhere inside.

    Raises:
        SampleError: names the call and the argument; a word that the call lacks, with the nearest one it has.
    """
    any_class = ConfigDict(arbitrary_types_allowed=True)
    # At the first call, since annotations may name what stands further down in the file.
    checked = functools.cache(lambda: validate_call(config=any_class)(function))
    known = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]

    @functools.wraps(function)
    def call(*args: Any, **words: Any) -> Any:
        try:
            return checked()(*args, **words)
        except ValidationError as error:
            if error.title != function.__qualname__:  # a settings class inside
                raise
            (place, *inner), message = first_error(error)
            names = list(inspect.signature(function).parameters)
            name = names[place] if isinstance(place, int) and place < len(names) else str(place)
            problem = error.errors()[0]
            if name not in names:
                message = f"the call has no such word; {did_you_mean(name, known)}"
            elif problem["type"] == "sequence_str":
                message = f"a list of {name} is wanted, not one text"
            elif not problem["type"].startswith("missing"):
                message = f"{type(problem['input']).__name__} was given: {message}"
            # Of a union, pydantic names the alternative too, which is no place.
            where = ".".join(map(str, (name, *(step for step in inner if isinstance(step, int)))))
            raise SampleError(message, where=f"{function.__name__}: {where}") from None

    return typing.cast("F", call)
