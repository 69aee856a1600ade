"""The command in a process of its own, asked by a client over a real connection, and ended by SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from omnimix.cli.main import app
from omnimix.compose.processor import Processor
from omnimix.generate.answers import Answer
from omnimix.generate.decoding import Options
from omnimix.serve import running
from omnimix.serve.app import create_app
from omnimix.serve.engine import Piece, whole
from omnimix.types import Sample
from omnimix_scenes import Scenes


class Running:
    """A server's process.

    Attributes:
        port: where it listens.
    """

    def __init__(self, model: Path, folder: Path, *words: str) -> None:
        code = "from omnimix.cli.main import run; run()"
        call = [sys.executable, "-c", code, "serve", str(model), "--port", "0", *words]
        self.process = subprocess.Popen(
            call, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        self.port = int(self.line.split("127.0.0.1:")[1].split()[0]) if self.line else 0

    def ask(self, body: Any, method: str = "POST", path: str = "/generate") -> tuple[int, Any]:
        """Status and JSON of the answer; a body of pieces goes without a length."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        content = json.dumps(body) if isinstance(body, dict) else body
        with contextlib.closing(line):
            line.request(method, path, content, {"Content-Type": "application/json"})
            answer = line.getresponse()
            return answer.status, json.loads(answer.read())

    def end(self) -> tuple[int, str]:
        """Exit code and what was written on stderr."""
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=120)
        return self.process.returncode, said


@pytest.fixture
def server(tiny_folder: Path, tmp_path: Path) -> Iterator[Running]:
    Scenes(7, "heldout").question("list", 0).media("image")[0].data.save(tmp_path / "a.png")
    words = ("--max-new-tokens", "150", "--max-body", "1", "--temperature", "2", "--seed", "3")
    made = Running(tiny_folder, tmp_path, *words)
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.communicate()


BODY = {"messages": [{"role": "user", "content": "<image>What is it?"}], "images": ["a.png"]}


def test_a_server_answers_and_ends_when_all_is_answered(server: Running) -> None:
    assert "POST /generate" in server.line, server.process.communicate()[1]
    assert server.ask(None, "GET", "/health")[1]["status"] == "ok"
    status, alone = server.ask(BODY)
    assert status == 200 and alone["output"]
    assert server.ask({**BODY, "images": ["../a.png"]})[0] == 403
    assert server.ask({**BODY, "images": ["https://example.com/a.png"]})[0] == 403
    assert server.ask(iter([b"x" * 100_000] * 11))[0] == 413
    with ThreadPoolExecutor(6) as clients:
        asked = [clients.submit(server.ask, BODY) for _ in range(6)]
        until = time.monotonic() + 60
        while server.ask(None, "GET", "/health")[1]["waiting"] < 2 and time.monotonic() < until:
            time.sleep(0.01)
        code, said = server.end()
        answers = [one.result() for one in asked]
    assert answers == [(200, alone)] * 6, "a request that was there gets its answer"
    assert (code, said) == (0, "")
    with pytest.raises(ConnectionRefusedError):
        server.ask(BODY)


