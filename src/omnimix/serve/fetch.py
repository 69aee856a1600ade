"""Fetching what a stranger names, without becoming their hand inside our own network.

The host is resolved once, every address that comes back must be public, and the connection goes to the
address that was checked: a name that changes its address in between (rebinding) changes nothing. Each
redirect is checked anew. No proxy of the environment is used.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import SplitResult, urljoin, urlsplit

from omnimix.errors import MediaError
from omnimix.serve.addresses import is_public

Resolve: TypeAlias = Callable[[str, int], Sequence[str]]
Connect: TypeAlias = Callable[[str, int, float], socket.socket]

_PORTS = {"http": 80, "https": 443}
_MOVED = frozenset({301, 302, 303, 307, 308})
_CHUNK = 64 * 1024


@dataclass(frozen=True)
class Fetched:
    """What lay at an address.

    Attributes:
        content: the bytes.
        type: the media type that the server gave, in small letters, or "".
        address: where it was found in the end.
    """

    content: bytes
    type: str
    address: str


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system knows them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def connect(address: str, port: int, timeout: float) -> socket.socket:
    """A connection to an address (never to a name)."""
    return socket.create_connection((address, port), timeout)


@dataclass(frozen=True)
class Fetcher:
    """Gets files over http and https within limits.

    Attributes:
        max_bytes: most bytes of a file.
        seconds: for everything together: names, redirects, reading.
        redirects: how often an answer may point elsewhere.
        resolve, connect: how names become addresses and addresses connections; for tests.
    """

    max_bytes: int = 64 * 1024 * 1024
    seconds: float = 20.0
    redirects: int = 3
    resolve: Resolve = resolve
    connect: Connect = connect

    def get(self, address: str) -> Fetched:
        """The file at an address.

        Raises:
            MediaError: an address that may not be asked, too many redirects, too much, too slow, or an
                answer other than 200.
        """
        deadline = _Deadline(self.seconds)
        where = address
        try:
            for _ in range(self.redirects + 1):
                found = self._once(where, deadline)
                if isinstance(found, Fetched):
                    return found
                where = urljoin(where, found)
        except MediaError as error:
            raise error if error.where else error.at(_shown(address)) from None
        except TimeoutError:
            raise self._late(address) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            if deadline.left <= 0:
                raise self._late(address) from None
            raise MediaError(
                f"the file cannot be fetched ({_reason(error)})",
                where=_shown(address),
                hint="check the address, or send the file as a data URL",
            ) from None
        raise MediaError(
            f"the address points elsewhere more than {self.redirects} times",
            where=_shown(address),
            hint="give the address where the file lies",
        )

    def _late(self, address: str) -> MediaError:
        return MediaError(
            f"the file did not come within {self.seconds:g} seconds",
            where=_shown(address),
            hint="send it as a data URL",
        )

    def _once(self, address: str, deadline: _Deadline) -> Fetched | str:
        """The file, or the address that the answer points at."""
        url = checked(address)
        host = (url.hostname or "").encode("idna").decode("ascii")
        port = url.port or _PORTS[url.scheme]
        line = _Line(self._socket(host, port, url.scheme, deadline), deadline)
        try:
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            return self._answer(line, url, host, target, address)
        finally:
            line.end()

    def _socket(self, host: str, port: int, scheme: str, deadline: _Deadline) -> socket.socket:
        addresses = _in_time(lambda: self.resolve(host, port), deadline)
        if not addresses:
            raise OSError("the host has no address")
        if not all(map(is_public, addresses)):
            raise MediaError(
                "the address leads to a network that is not public",
                hint="send the file as a data URL, or give a path below the server's folder",
            )
        plain = self.connect(addresses[0], port, deadline.remaining())
        if scheme == "http":
            return plain
        plain.settimeout(deadline.remaining())
        try:
            return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise

    def _answer(
        self, line: _Line, url: SplitResult, host: str, target: str, address: str
    ) -> Fetched | str:
        # Given a connection, http.client opens none of its own and asks no proxy.
        asking = http.client.HTTPConnection(host, url.port or _PORTS[url.scheme])
        asking.auto_open = 0
        asking.sock = line
        asking.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
        name = f"[{host}]" if ":" in host else host
        for word, value in {
            "Host": name if url.port is None else f"{name}:{url.port}",
            "User-Agent": "omnimix",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }.items():
            asking.putheader(word, value)
        asking.endheaders()
        answer = asking.getresponse()
        if answer.status in _MOVED:
            place = answer.headers.get("Location")
            if not place:
                raise MediaError(f"the server there answers {answer.status} and no address")
            return str(place)
        if answer.status != 200:
            raise MediaError(f"the server there answers {answer.status}", hint="check the address")
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise MediaError("the server there sends the file compressed, unasked")
        kind = answer.headers.get_content_type() if answer.headers.get("Content-Type") else ""
        return Fetched(self._body(answer), kind, address)

    def _body(self, answer: http.client.HTTPResponse) -> bytes:
        """Read in pieces, so that no more than the limit is ever held."""
        content = bytearray()
        if (answer.length or 0) <= self.max_bytes:
            while part := answer.read(_CHUNK):
                content += part
                if len(content) > self.max_bytes:
                    break
            else:
                if answer.length:  # a length was promised and not kept
                    raise OSError("the connection ended before the file did")
                return bytes(content)
        raise MediaError(
            f"the file has more than {self.max_bytes} bytes", hint="send a smaller one"
        )


def checked(address: str) -> SplitResult:
    """The parts of an address that may be asked.

    Raises:
        MediaError: another scheme, a user's name in it, no host, or signs that no address has.
    """
    if any(sign.isspace() or not sign.isprintable() or sign == "\\" for sign in address):
        raise MediaError(
            "the address holds signs that no address has", hint="write %20 for a blank"
        )
    try:
        url = urlsplit(address)
        port = url.port
    except ValueError as error:
        raise MediaError(f"this is no address ({error})") from None
    if url.scheme not in _PORTS:
        raise MediaError(
            f"addresses begin with http:// or https://, not {url.scheme or 'nothing'}:",
            hint="give such an address, or send the file as a data URL",
        )
    if "@" in url.netloc:
        raise MediaError("the address holds a user's name or password", hint="leave it out")
    if not url.hostname or port == 0:
        raise MediaError("the address names no host", hint="write https://host/file")
    if not address.isascii():
        raise MediaError("the address holds letters beyond ASCII", hint="write them as %C3%A4")
    return url


class _Deadline:
    """The moment at which everything must be over."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    def remaining(self) -> float:
        """Seconds left, more than none.

        Raises:
            TimeoutError: none are left.
        """
        if self.left <= 0:
            raise TimeoutError
        return self.left


