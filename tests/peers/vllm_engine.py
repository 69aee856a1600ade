"""vLLM behind the engine (`--backend vllm`), beside this process and as a server: greedy ids from pictures and words beside
torch's while requests join, leave and are cancelled, sampling options, and streams of the HTTP server.

Run `python -m tests.peers.vllm_engine`, in an environment that has vLLM and omnimix; `--only beside` or `server` does half.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omnimix import cache
from omnimix.compose.sequence import Sequence as Woven
from omnimix.convert import exporting
from omnimix.errors import OmnimixError
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import request
from omnimix.generate.engine import backends
from omnimix.generate.engine.core import Generation, Limits
from omnimix.generate.engine.prompts import prompt
from omnimix.generate.options import Options
from omnimix.serve.app import create_app
from omnimix.serve.batched import Batched
from omnimix.types import Sample
from omnimix_scenes import Scenes
from tests.peers import engines
from tests.peers.openai_clients import CONTENT

GREEDY = Options(max_new_tokens=12)
WAYS = {
    "repetition_penalty": Options(max_new_tokens=12, repetition_penalty=1.5),
    "presence and frequency": Options(
        max_new_tokens=12, presence_penalty=1.5, frequency_penalty=0.5
    ),
    "logit_bias": Options(max_new_tokens=12, logit_bias={7: 30.0, 9: -100.0}),
    "min_new_tokens": Options(max_new_tokens=12, min_new_tokens=12),
    "logprobs": Options(max_new_tokens=12, logprobs=3),
}
"""Options under which the likeliest token is as certain as in torch."""
SAMPLED = Options(max_new_tokens=12, temperature=0.9, top_p=0.9, top_k=40, seed=3)
EAGER = {"enforce_eager": True}


def questions(assistant: Assistant) -> list[Woven]:
    """Conversations with pictures of different lengths."""
    scenes = Scenes(1000, "heldout")
    tasks = ("describe", "find", "compare", "list")
    made = [scenes.question(task, i) for i, task in enumerate(tasks)]
    return [assistant.weave(Sample(one.turns[:1], one.id), GREEDY) for one in made]


def asked(assistant: Assistant, woven: Woven, options: Options) -> Generation:
    given = prompt(woven, assistant.model)
    return request(given, assistant.model, options, assistant.endings(options))


def alone(assistant: Assistant, woven: Woven, options: Options) -> Generation:
    return assistant.decoder.write([woven], options, assistant.endings(options))[0]


def main(words: dict[str, Any]) -> list[str]:
    """What is not as in torch.

    Args:
        words: of the back end.
    """
    assistant = engines.assistant()
    woven = questions(assistant)
    wanted = [alone(assistant, one, GREEDY).ids for one in woven]
    ways = {name: alone(assistant, woven[0], options) for name, options in WAYS.items()}
    text = assistant.answer(CONTENT[1]["text"], image="examples/scene.png", max_new_tokens=12)
    assistant.decoder.make = backends.runner_of("vllm", say=print, words=words)
    wrong = [*_together(assistant, woven, wanted), *_ways(assistant, woven, ways, "url" in words)]
    with_stops = Options(max_new_tokens=12, stop_strings=(text[2:5],))
    found = assistant.reply(
        [_question()], options=with_stops
    ).text  # the string may be that of a later place too
    if found != text[: text.find(text[2:5])].strip():
        wrong.append(f"a stop string: {found!r} of {text!r}")
    return [*wrong, *_served(assistant, text)]


def _question() -> Any:
    from omnimix.prompts.questions import question

    return question(CONTENT[1]["text"], ["examples/scene.png"])


def _together(assistant: Assistant, woven: list[Woven], wanted: list[list[int]]) -> Iterator[str]:
    """Eight at once that join one after the other; every third is cancelled on its way."""
    core = assistant.decoder.core(Limits(8, item_memory=2**24))
    requests = []
    for i in range(16):
        requests.append((i, asked(assistant, woven[i % len(woven)], GREEDY)))
        core.add(requests[-1][1])
        core.step()
        if i % 3 == 2:
            requests[-1][1].cancel()
    while core.step():
        pass
    for i, one in requests:
        right = wanted[i % len(woven)]
        if one.reason == "cancelled":
            right = right[: len(one.ids)]
        if one.error is not None or one.ids != right:
            yield f"request {i}: torch {right}, vLLM {one.ids} {one.error or ''}"
    print(
        f"{len(requests)} requests, {sum(o.reason == 'cancelled' for _, o in requests)} cancelled"
    )
    print(f"items: {core.items.hits} hits, {core.items.misses} misses")


def _ways(
    assistant: Assistant, woven: list[Woven], ways: dict[str, Generation], server: bool
) -> Iterator[str]:
    for name, torchs in ways.items():
        try:
            one = alone(assistant, woven[0], WAYS[name])
        except OmnimixError as error:
            print(f"{name}: {error}")
            if not (server and name == "repetition_penalty"):
                yield name
            continue
        print(f"{name}: {'equal' if one.ids == torchs.ids else (torchs.ids, one.ids)}")
        if one.ids != torchs.ids:
            yield name
        pairs = zip(one.likely, torchs.likely, strict=True)
        if any(abs(a.logprob - b.logprob) > 1e-3 or len(a.top) != 3 for a, b in pairs):
            yield f"{name}: other logprobs"
    first, again = (alone(assistant, woven[1], SAMPLED).ids for _ in range(2))
    print(f"sampled with a seed, twice: {'equal' if first == again else (first, again)}")
    if first != again:
        yield "seed"


def _served(assistant: Assistant, text: str) -> Iterator[str]:
    """Streams of OpenAI's client, several at once, one of which leaves."""
    from concurrent.futures import ThreadPoolExecutor

    from openai import OpenAI

    from tests.serve.live import live

    engine = Batched(assistant, "tiny")
    with live(create_app(engine)) as address:
        client = OpenAI(base_url=f"{address}/v1", api_key="none")
        said: dict[str, Any] = {
            "model": "tiny",
            "messages": [{"role": "user", "content": CONTENT}],
            "max_tokens": 12,
        }

        def streamed(leaves: bool) -> str:
            with client.chat.completions.create(**said, stream=True) as stream:
                found = ""
                for chunk in stream:
                    found += chunk.choices[0].delta.content or "" if chunk.choices else ""
                    if leaves and found:
                        break
            return found

        with ThreadPoolExecutor(8) as pool:
            found = [*pool.map(streamed, [False, True, *[False] * 6])]
        if any(not text.startswith(one) for one in found) or found.count(text) < 7:
            yield f"streams: torch {text!r}, vLLM {found}"
        two = client.chat.completions.create(**said, n=2, temperature=1.0, seed=1, logprobs=True)
        print(f"HTTP: {len(found)} streams, and n=2: {[c.message.content for c in two.choices]}")
        with urllib.request.urlopen(f"{address}/health") as health:
            print(health.read().decode())


@contextmanager
def server() -> Iterator[str]:
    """A server of vLLM's over the export, while it runs."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        exporting.FORMS["vllm"](engines.assistant(), Path(folder) / "export")
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        free.close()
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(Path(folder) / "export")]
        command += ["--host", "127.0.0.1", "--port", port]
        command += ["--enable-prompt-embeds", "--enforce-eager", "--dtype", "float32"]
        with subprocess.Popen(command, stdout=sys.stderr) as process:
            address = f"http://127.0.0.1:{port}"
            try:
                while process.poll() is None and not _listens(address):
                    time.sleep(0.5)
                yield address
            finally:
                process.terminate()


def _listens(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/health", timeout=1).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    engines.look("vllm", "vllm")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ[cache.MOVED] = folder
        if "server" not in sys.argv:
            wrong += main(dict(EAGER))
        if "beside" not in sys.argv:
            with server() as address:
                wrong += main({"url": address})
    print("\n".join(wrong) or "all as in torch")
    raise SystemExit(bool(wrong))
