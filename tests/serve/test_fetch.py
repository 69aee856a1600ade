"""The fetcher against a server of our own, reached through an injected connection; no name is looked up."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from omnimix.errors import MediaError
from omnimix.serve.fetch import Fetched, Fetcher, checked

PUBLIC = "93.184.216.34"


class Far:
    """A host of the public internet that is really a thread here.

    Attributes:
        asked: the requests as they came.
        connected: addresses and ports that the fetcher wanted.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.connected: list[tuple[str, int]] = []
        self.names: dict[str, Sequence[str]] = {}
        self.looked_up: list[str] = []
        self.answers: dict[str, Callable[[socket.socket], None] | bytes] = {}
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def resolve(self, host: str, port: int) -> Sequence[str]:
        self.looked_up.append(host)
        return self.names.get(host, [PUBLIC])

    def connect(self, address: str, port: int, timeout: float) -> socket.socket:
        self.connected.append((address, port))
        return socket.create_connection(self._listening.getsockname(), timeout)

    def close(self) -> None:
        self._listening.close()

    def _run(self) -> None:
        while True:
            try:
                one, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _serve(self, one: socket.socket) -> None:
        with one, contextlib.suppress(OSError):  # the fetcher may go away
            text = b""
            while b"\r\n\r\n" not in text:
                text += one.recv(4096) or b"\r\n\r\n"
                if not text.startswith(b"GET "):
                    return  # a greeting of TLS
            self.asked.append(text.decode())
            answer = self.answers.get(text.split()[1].decode(), answer_of(404))
            answer(one) if callable(answer) else one.sendall(answer)


def answer_of(status: int, body: bytes = b"", length: int | None = None, **headers: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status} Fine",
        f"Content-Length: {len(body) if length is None else length}",
    ]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


@pytest.fixture
def far() -> Iterator[Far]:
    made = Far()
    yield made
    made.close()


def fetcher(far: Far, **words: Any) -> Fetcher:
    return Fetcher(**{"seconds": 5.0, "resolve": far.resolve, "connect": far.connect, **words})


def test_a_file_comes_and_the_checked_address_is_asked(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    far.answers["/a.png?x=1"] = answer_of(200, b"picture", Content_Type="image/PNG; charset=x")
    got = fetcher(far).get("http://Example.com:8080/a.png?x=1#part")
    assert got == Fetched(b"picture", "image/png", "http://Example.com:8080/a.png?x=1#part")
    assert far.connected == [(PUBLIC, 8080)]
    assert far.looked_up == ["example.com"], "a name is looked up once"
    (asked,) = far.asked
    assert asked.startswith("GET /a.png?x=1 HTTP/1.1\r\n")
    assert "Host: example.com:8080\r\n" in asked


def test_chunked_bodies(far: Far) -> None:
    far.answers["/"] = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    assert fetcher(far).get("http://example.com").content == b"abcde"


@pytest.mark.parametrize("addresses", [["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["64:ff9b::a00:1"]])
def test_networks_at_home_are_not_asked(far: Far, addresses: list[str]) -> None:
    far.names["inside.example"] = addresses
    with pytest.raises(MediaError, match="not public"):
        fetcher(far).get("http://inside.example/a.png")
    assert far.connected == []


def test_redirects_are_followed_three_times_and_checked_anew(far: Far) -> None:
    for i in range(4):
        far.answers[f"/{i}"] = answer_of(302, Location=f"/{i + 1}")
    far.answers["/4"] = answer_of(200, b"here")
    assert fetcher(far).get("http://example.com/1").content == b"here"
    assert far.looked_up == ["example.com"] * 4
    with pytest.raises(MediaError, match="elsewhere more than 3 times"):
        fetcher(far).get("http://example.com/0")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("http://inside.example/", "not public"),
        ("file:///etc/passwd", "not file:"),
        ("ftp://example.com/a", "not ftp:"),
        ("http://me:secret@example.com/", "user's name"),
    ],
)
def test_redirects_lead_nowhere_else(far: Far, place: str, says: str) -> None:
    far.names["inside.example"] = ["192.168.0.1"]
    far.answers["/"] = answer_of(301, Location=place)
    with pytest.raises(MediaError, match=says):
        fetcher(far).get("http://example.com/")
    assert len(far.connected) == 1


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("file:///etc/passwd", "not file:"),
        ("gopher://example.com/", "not gopher:"),
        ("http://user@example.com/", "user's name"),
        ("http://:pw@example.com/", "user's name"),
        ("http:///a.png", "no host"),
        ("http://example.com:99999/", "no address"),
        ("http://example.com:0/", "no host"),
        ("http://exa mple.com/", "signs"),
        ("http://example.com/\r\nX: y", "signs"),
        ("http://example.com\\@inside/", "signs"),
        ("http://[::1/", "no address"),
        ("http://example.com/ä.png", "beyond ASCII"),
    ],
)
def test_addresses_that_are_none(address: str, says: str) -> None:
    with pytest.raises(MediaError, match=says):
        checked(address)


