"""Two processes that hold one model and serve it, asked by clients over real connections."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.generate.assistant import Assistant
from omnimix.serve.app import create_app
from omnimix.serve.batched import Batched
from omnimix_scenes import Scenes
from tests.serve.live import live

PATH = "/v1/chat/completions"
SECONDS = 120


class Ranks:
    """A server's two processes, started as torchrun starts them; nobody ends one because the other ended.

    Attributes:
        processes: the first is the one that answers.
        address: where.
    """

    def __init__(self, model: Path, *words: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        call = [sys.executable, "-m", "omnimix", "serve", str(model), "--port", "0", *words]
        given = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
        self.processes = [
            subprocess.Popen(
                call,
                env={**given, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        assert self.processes[0].stdout is not None
        line = self.processes[0].stdout.readline()
        self.address = line.split("answers at ")[1].split()[0] if line else ""

    def ended(self) -> tuple[list[int], list[str]]:
        """Exit codes, and what was written on stderr."""
        said = [one.communicate(timeout=SECONDS)[1] for one in self.processes]
        return [one.returncode for one in self.processes], said

    def kill(self) -> None:
        for one in self.processes:
            one.kill()
            one.communicate()


@pytest.fixture(scope="module")
def ranks(tiny_folder: Path) -> Iterator[Ranks]:
    made = Ranks(tiny_folder, "--max-new-tokens", "400", "--prefill-chunk", "16")
    yield made
    made.kill()


@contextlib.contextmanager
def asked(address: str, body: dict[str, Any]) -> Iterator[http.client.HTTPResponse]:
    line = http.client.HTTPConnection(address.removeprefix("http://"), timeout=SECONDS)
    with contextlib.closing(line):
        line.request("POST", PATH, json.dumps(body), {"Content-Type": "application/json"})
        yield line.getresponse()


def answered(address: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Status, and what is the same whoever answers; of a stream its text."""
    with asked(address, body) as answer:
        text = answer.read().decode()
    if not body.get("stream"):
        found = json.loads(text)
        return answer.status, found.get("choices") or found["error"]["message"]
    lines = [json.loads(one[6:]) for one in text.split("\n\n") if one.startswith("data: {")]
    return answer.status, "".join(
        one["choices"][0]["delta"].get("content") or "" for one in lines if one["choices"]
    )


def running(address: str) -> int:
    line = http.client.HTTPConnection(address.removeprefix("http://"), timeout=SECONDS)
    with contextlib.closing(line):
        line.request("GET", "/health")
        found = json.loads(line.getresponse().read())
    assert found["processes"] == 2
    return int(found["running"] + found["queued"])


def question(number: int, **words: Any) -> dict[str, Any]:
    """A question about a picture."""
    data = io.BytesIO()
    Scenes(7, "heldout").question("list", number % 3).media("image")[0].data.save(data, "PNG")
    url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    picture = {"type": "image_url", "image_url": {"url": url}}
    parts = [picture, {"type": "text", "text": f"What? {number}"}]
    return {"messages": [{"role": "user", "content": parts}], **words}


def endless(processor: Processor, **words: Any) -> dict[str, Any]:
    """A question with an answer as long as it may be."""
    tokenizer = processor.weave.tokenizer
    ends = [i for i in range(tokenizer.size) if "\n" in tokenizer.decode([i])]
    bias = {"logit_bias": dict.fromkeys(ends, -100), "min_tokens": 400}
    return question(0, max_tokens=400, stream=True, **bias, **words)


def test_answers_are_those_of_one_process(
    ranks: Ranks, tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    chance = random.Random(2)
    bodies = []
    for i in range(8):
        words: dict[str, Any] = {"max_tokens": chance.randrange(4, 40), "stream": i % 3 == 0}
        words |= {"temperature": 2, "seed": i} if i % 4 == 1 else {}
        bodies.append(question(i, **words))
    broken = question(0)
    broken["messages"][0]["content"][0]["image_url"]["url"] = "data:image/png;base64,bm9uZQ=="
    wrong = question(1, logit_bias={"9999999": 1})
    bodies += [broken, wrong]
    chance.shuffle(bodies)
    engine = Batched(Assistant(tiny_model, tiny_processor), "tiny")
    with live(create_app(engine)) as alone:
        wanted = [answered(alone, body) for body in bodies]
    assert len({str(one) for one in wanted}) > 6
    leaving = asked(ranks.address, endless(tiny_processor))
    with ThreadPoolExecutor(5) as clients, leaving as left:
        left.readline()  # this client leaves while its answer is written
        asking = [clients.submit(answered, ranks.address, body) for body in bodies]
        found = [one.result() for one in asking[:5]]
        left.close()
        found += [one.result() for one in asking[5:]]
    assert found == wanted
    assert sorted(status for status, _ in found)[-2:] == [400, 400]
    until = time.monotonic() + SECONDS
    while running(ranks.address) and time.monotonic() < until:
        time.sleep(0.02)
    assert not running(ranks.address)


def test_all_end_when_what_was_asked_is_answered(ranks: Ranks, tiny_processor: Processor) -> None:
    with contextlib.ExitStack() as held:
        streams = [held.enter_context(asked(ranks.address, endless(tiny_processor)))]
        streams.append(held.enter_context(asked(ranks.address, endless(tiny_processor, seed=1))))
        for one in streams:
            one.readline()
        for process in ranks.processes:
            process.send_signal(signal.SIGTERM)
        ends = [one.read() for one in streams]
    assert all(b'"finish_reason":"length"' in one for one in ends)
    assert all(one.endswith(b"data: [DONE]\n\n") for one in ends)
    assert ranks.ended() == ([0, 0], ["", ""])


def test_a_process_that_is_gone_ends_the_server(
    tiny_folder: Path, tiny_processor: Processor
) -> None:
    made = Ranks(tiny_folder, "--max-new-tokens", "400")
    try:
        with asked(made.address, endless(tiny_processor)) as answer:
            answer.readline()
            made.processes[1].kill()
            told = answer.read().decode()
        codes, said = made.ended()
    finally:
        made.kill()
    assert "another rank ended without a word" in told and '"code":"unavailable"' in told
    assert codes == [2, -signal.SIGKILL]
    assert said[0].count("\n") == 1 and "another rank ended without a word" in said[0]
