"""Who writes the answers in `benchmarks.serve`: transformers, the engine over each back end, servers, llama.cpp alone."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tests.serve.live import live as served

from benchmarks.serve_llama import Alone
from benchmarks.serve_work import SPACE, Work, body, sample
from omnimix.convert import exporting
from omnimix.generate.assistant import Assistant
from omnimix.generate.engine.backends import kept, runner_of
from omnimix.generate.engine.core import Core, Generation
from omnimix.generate.engine.runners import Runner
from omnimix.language import gguf
from omnimix.serve.app import Settings, create_app
from omnimix.serve.batched import Batched, limits
from omnimix.serve.running import address, listening


@dataclass(frozen=True)
class Run:
    """Answers that were written.

    Attributes:
        ids: of each, where they are known; else `texts`.
        seconds: for all.
        firsts: seconds to the first token of each.
        process: seconds of the CPU that this process took.
    """

    ids: list[list[int]]
    seconds: float
    firsts: list[float]
    process: float
    texts: list[str] = field(default_factory=list)

    @property
    def steady(self) -> float:
        """Seconds between the tokens of an answer that was written alone."""
        return (self.seconds - self.firsts[0]) / max(len(self.ids[0]) - 1, 1)


Write = Callable[[int], Run]


@dataclass(frozen=True)
class Side:
    """A way to have answers written.

    Attributes:
        write: the first questions; one that writes them one after the other may write the first alone.
        clients: how many at once it is asked for; None for every number.
    """

    name: str
    write: Write
    clients: tuple[int, ...] | None = None


class _Clock:
    """What `generate` is told of its tokens: when the first of them came."""

    def __init__(self) -> None:
        self.first: float | None = None
        self._prompt = True

    def put(self, _: Any) -> None:
        if not self._prompt and self.first is None:
            self.first = time.perf_counter()
        self._prompt = False

    def end(self) -> None:
        pass


def _timed(work: Callable[[], tuple[list[list[int]], list[float]]]) -> Run:
    cpu, begin = time.process_time(), time.perf_counter()
    ids, moments = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    return Run(ids, seconds, [one - begin for one in moments], time.process_time() - cpu)


def by_generate(given: Work, count: int, together: bool = False) -> Run:
    """transformers' own loop, one question after another or all in one padded batch."""
    assistant = given.assistant
    ends = sorted(assistant.endings(given.options).ends)
    config = given.options.config(ends, assistant.processor.weave.tokenizer.pad)
    rows = given.woven[:count]

    def run() -> tuple[list[list[int]], list[float]]:
        found: list[list[int]] = []
        moments: list[float] = []
        for part in [rows] if together else [[row] for row in rows]:
            batch, clock = assistant.batch(part), _Clock()
            words: dict[str, Any] = {} if together else {"streamer": clock}
            with torch.inference_mode():
                ids = assistant.model.generate(**batch.inputs(), generation_config=config, **words)
            found += ids[:, batch.input_ids.shape[1] :].tolist()
            moments.append(clock.first or time.perf_counter())
        return found, moments

    return _timed(run)


def by_engine(
    given: Work, count: int, run: Runner | None = None, asked: list[Generation] | None = None
) -> Run:
    """The engine, without what an earlier question could have left behind."""
    model = given.assistant.model
    moments: list[float] = []

    def listen(one: Generation) -> None:
        if len(one.ids) == 1:
            moments.append(time.perf_counter())

    def write() -> tuple[list[list[int]], list[float]]:
        requests = given.requests(count) if asked is None else asked
        for one in requests:
            one.listen = listen
        Core(model, limits(), run or given.assistant.decoder.runner).run(requests)
        return [one.ids for one in requests], moments

    return _timed(write)


@contextlib.contextmanager
def live(assistant: Assistant, tokens: int) -> Iterator[str]:
    """The address of a server of our own, with all that stands in it, while it runs."""
    from omnimix.generate.options import Options

    options = Options(max_new_tokens=tokens, stop_strings=())
    app = create_app(Batched(assistant, "bench"), Settings(options=options, max_waiting=64))
    with served(app) as url:
        yield url


def by_clients(url: str, bodies: list[dict[str, Any]]) -> Run:
    """What clients in a process of their own are told by a server."""
    asked = json.dumps({"url": url, "bodies": bodies})
    command = [sys.executable, "-m", "benchmarks.serve_client"]
    cpu = time.process_time()
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    wrong = [one["error"] for one in found["answers"] if "error" in one]
    if wrong:
        raise RuntimeError(f"{len(wrong)} of {len(bodies)} requests failed: {wrong[0]}")
    answers = found["answers"]
    firsts = [one.get("first", found["seconds"]) for one in answers]
    texts = [one["text"] for one in answers]
    return Run([], found["seconds"], firsts, time.process_time() - cpu, texts)


def _over(given: Work, run: Runner | None) -> Assistant:
    if run is None:
        return given.assistant
    found = Assistant(given.assistant.model, given.assistant.processor)
    found.decoder.make = lambda _: run
    return found


