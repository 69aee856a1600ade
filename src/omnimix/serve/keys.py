"""Who may ask: keys, compared in constant time, and how often each may ask."""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from omnimix.errors import OmnimixError
from omnimix.serve.answers import refusal

OPEN = frozenset({"/health", "/ready", "/openapi.json"})
"""Paths that need no key, besides those of the page."""

_MOST_OWNERS = 10_000


def gathered(given: Iterable[str], file: Path | None, environment: str) -> tuple[str, ...]:
    """Keys of the command line, of a file (one a line, `#` begins a comment) and of the environment.

    Raises:
        OmnimixError: the file cannot be read or holds none, or a key that is none.
    """
    lines: list[str] = []
    if file is not None:
        try:
            lines = [line.split("#")[0] for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise OmnimixError(f"cannot read the keys ({error})", where=str(file)) from None
        if not any(map(str.strip, lines)):
            raise OmnimixError("the file holds no key", where=str(file), hint="write one a line")
    # An empty --api-key is a variable that is not set: without this the server would be open to everybody.
    keys = [key.strip() for key in given]
    keys += [key for word in (*lines, *environment.split(",")) if (key := word.strip())]
    for key in keys:
        if not 8 <= len(key) <= 512 or not key.isascii() or not key.isprintable() or " " in key:
            raise OmnimixError(
                "an API key has fewer than 8 signs or more than 512, or holds a space or letters beyond ASCII",
                hint="make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            )
    return tuple(dict.fromkeys(keys))


class KeyCheck:
    """Answers those alone who say a key, and nobody more often than allowed.

    Args:
        app: what comes next.
        keys: without any, everybody is answered and the rate is that of an address.
        rate: requests a minute of one key; None: any.
        guarded: paths that begin so need a key; others are files of a page.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Collection[str],
        rate: int | None = None,
        guarded: Collection[str] = (),
    ) -> None:
        self.app = app
        self.keys = [_digest(key) for key in keys]
        self.rate = rate
        self.guarded = tuple(guarded)
        self.left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope.get("path", "")).removeprefix(str(scope.get("root_path", "")))
        if scope["type"] != "http" or not path.startswith(self.guarded) or path in OPEN:
            await self.app(scope, receive, send)
            return
        client = scope.get("client") or ("",)
        who = str(client[0])
        if self.keys:
            said = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
            scheme, _, key = said.partition(" ")
            digest = _digest(key.strip())
            # Every key is looked at, whichever fits, so that the time says nothing.
            fits = [hmac.compare_digest(digest, known) for known in self.keys]
            if scheme.lower() != "bearer" or not any(fits):
                what = "the API key is not known here" if key else "an API key is needed"
                hint = "send the header Authorization: Bearer KEY"
                answer = refusal(401, what, hint=hint, WWW_Authenticate="Bearer")
                await answer(scope, receive, send)
                return
            who = digest.hex()
        scope.setdefault("state", {})["owner"] = who
        wait = self._wait(who) if self.rate and scope["method"] == "POST" else 0
        if wait:
            what = f"more than {self.rate} requests a minute"
            answer = refusal(429, what, hint="ask again later", Retry_After=str(wait))
            await answer(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _wait(self, who: str) -> int:
        """Takes one request of what a client has left; else the seconds until there is one."""
        assert self.rate is not None
        now = time.monotonic()
        left, then = self.left.pop(who, (float(self.rate), now))
        left = min(left + (now - then) * self.rate / 60, float(self.rate))
        granted = left >= 1
        self.left[who] = (left - granted, now)
        if len(self.left) > _MOST_OWNERS:
            self.left.popitem(last=False)
        return 0 if granted else math.ceil((1 - left) * 60 / self.rate)


def owner(scope: Scope) -> str:
    """Whose request it is: a key's, else an address's."""
    return str(scope.get("state", {}).get("owner", ""))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
