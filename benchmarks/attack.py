"""Good and hostile requests together, against a server that this starts on the loopback address.

Run `python -m benchmarks.attack --minutes 5`. It prints what was sent and what came of it, and exits 1 where the server
answered 5xx, left a valid request without an answer, let `/health` wait, kept memory, or kept idle connections. No more
is asked at once than the server lets wait, so that it has no reason to refuse anybody with 503.

A further path of the server joins as a row of `ROUTES`, a further kind of attack as a function in `KINDS`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import copy
import http.client
import io
import json
import multiprocessing
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnimix_scenes import Scenes

SECONDS = 120.0
"""For an answer; longer counts as none."""

IDLE = 60.0
"""Seconds within which the server closes a connection that asks for nothing."""

HEALTH = 1.0
"""Seconds for `/health`, at the 99th percentile."""

GROWTH = 1.10
"""Memory at the end over memory after the warm-up, both when nothing is asked."""


@dataclass(frozen=True)
class Route:
    """A path of the server.

    Attributes:
        path: where bodies are posted.
        body: of a text, the source of a picture or None, and a region or None.
        answer: what was said, of the JSON that comes back.
    """

    path: str
    body: Callable[[Any, Any, Any], dict[str, Any]]
    answer: Callable[[Any], str]


def _chat(text: Any, image: Any = None, region: Any = None) -> dict[str, Any]:
    parts = [{"type": "image", "source": image}] if image is not None else []
    parts += [{"type": "region", "region": region}] if region is not None else []
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]}


def _generate(text: Any, image: Any = None, region: Any = None) -> dict[str, Any]:
    marks = "<image>" * (image is not None) + "<region>" * (region is not None)
    content = marks + text if isinstance(text, str) else text
    body: dict[str, Any] = {"messages": [{"role": "user", "content": content}]}
    body |= {"images": [image]} if image is not None else {}
    return body | ({"regions": [region]} if region is not None else {})


def _openai(kind: str) -> Callable[[Any, Any, Any], dict[str, Any]]:
    """The content of a message as OpenAI's two ways of asking write it, a region beside its picture."""
    shown = {"input_text": "input_image", "text": "image_url"}[kind]

    def content(text: Any, image: Any, region: Any) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = [{"type": kind, "text": text}]
        if image is not None:
            one = {"type": shown, "image_url": image if shown == "input_image" else {"url": image}}
            parts.insert(0, one | ({"regions": [region]} if region is not None else {}))
        return parts

    return lambda text, image, region: {
        "model": "nano",
        ("input" if kind == "input_text" else "messages"): [
            {"role": "user", "content": content(text, image, region)}
        ],
    }


ROUTES = (
    Route(
        "/v1/chat/completions",
        _openai("text"),
        lambda said: str(said["choices"][0]["message"]["content"]),
    ),
    Route(
        "/v1/responses",
        _openai("input_text"),
        lambda said: str(said["output"][0]["content"][0]["text"]),
    ),
    Route("/chat", _chat, lambda said: str(said["message"]["content"])),
    Route("/generate", _generate, lambda said: str(said["output"])),
)


def picture(seed: int = 0) -> str:
    """A picture as a data URL."""
    buffer = io.BytesIO()
    Scenes(7, "heldout").question("list", seed).media("image")[0].data.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


BOX = {"box": [20, 20, 90, 90]}


def valid(route: Route, chance: random.Random) -> bytes:
    """A request that is to be answered."""
    asked = [
        ("What is in the picture?", picture(chance.randrange(20)), None),
        ("What is here?", picture(chance.randrange(20)), BOX),
        ("Say something.", None, None),
        ("  Wörter, 海, \U0001f600 \u2028 and\nlines", None, None),
    ]
    return json.dumps(route.body(*chance.choice(asked))).encode()


Broken = Callable[[Route, random.Random, float], bytes]
"""A body of a path, of so much of the full size."""


def _long_prompt(route: Route, chance: random.Random, size: float) -> bytes:
    word = chance.choice(["word ", "a", "海", "\\u00e4", "x1,y2;"])
    return json.dumps(route.body(word * int(10e6 * size / len(word)), None, None)).encode()


