"""A request's body as plain data, refused where reading it alone would hold the server up."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from omnimix.errors import kind_of
from omnimix.serve.answers import Refused, refusal

_MOST_VALUES = 2_000_000
_MOST_OBJECTS = 50_000
_MOST_WORDS = 4_096
_LARGE = 4 << 20


async def body(request: Request, example: str) -> Mapping[str, Any]:
    """The request's JSON object.

    Args:
        example: a small body, for refusals.

    Raises:
        Refused: another content type, no JSON, no object, or more values than any conversation has.
    """
    content = await request.body()
    return await asyncio.to_thread(_read, request, content, example)


def _read(request: Request, content: bytes, example: str) -> Mapping[str, Any]:
    if len(content) > _LARGE:
        _give_back()
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        what = f"the content type is {kind!r}" if kind else "the content type is missing"
        raise Refused(refusal(415, what, hint="send application/json"))
    # The parser keeps the interpreter to itself until it is through, so it is told apart before what would
    # take it long. Signs inside of texts count as well: no text that a model reads has so many.
    for signs, most in ((b"[,", _MOST_VALUES), (b"{", _MOST_OBJECTS)):
        if _more(content, signs, most):
            what = f"the body holds more than {most} {'objects' if signs == b'{' else 'values'}"
            raise Refused(refusal(400, what, hint="send files as data URLs, or fewer items"))
    try:
        # The standard's reader would take halves of characters, raw or escaped, which no tokenizer can.
        found = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_object)
        if b"\\u" in content:
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeError:
        what = "the body holds half of a character (a lone surrogate), or bytes that are no UTF-8"
        raise Refused(refusal(400, what, hint="send whole characters in UTF-8")) from None
    except (ValueError, RecursionError) as error:
        what = f"the body is no JSON ({error})"
        raise Refused(refusal(400, what, hint=f"send {example}")) from None
    if not isinstance(found, dict):
        what = f"the body is no JSON object but {kind_of(found)}"
        raise Refused(refusal(400, what, hint=f"send {example}"))
    return found


def _give_back() -> None:
    """Have glibc return what earlier large bodies took and it kept, which would add up to the most of each thread."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, each of whose words stands once."""
    if len(pairs) > _MOST_WORDS:
        raise ValueError(f"an object holds {len(pairs)} words, at most {_MOST_WORDS} are read")
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(word for word, _ in pairs)
        twice = next(word for word, count in counts.items() if count > 1)
        raise ValueError(f"the word {twice[:40]!r} stands twice in one object")
    return found


def _more(content: bytes, signs: bytes, most: int) -> bool:
    """Whether there are more of the signs; in stretches, since counting keeps the interpreter to itself too."""
    found, stretch = 0, 1 << 20
    for at in range(0, len(content), stretch):
        found += sum(content.count(sign, at, at + stretch) for sign in signs)
        if found > most:
            return True
    return False