def test_streams_come_to_their_end_while_newcomers_are_sent_away(
    tiny_folder: Path, tmp_path: Path
) -> None:
    made = Running(tiny_folder, tmp_path, "--max-new-tokens", "300", "--access-log")
    body = {"messages": [{"role": "user", "content": "my secret"}], "stream": True}
    path = "/v1/chat/completions"
    # Without the line end that ends an answer, every stream is as long as it may be.
    tokenizer = Processor.from_pretrained(tiny_folder).weave.tokenizer
    ends = [i for i in range(tokenizer.size) if "\n" in tokenizer.decode([i])]
    words = {"min_tokens": 300, "max_tokens": 300, "logit_bias": dict.fromkeys(ends, -100)}
    told = json.dumps({**body, **words})
    begun = threading.Barrier(17)

    def stream() -> bytes:
        line = http.client.HTTPConnection("127.0.0.1", made.port, timeout=120)
        with contextlib.closing(line):
            line.request("POST", path, told, {"Content-Type": "application/json"})
            answer = line.getresponse()
            assert answer.status == 200
            first = answer.readline()
            begun.wait(60)
            return first + answer.read()

    with ThreadPoolExecutor(16) as clients:
        streams = [clients.submit(stream) for _ in range(16)]
        begun.wait(60)
        made.process.send_signal(signal.SIGTERM)
        late = 200
        while late == 200:  # until the signal has arrived
            late, said = made.ask({**body, "max_tokens": 1, "stream": False}, path=path)
        answers = [one.result() for one in streams]
    assert late == 503 and said["error"]["code"] == "unavailable"
    assert all(answer.endswith(b"data: [DONE]\n\n") for answer in answers)
    assert all(b'"finish_reason":"length"' in answer for answer in answers)
    _, lines = made.process.communicate(timeout=60)
    assert made.process.returncode == 0
    assert lines.count(f"POST {path} 200") >= 16 and "secret" not in lines


class Endless:
    """An engine whose answers begin and never end."""

    def __init__(self, processor: Processor) -> None:
        self.name, self.processor, self.recipe = "tiny", processor, processor.recipe

    async def stream(self, sample: Sample, options: Options) -> AsyncGenerator[Piece, None]:
        yield Piece("It begins")
        await asyncio.Event().wait()

    async def generate(self, sample: Sample, options: Options) -> Answer:
        return await whole(self.stream(sample, options))

    def health(self) -> dict[str, Any]:
        return {}

    async def close(self) -> None:
        pass


def test_what_lasts_longer_than_the_grace_is_told_so(
    tiny_processor: Processor, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(Endless(tiny_processor))
    asked = json.dumps({"messages": [{"role": "user", "content": "Say."}], "stream": True})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(asked)}"
    head += "\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    with running.listening("127.0.0.1", 0) as listener, contextlib.ExitStack() as lines:
        thread = threading.Thread(target=running.run, args=(app, listener, 0), daemon=True)
        thread.start()
        clients = []
        for body in (asked, asked.replace("true", "null")):
            line = lines.enter_context(socket.create_connection(listener.getsockname(), 60))
            line.sendall((head + body).encode())
            clients.append(line)
        told = clients[0].recv(65536)
        while b"It begins" not in told:
            told += clients[0].recv(65536)
        until = time.monotonic() + 60
        while app.state.drain.inside < 2 and time.monotonic() < until:
            time.sleep(0.01)
        app.state.drain.ending = True
        ends = [line.makefile("rb").read().decode() for line in clients]
        thread.join(60)
    assert '"code":"unavailable"' in ends[0] and ends[0].endswith("0\r\n\r\n")
    assert ends[1].startswith("HTTP/1.1 503") and "ended before the answer did" in ends[1]
    assert not thread.is_alive() and not caplog.records


def test_a_port_that_is_taken(tiny_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["serve", str(tiny_folder), "--port", str(port)])
    assert result.exit_code == 2 and f"127.0.0.1:{port}: cannot listen there" in result.output


def test_a_root_that_is_none(tiny_folder: Path) -> None:
    result = CliRunner().invoke(app, ["serve", str(tiny_folder), "--root", "/nowhere"])
    assert result.exit_code == 2 and "no such folder" in result.output


def test_processes_of_torchrun_hold_the_model_together(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ["serve", str(tiny_folder), "--port", "0", "--quantization", "nf4"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "cannot be cut over processes" in " ".join(result.output.split())


def test_without_the_packages_of_the_extra(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "omnimix.serve.running", raising=False)
    monkeypatch.delattr("omnimix.serve.running", raising=False)
    result = CliRunner().invoke(app, ["serve", str(tiny_folder)])
    assert result.exit_code == 2
    assert "uvicorn is missing. Pip install 'omnimix[serve]'" in " ".join(result.output.split())
