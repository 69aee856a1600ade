"""How the hub is asked: with whose token, and into which cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

_WORDS: ContextVar[dict[str, Any] | None] = ContextVar("hub", default=None)


@contextmanager
def asked(token: str | None = None, cache_dir: str | Path | None = None) -> Iterator[None]:
    """Inside, every download goes with this token and into this cache; None is `huggingface_hub`'s own."""
    given = {"token": token, "cache_dir": cache_dir}
    reset = _WORDS.set({word: value for word, value in given.items() if value is not None})
    try:
        yield
    finally:
        _WORDS.reset(reset)


def words() -> dict[str, Any]:
    """Further words of `snapshot_download`."""
    return dict(_WORDS.get() or {})