@pytest.mark.parametrize("promised", [True, False])
def test_too_much_is_not_read(far: Far, promised: bool) -> None:
    sent = []

    def endless(one: socket.socket) -> None:
        one.sendall(b"HTTP/1.1 200 OK\r\n" + b"Content-Length: 99999999\r\n" * promised + b"\r\n")
        for _ in range(10_000):
            one.sendall(b"x" * 10_000)
            sent.append(10_000)

    far.answers["/"] = endless
    with pytest.raises(MediaError, match="more than 100000 bytes"):
        fetcher(far, max_bytes=100_000).get("http://example.com/")
    assert sum(sent) < 20_000_000
    far.answers["/"] = answer_of(200, b"x" * 100_000)
    assert len(fetcher(far, max_bytes=100_000).get("http://example.com/").content) == 100_000


@pytest.mark.parametrize("where", ["head", "body", "name"])
def test_slow_hosts_end_at_the_deadline(far: Far, where: str) -> None:
    """A byte now and then keeps each read within its time, and yet the whole ends."""

    def drip(one: socket.socket) -> None:
        if where == "body":
            one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        else:
            one.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        for _ in range(100):
            one.sendall(b"x")
            time.sleep(0.05)

    def asleep(host: str, port: int) -> Sequence[str]:
        time.sleep(3)
        return [PUBLIC]

    far.answers["/"] = drip
    words: dict[str, Any] = {"resolve": asleep} if where == "name" else {}
    started = time.monotonic()
    with pytest.raises(MediaError, match=r"within 0\.5 seconds"):
        fetcher(far, seconds=0.5, **words).get("http://example.com/")
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (answer_of(404), "answers 404"),
        (answer_of(500, b"x"), "answers 500"),
        (answer_of(302), "answers 302 and no address"),
        (answer_of(200, b"abc", Content_Encoding="gzip"), "compressed"),
        (answer_of(200, b"abc", length=10), "ended before"),
        (b"SSH-2.0-OpenSSH\r\n", "cannot be fetched"),
        (b"", "cannot be fetched"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "cannot be fetched"),
    ],
)
def test_answers_that_are_none(far: Far, answer: bytes, says: str) -> None:
    far.answers["/a?token=secret"] = answer
    with pytest.raises(MediaError, match=says) as found:
        fetcher(far).get("http://example.com/a?token=secret")
    assert found.value.where == "http://example.com/a", "what a query keeps secret is not shown"


def test_hosts_that_cannot_be_reached(far: Far) -> None:
    def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(-2, "Name or service not known")

    def refused(address: str, port: int, timeout: float) -> socket.socket:
        raise ConnectionRefusedError(111, "Connection refused")

    with pytest.raises(MediaError, match="the host is unknown"):
        fetcher(far, resolve=unknown).get("http://nowhere.example/")
    with pytest.raises(MediaError, match="Connection refused"):
        fetcher(far, connect=refused).get("http://example.com/")
    with pytest.raises(MediaError, match="no safe connection"):
        fetcher(far).get("https://example.com/")
    assert far.connected == [(PUBLIC, 443)]