def _many_lists(_: Route, chance: random.Random, size: float) -> bytes:
    item = chance.choice([b"[],", b"{},", b"0,", b'"a",', b"[[[]]],", b"null,"])
    return b'{"messages":[' + item * int(60e6 * size / len(item)) + b"0]}"


def _many_values(_: Route, chance: random.Random, size: float) -> bytes:
    """As many as are parsed, wherever a list may stand."""
    many = chance.choice(["0", "[]", '"a"', "null"]).join([","] * int(1.9e6 * size)).strip(",")
    place = chance.choice(
        [
            *('{"messages":[%s]}', '{"messages":[{"role":"user","content":[%s]}]}', "[%s]"),
            *('{"messages":[{"role":"user","content":"a"}],"images":[%s]}', '{"a":[%s]}'),
        ]
    )
    return (place % many).encode()


def _deep(_: Route, chance: random.Random, size: float) -> bytes:
    depth = int(200_000 * size) + 2000
    sign = chance.choice(["[]", '{"a":', "[{"])
    if sign == "[]":
        return b"[" * depth + b"]" * depth
    return sign.replace("[{", '[{"a":').encode() * depth


def _many_regions(route: Route, _: random.Random, size: float) -> bytes:
    if route.path.startswith("/v1"):
        many = json.dumps([BOX] * int(2e5 * size))
        return (
            json.dumps(route.body("What?", picture(), BOX))
            .replace(json.dumps([BOX]), many)
            .encode()
        )
    if route.path == "/chat":
        part = {"type": "region", "region": BOX}
        return json.dumps(
            {"messages": [{"role": "user", "content": [part] * int(2e5 * size)}]}
        ).encode()
    body = _generate("<region>" * 3, picture(), None)
    return json.dumps(body | {"regions": [BOX] * int(2e5 * size)}).encode()


def _many_numbers(route: Route, _: random.Random, size: float) -> bytes:
    return json.dumps(route.body("x", {"array": [0.1] * int(3e6 * size)}, None)).encode()


def _outline(route: Route, _: random.Random, size: float) -> bytes:
    points = [[i % 200, i % 190] for i in range(int(1e5 * size) + 5000)]
    return json.dumps(route.body("What?", picture(), {"polygon": points})).encode()


def _odd_region(route: Route, chance: random.Random, _: float) -> bytes:
    odd = [
        *({"box": [0, 0, int("9" * 400), 1]}, {"point": [1e300, 0]}, {"box": [9, 9, 1, 1]}),
        *({"box": "all"}, {"point": [None, 1]}, {"box": []}, {"spiral": [1]}, 7, "box", []),
    ]
    text = json.dumps(route.body("What?", picture(), chance.choice(odd)))
    return text.replace("[9, 9", chance.choice(["[NaN, 9", "[Infinity, 9", "[9, 9"])).encode()


def _odd_item(route: Route, chance: random.Random, _: float) -> bytes:
    odd = [
        *("../secret", "/etc/passwd", "/dev/zero", "http://127.0.0.1:1/a.png", "file:///etc/hosts"),
        *("data:image/png;base64,AAAA", "data:,", "", "a\0b", {"path": "~"}, {"url": 7}, 5, [[1]]),
        *({"path": "none.png"}, {}, "data:image/png;base64," + "A" * 4000, True),
    ]
    return json.dumps(route.body("What?", chance.choice(odd), None)).encode()


def _odd_words(route: Route, chance: random.Random, _: float) -> bytes:
    """A whole body, one of whose values is something else."""
    body = copy.deepcopy(route.body("What?", picture(), BOX))
    odd = chance.choice([None, True, -1, 1.5, "x", [], {}, [[]], "\ud800", "9" * 5000])
    place: Any = body
    while True:
        key = (
            chance.choice(list(place)) if isinstance(place, dict) else chance.randrange(len(place))
        )
        if isinstance(place[key], dict | list) and place[key] and chance.random() < 0.7:
            place = place[key]
            continue
        place[key] = odd
        return json.dumps(body | chance.choice([{}, {"banana": odd}])).encode()


