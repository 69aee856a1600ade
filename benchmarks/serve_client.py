"""Clients of a server, all at once, in a process of their own: what they take is not counted as the server's.

Run `python -m benchmarks.serve_client` with `{"url": ..., "bodies": [...]}` on standard input; bodies ask for a stream. It
needs nothing but Python.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from typing import Any
from urllib.parse import urlsplit


def ask(url: str, body: dict[str, Any], found: dict[str, Any]) -> None:
    """One answer: its text, and seconds to its first piece."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=600)
    begin = time.perf_counter()
    connection.request("POST", place.path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        found["error"] = f"{answer.status} {answer.read()[:300]!r}"
        return
    pieces: list[str] = []
    for line in answer:
        if not line.startswith(b"data: {"):
            continue
        for choice in json.loads(line[6:]).get("choices", ()):
            text = choice["text"] if "text" in choice else choice["delta"].get("content")
            if text:
                found.setdefault("first", time.perf_counter() - begin)
                pieces.append(text)
    found["text"] = "".join(pieces)


def main() -> None:
    given = json.load(sys.stdin)
    found: list[dict[str, Any]] = [{} for _ in given["bodies"]]
    threads = [
        threading.Thread(target=ask, args=(given["url"], body, one))
        for body, one in zip(given["bodies"], found, strict=True)
    ]
    begin = time.perf_counter()
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    print(json.dumps({"seconds": time.perf_counter() - begin, "answers": found}))


if __name__ == "__main__":
    main()