def by_thread(given: Work, count: int, run: Runner | None = None) -> Run:
    """The server's engine without the server: it weaves, and requests come one after another while others are written."""
    engine = Batched(_over(given, run), "bench")
    moments: list[float] = []

    async def one(number: int) -> list[int]:
        begun = False
        async for piece in engine.stream(sample(number), given.options):
            if not begun:
                moments.append(time.perf_counter())
            begun = True
            if piece.answer is not None:
                return list(piece.answer.ids)
        raise RuntimeError("the answer has no end")

    async def ask() -> list[list[int]]:
        return list(await asyncio.gather(*map(one, range(count))))

    found = _timed(lambda: (asyncio.run(ask()), moments))
    asyncio.run(engine.close())
    return found


def by_server(given: Work, count: int, run: Runner | None = None) -> Run:
    """The same questions over HTTP: pictures as data URLs, answers as streams."""
    assistant = _over(given, run)
    tokens = given.options.max_new_tokens
    bodies = [body(i, tokens) for i in range(count)]
    with live(assistant, tokens) as base:
        return by_clients(f"{base}/v1/chat/completions", bodies)


class LlamaAlone:
    """llama.cpp without us, over the same file and prompts."""

    def __init__(self, given: Work, folder: Path, most: int) -> None:
        self.file = folder / "alone.gguf"
        if not self.file.is_file():
            gguf.write(given.assistant.model.language, self.file)
        self.prompts = [one.float().numpy() for one in given.embedded(most)]
        self.tokens = given.options.max_new_tokens
        room = sum(len(one) + self.tokens for one in self.prompts)
        self.cpp = Alone(str(self.file), most, room, torch.get_num_threads())

    def __call__(self, count: int) -> Run:
        cpu = time.process_time()
        ids, seconds, firsts = self.cpp.write(self.prompts[:count], self.tokens)
        return Run(ids, seconds, firsts, time.process_time() - cpu)


class TransformersServe:
    """`transformers serve` over the language model alone, asked for text: it takes no model of another package."""

    def __init__(self, given: Work, folder: Path, most: int) -> None:
        self.given = given
        self.folder = folder / "plain"
        if not self.folder.exists():
            exporting.write_folder(given.assistant, self.folder)
        language = given.assistant.model.language
        tokenizer = given.assistant.processor.tokenizer
        line = len(tokenizer(SPACE)["input_ids"])
        times = max(1, len(given.woven[0]) // line)
        self.texts = [f"{number} {SPACE * times}{number}" for number in range(most)]
        ids = [tokenizer(one)["input_ids"] for one in self.texts]
        table = language.get_input_embeddings()
        with torch.inference_mode():
            self.prompts = [table(torch.tensor(one)) for one in ids]
        with listening("127.0.0.1", 0) as free:
            self.base = address(free)
        # omnimix first: with it a torchvision of another build than torch does not stop transformers.
        program = "import omnimix; from transformers.cli.transformers import main; main()"
        command = [sys.executable, "-c", program, "serve", str(self.folder), "--device", "cpu"]
        command += ["--dtype", "float32", "--host", "127.0.0.1", "--port", self.base.split(":")[-1]]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        self.log = (folder / "transformers.log").open("wb")
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log)
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + 180
        while time.monotonic() < until and self.process.poll() is None:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self.base}/health", timeout=5) as answer,
            ):
                if answer.status == 200:
                    return
            time.sleep(0.2)
        said = Path(self.log.name).read_text(errors="replace").strip().splitlines()[-1:]
        self.close()
        raise RuntimeError(f"transformers serve did not start: {' '.join(said)[:200]}")

    def __call__(self, count: int) -> Run:
        words = {"model": str(self.folder), "temperature": 0, "stream": True}
        words["max_tokens"] = self.given.options.max_new_tokens
        bodies = [{**words, "prompt": one} for one in self.texts[:count]]
        return by_clients(f"{self.base}/v1/completions", bodies)

    def ours(self, count: int) -> Run:
        """The engine over the same tokens."""
        return by_engine(self.given, count, asked=self.given.asked(self.prompts[:count]))

    @property
    def peak(self) -> int:
        """MiB that its process held at most."""
        return peak(self.process.pid)

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def peak(process: int | str = "self") -> int:
    """MiB that a process held at most."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    return 0


def missing(package: str) -> bool:
    return importlib.util.find_spec(package) is None


def runners(given: Work, names: dict[str, tuple[str, str]]) -> dict[str, Runner]:
    """What runs the language model, by a name, of a back end and its weights."""
    say = lambda words: print(words, flush=True)  # noqa: E731
    return {
        name: runner_of(backend, weights, say)(given.assistant.model)  # type: ignore[arg-type]
        for name, (backend, weights) in names.items()
    }


def weights_held(given: Work, backend: str, weights: str) -> int:
    """Bytes of the language model's weights as an engine holds them; a head that is the table's counts once."""
    model = given.assistant.model
    if backend == "torch":
        return sum(p.nbytes for p in model.language.parameters())
    files = kept(model, backend, weights).iterdir()
    return sum(one.stat().st_size for one in files if one.suffix in (".bin", ".gguf"))