def _no_json(route: Route, chance: random.Random, _: float) -> bytes:
    whole = json.dumps(route.body("What?", picture(), None)).encode()
    cut = whole[: chance.randrange(len(whole) - 1)]
    return chance.choice([cut, b"", b"\xff\xfe", b"\0" * 100, chance.randbytes(300), b"null", b"7"])


KINDS: dict[str, Broken] = {
    "prompt of 10 MB": _long_prompt,
    "60 MB of small values": _many_lists,
    "1.9 million values": _many_values,
    "deep JSON": _deep,
    "200,000 regions": _many_regions,
    "3 million numbers": _many_numbers,
    "outline of 10^5 points": _outline,
    "odd region": _odd_region,
    "odd item": _odd_item,
    "odd words": _odd_words,
    "no JSON": _no_json,
}
"""Bodies that are refused."""

HEAVY = {
    "prompt of 10 MB",
    "60 MB of small values",
    "1.9 million values",
    "200,000 regions",
    "3 million numbers",
}


# --- connections ---


@dataclass
class Seen:
    """What came of the requests."""

    statuses: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    lock: Any = field(default_factory=threading.Lock)

    def add(self, kind: str, status: object, seconds: float) -> None:
        with self.lock:
            self.statuses[kind][str(status)] += 1
            self.seconds[kind].append(seconds)

    def count(self, kind: str) -> int:
        return sum(self.statuses[kind].values())


@dataclass
class Attack:
    """The server's address, what was seen, and when it ends."""

    port: int
    seen: Seen
    ended: threading.Event = field(default_factory=threading.Event)

    def post(self, path: str, content: Any, **headers: str) -> tuple[object, bytes]:
        """Status and body of an answer; the status says what went wrong where there is none."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        words = {"Content-Type": "application/json"} | headers
        with contextlib.closing(line):
            try:
                line.request("POST", path, content, words)
                answer = line.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException) as error:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    # Refused before it was sent whole: the answer lies there already.
                    answer = http.client.HTTPResponse(line.sock)
                    answer.begin()
                    return answer.status, answer.read()
                return type(error).__name__, b""

    def sent(self, content: bytes, wait: float = 0.0) -> bytes:
        """What comes back on bare bytes, after which the connection is closed."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port)) as line,
        ):
            line.settimeout(SECONDS)
            line.sendall(content)
            if wait == 0:
                return b""
            got, end = b"", time.monotonic() + wait
            while time.monotonic() < end and (piece := line.recv(65536)):
                got += piece
            return got
        return b""


def _asking(attack: Attack, seed: int) -> None:
    """Valid requests, one after the other."""
    chance = random.Random(seed)
    while not attack.ended.is_set():
        route = chance.choice(ROUTES)
        begin = time.monotonic()
        status, content = attack.post(route.path, valid(route, chance))
        if status == 200:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                route.answer(json.loads(content))
                status = "answered"
        else:
            status = f"{status} {content[:200]!r}"
        attack.seen.add("valid", status, time.monotonic() - begin)


def _breaking(attack: Attack, seed: int, kinds: list[str]) -> None:
    """Hostile bodies, one after the other."""
    chance = random.Random(seed)
    while not attack.ended.is_set():
        for kind in chance.sample(kinds, len(kinds)):
            if attack.ended.is_set():
                return
            route = chance.choice(ROUTES)
            content = KINDS[kind](route, chance, 1.0)
            begin = time.monotonic()
            status, _ = attack.post(route.path, content)
            del content
            attack.seen.add(kind, status, time.monotonic() - begin)
            attack.ended.wait(0.2)