class _Bytes(io.RawIOBase):
    """What comes over a connection; every read keeps the deadline."""

    def __init__(self, connection: socket.socket, deadline: _Deadline) -> None:
        self._connection = connection
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(self._deadline.remaining())
        return self._connection.recv_into(buffer)


class _Line:
    """A connection as `http.client` wants a socket; it is closed by `end` alone."""

    def __init__(self, connection: socket.socket, deadline: _Deadline) -> None:
        self._connection = connection
        self._deadline = deadline

    def sendall(self, data: Any) -> None:
        self._connection.settimeout(self._deadline.remaining())
        self._connection.sendall(data)

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(_Bytes(self._connection, self._deadline))

    def close(self) -> None:
        """`http.client` closes before it reads, as it may with a real socket."""

    def end(self) -> None:
        self._connection.close()


def _in_time(work: Callable[[], Sequence[str]], deadline: _Deadline) -> Sequence[str]:
    """What `work` gives; asking for a name knows no deadline of its own."""
    found: list[Sequence[str] | BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:  # handed to the caller's thread
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(deadline.remaining())
    if not found:
        raise TimeoutError
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def _shown(address: str) -> str:
    """An address for a message: neither endless nor with what a query may keep secret."""
    short = re.sub(r"//[^/@]*@", "//", re.split(r"[?#]", address)[0])
    return short if len(short) <= 120 else f"{short[:117]}..."


def _reason(error: BaseException) -> str:
    if isinstance(error, socket.gaierror):
        return "the host is unknown"
    if isinstance(error, ssl.SSLError):
        return "no safe connection"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
