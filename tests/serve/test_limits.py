"""What is held of requests before anything else sees them; data URLs in every spelling."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import MediaError
from omnimix.generate.assistant import Assistant
from omnimix.serve.answers import Refused
from omnimix.serve.app import create_app
from omnimix.serve.bodies import _MOST_OBJECTS, _MOST_VALUES, _read
from omnimix.serve.engine import OneAtATime
from omnimix.serve.items import _inline
from omnimix.serve.limits import BodyLimit, HostCheck
from omnimix.serve.openai.requests import ChatBody
from omnimix.serve.running import patient
from omnimix.serve.schema import Asked


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


ECHO = Starlette(routes=[Route("/", echo, methods=["GET", "POST"])])


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:7860", 200),
        ("LOCALHOST:1", 200),
        ("127.0.0.1:7860", 200),
        ("127.0.0.1", 200),
        ("[::1]:7860", 200),
        ("[::1]", 200),
        ("192.168.1.5:80", 200),
        ("ours.example", 200),
        ("evil.example", 403),
        ("evil.example:7860", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("", 403),
        ("[::1", 403),
        ("127.0.0.1@evil.example", 403),
    ],
)
def test_a_page_that_gives_its_name_our_address_is_refused(host: str, status: int) -> None:
    client = TestClient(HostCheck(ECHO, ("localhost", "ours.example")))
    response = client.get("/", headers={"host": host})
    assert response.status_code == status
    if status == 403:
        assert "--allow-host" in response.json()["error"]["hint"]


def test_an_application_checks_hosts_without_being_told(
    tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    engine = OneAtATime(Assistant(tiny_model, tiny_processor), "tiny")
    client = TestClient(create_app(engine))
    assert client.get("/health").status_code == 200
    for host, status in (
        ("localhost:80", 200),
        ("evil.example", 403),
        ("testserver.evil.example", 403),
    ):
        assert client.get("/health", headers={"host": host}).status_code == status


def test_bodies_are_bounded_in_sum() -> None:
    """Two requests whose bodies are held leave no room for a third; when they are gone there is room again."""

    async def run() -> list[int]:
        hold = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await hold.wait()
            await ECHO(scope, receive, send)

        limit = BodyLimit(slow, max_bytes=100, bodies=2)
        first = [asyncio.create_task(ask(limit, 100)) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refused = await ask(limit, 100)
        hold.set()
        found = [refused, *await asyncio.gather(*first), await ask(limit, 100)]
        assert limit.held == 0
        return found

    assert asyncio.run(run()) == [503, 200, 200, 200]


async def ask(app: Any, size: int) -> int:
    status = []
    messages = [{"type": "http.request", "body": b"x" * size, "more_body": False}]

    async def receive() -> Any:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            status.append(message["status"])

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    return int(status[0])


@pytest.mark.parametrize(
    "content",
    [
        b"[" + b"[],[]," * _MOST_VALUES + b"1]",
        b'{"a": [' + b"1," * (_MOST_VALUES + 1) + b"1]}",
        b'{"a": [' + b"{}," * (_MOST_OBJECTS + 1) + b"1]}",
        b"[" * 100_000,
        b'{"a":' * 20_000,
        b'[{"a":' * 20_000,
        b'{"a": [' + b"null," * (_MOST_VALUES + 1) + b"1]}",
        b'{"a": ["' + b'","' * (_MOST_VALUES + 1) + b'"]}',
        b'{"a": ' + b"\xff" * 9 + b"}",
        b'{"a": ' + b"9" * 5000 + b"}",
        b"",
        b"\xff\xfe",
    ],
)
def test_json_is_told_before_it_is_parsed(content: bytes) -> None:
    headers = [(b"content-type", b"application/json")]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers})
    with pytest.raises(Refused) as caught:
        _read(request, content, "{}")
    assert caught.value.response.status_code == 400


CONTENT = bytes(range(256)) + b"\xfb\xef\xbe\xff\xff"
PLAIN = base64.b64encode(CONTENT).decode()
SPELLINGS = {
    "plain": PLAIN,
    "in lines": base64.encodebytes(CONTENT).decode(),
    "in lines of DOS": base64.encodebytes(CONTENT).decode().replace("\n", "\r\n"),
    "without padding": PLAIN.rstrip("="),
    "escaped": quote(PLAIN, safe=""),
    "escaped plus": PLAIN.replace("+", "%2B"),
    "escaped line ends": base64.encodebytes(CONTENT).decode().replace("\n", "%0A"),
    "blanks": " ".join(PLAIN[i : i + 10] for i in range(0, len(PLAIN), 10)),
    "a blank in front": " " + PLAIN,
    "tabs": PLAIN.replace("A", "A\t"),
    "of addresses": base64.urlsafe_b64encode(CONTENT).decode(),
    "of addresses, bare": base64.urlsafe_b64encode(CONTENT).decode().rstrip("="),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_data_urls_in_every_spelling(name: str) -> None:
    for head in ("data:image/png;base64,", "DATA:image/png;charset=x;BASE64,"):
        assert _inline(head + SPELLINGS[name], "images[0]").content == CONTENT


@pytest.mark.parametrize("payload", ["a", "a*b=", "ab=c", "äöü=", PLAIN[:-3] + "!"])
def test_what_is_no_base64_is_refused(payload: str) -> None:
    with pytest.raises(MediaError, match="holds no base64"):
        _inline("data:image/png;base64," + payload, "images[0]")


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nA: "])
def test_connections_that_ask_for_nothing_are_closed(sent: bytes) -> None:
    words: dict[str, Any] = {"http": patient(0.2), "log_level": "error"}
    server = uvicorn.Server(uvicorn.Config(ECHO, timeout_keep_alive=60, **words))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with socket.create_connection(listener.getsockname()) as client:
                client.settimeout(20)
                client.sendall(sent)
                assert client.recv(100) == b""
            with socket.create_connection(listener.getsockname()) as client:
                client.settimeout(20)
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert b"200 OK" in client.recv(1000)
        finally:
            server.should_exit = True
            thread.join()


def _subclasses(cls: type[Asked]) -> Iterator[type[Asked]]:
    for one in cls.__subclasses__():
        yield one
        yield from _subclasses(one)


def test_every_list_of_a_request_ends_at_its_first_fault() -> None:
    def lists(schema: Any) -> Iterator[Any]:
        if isinstance(schema, dict):
            if schema.get("type") == "list":
                yield schema
            schema = list(schema.values())
        for part in schema if isinstance(schema, list | tuple) else ():
            yield from lists(part)

    found = [
        (cls, one) for cls in _subclasses(Asked) for one in lists(cls.__pydantic_core_schema__)
    ]
    assert len(found) > 10
    assert all(one["fail_fast"] for _, one in found)
    with pytest.raises(ValidationError) as caught:
        ChatBody.model_validate({"messages": [{"role": "user", "content": [0] * 1000}] * 1000})
    assert caught.value.error_count() < 5