def _stream(size: int) -> Iterator[bytes]:
    for _ in range(size // 65536):
        yield b" " * 65536


def _plumbing(attack: Attack, seed: int) -> None:
    """Requests that are too large, cut off, pipelined, for another host, or of another form."""
    chance = random.Random(seed)
    while not attack.ended.is_set():
        route = chance.choice(ROUTES)
        content = valid(route, chance)
        head = (
            f"POST {route.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        )
        whole = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
        begin = time.monotonic()
        attack.seen.add("too large", *_timed(attack, route.path, _stream(70 << 20)))
        long = f"{head}Content-Length: {1 << 40}\r\n\r\n".encode()
        attack.seen.add("too long a promise", _first(attack.sent(long, 10)), 0)
        attack.sent(whole[: chance.randrange(len(whole))])
        attack.seen.add("cut off", "sent", 0)
        end = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        answers = attack.sent(whole + end, SECONDS).count(b"HTTP/1.1 200")
        attack.seen.add("pipelined", "answered" if answers == 2 else answers, 0)
        status, _ = attack.post(route.path, content, Host="evil.example")
        attack.seen.add("another host", status, 0)
        status, _ = attack.post(route.path, content, **{"Content-Type": "text/plain"})
        attack.seen.add("another type", status, 0)
        noise = chance.randbytes(200) + b"\r\n\r\n"
        attack.seen.add("no HTTP", _first(attack.sent(noise, 10)), time.monotonic() - begin)


def _timed(attack: Attack, path: str, content: Any) -> tuple[object, float]:
    begin = time.monotonic()
    return attack.post(path, content)[0], time.monotonic() - begin


def _first(answer: bytes) -> str:
    words = answer.split(b" ", 2)
    return words[1].decode("latin-1") if len(words) > 2 else "closed"


def _waiting(attack: Attack) -> None:
    """Idle connections and headers that come a sign at a time, until the server closes them."""
    while not attack.ended.is_set():
        lines = []
        with contextlib.suppress(OSError):
            lines = [socket.create_connection(("127.0.0.1", attack.port)) for _ in range(40)]
        begin = time.monotonic()
        open_ = dict.fromkeys(range(len(lines)))
        for line in lines:
            line.setblocking(False)
        sign = 0
        while open_ and time.monotonic() - begin < IDLE:
            for i in list(open_):
                try:
                    if i % 2:
                        lines[i].send(b"GET /health HTTP/1.1\r\nX: "[sign % 20 : sign % 20 + 1])
                    if lines[i].recv(4096) == b"":
                        raise ConnectionError
                except BlockingIOError:
                    continue
                except OSError:
                    del open_[i]
                    name = "slow headers" if i % 2 else "idle connection"
                    attack.seen.add(name, "closed", time.monotonic() - begin)
            sign += 1
            if attack.ended.wait(1):
                break
        for i in open_ if not attack.ended.is_set() else ():
            attack.seen.add("slow headers" if i % 2 else "idle connection", "open", IDLE)
        for line in lines:
            line.close()


def _watching(port: int, ended: Any, results: Any) -> None:
    """`/health`, again and again, in a process that does nothing else, so that no wait is ours."""
    found: list[tuple[str, float]] = []
    while not ended.is_set():
        begin = time.monotonic()
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        with contextlib.closing(line):
            try:
                line.request("GET", "/health")
                status = str(line.getresponse().status)
            except (OSError, http.client.HTTPException) as error:
                status = type(error).__name__
        found.append((status, time.monotonic() - begin))
        ended.wait(0.1)
    results.put(found)


def assault(port: int, seconds: float) -> Seen:
    """Everything at once, for so long; returns when all have their answers."""
    attack = Attack(port, Seen())
    light = [kind for kind in KINDS if kind not in HEAVY]
    work: list[tuple[Any, ...]] = [(_asking, 1), (_asking, 2), (_breaking, 3, light)]
    work += [(_breaking, 4, sorted(HEAVY)), (_plumbing, 5), (_waiting,)]
    threads = [threading.Thread(target=f, args=(attack, *rest)) for f, *rest in work]
    apart = multiprocessing.get_context("spawn")
    over, results = apart.Event(), apart.Queue()
    watcher = apart.Process(target=_watching, args=(port, over, results))
    watcher.start()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    attack.ended.set()
    for thread in threads:
        thread.join()
    over.set()
    for status, took in results.get():
        attack.seen.add("health", status, took)
    watcher.join()
    return attack.seen


# --- the server ---


@contextlib.contextmanager
def server(model: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server of its own on the loopback address: its process and port."""
    call = [sys.executable, "-m", "omnimix", "serve", model, "--port", "0", "--root", str(folder)]
    call += ["--max-new-tokens", "8"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if "127.0.0.1:" not in line:
                raise SystemExit(f"the server did not start: {(folder / 'log').read_text()[-500:]}")
            yield process, int(line.split("127.0.0.1:")[1].split()[0])
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def memory(process: int) -> float:
    """MiB that a process holds, the median of some seconds in which nothing is asked."""
    found = []
    for _ in range(5):
        time.sleep(1)
        status = Path(f"/proc/{process}/status").read_text()
        found.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
    return statistics.median(found)


def faults(seen: Seen, before: float, after: float) -> list[str]:
    """What the server did wrong, in sentences; none where all is well."""
    said = []
    for kind, statuses in seen.statuses.items():
        bad = {s: n for s, n in statuses.items() if re.match(r"5\d\d\b", s)}
        said += [f"{kind}: {n} answers of {status}" for status, n in bad.items()]
    asked = seen.count("valid") + seen.count("pipelined")
    answered = seen.statuses["valid"]["answered"] + seen.statuses["pipelined"]["answered"]
    if answered < asked or not asked:
        said.append(f"{asked - answered} of {asked} valid requests were not answered")
    if set(seen.statuses["health"]) != {"200"}:
        said.append(f"/health answered {dict(seen.statuses['health'])}")
    elif (slow := percentile(seen.seconds["health"], 99)) >= HEALTH:
        said.append(f"/health took {slow:.2f} s at the 99th percentile")
    if after > before * GROWTH:
        said.append(f"memory grew from {before:.0f} to {after:.0f} MiB")
    for kind in ("idle connection", "slow headers"):
        if still := seen.statuses[kind]["open"]:
            said.append(f"{still} of {kind} were open after {IDLE:.0f} s")
    return said


def percentile(values: list[float], share: int) -> float:
    """The value below which that share of a hundred lies."""
    return sorted(values)[min(len(values) - 1, len(values) * share // 100)] if values else 0.0


def table(seen: Seen) -> str:
    """A line for each kind: how many, what came back, and the longest time."""
    lines = [f"{'kind':<24} {'sent':>6}  {'p50 s':>7} {'p99 s':>7} {'max s':>7}  what came back"]
    for kind, statuses in sorted(seen.statuses.items()):
        times = seen.seconds[kind]
        back = ", ".join(f"{n} {status}" for status, n in sorted(statuses.items()))
        shown = [statistics.median(times), percentile(times, 99), max(times)]
        numbers = " ".join(f"{value:7.2f}" for value in shown)
        lines.append(f"{kind:<24} {seen.count(kind):6}  {numbers}  {back}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=1.0, help="minutes of the same before")
    parser.add_argument("--model", default="nano")
    words = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as place,
        server(words.model, Path(place)) as (process, port),
    ):
        assault(port, words.warm_up * 60)
        before = memory(process.pid)
        seen = assault(port, words.minutes * 60)
        alive = process.poll() is None
        after = memory(process.pid) if alive else float("inf")
        peak = Path(f"/proc/{process.pid}/status").read_text() if alive else "VmHWM: 0"
        log = (Path(place) / "log").read_text()
    print(table(seen))
    print(f"memory {before:.0f} MiB after the warm-up, {after:.0f} MiB at the end", end=", ")
    print(f"{int(peak.split('VmHWM:')[1].split()[0]) / 1024:.0f} MiB at the most")
    said = faults(seen, before, after)
    said += [] if alive else ["the server ended"]
    if "Traceback" in log:
        said.append(f"the server's log holds an exception: {log[-1500:]}")
    for line in said:
        print(f"FAILED  {line}")
    sys.exit(1 if said else 0)


if __name__ == "__main__":
    main()
