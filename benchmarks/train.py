"""Training steps beside transformers' Trainer and TRL's SFTTrainer: same rows, weights and ids, turn about.

`python -m benchmarks.train` on a CPU, `python -m benchmarks.train --device cuda --size 1b --bf16` on a GPU. In
every round each side takes the same steps, the first of which are not counted; what is reported is the ratio of
useful tokens a second (padding is not useful) of a round, its median, least and most. The tower is frozen on all
sides, as in LLaVA's second stage. TRL recomputes activations by default; `trl_keeps` is TRL told not to.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import llava
from benchmarks.trainers import Ours, Peer, Taken, Work, useful_tokens
from omnimix.language import packed
from omnimix.train.step import quick_bf16

PEAK = 989e12
"""Dense bf16 operations a second of an H100 or H200."""
DROPPED = 2
"""Steps of a turn that warm up."""


@dataclass(frozen=True)
class Scenario:
    """What is run: rows of mixed or like length, what learns, and who takes part."""

    name: str
    alike: bool
    learns: str
    sides: tuple[str, ...]


SCENARIOS = (
    Scenario("full, mixed lengths", False, "full", ("packed", "padded", "trainer", "trl", "trl_keeps")),
    Scenario("full, like lengths", True, "full", ("packed", "padded", "trainer", "trl")),
    Scenario("lora, mixed lengths", False, "lora", ("packed", "padded", "trainer", "trl")),
    Scenario("lora, like lengths", True, "lora", ("packed", "padded", "trainer")),
    Scenario("connector, mixed lengths", False, "connector", ("packed", "warm", "trainer", "trl")),
)  # fmt: skip


def sides(size: llava.Size, learns: str, out: Path, theirs: Any) -> dict[str, Any]:
    """All who can take part, around two models of the same weights."""
    # There the weights are drawn many times sooner; those of the peer take their place.
    with theirs.device:
        own = llava.ours(size, theirs, learns == "lora")
    return {
        "packed": Ours(own, pack=True),
        "padded": Ours(own, pack=False),
        "warm": Ours(own, pack=True, warm=True),
        **{kind: Peer(theirs, kind, out) for kind in ("trainer", "trl", "trl_keeps")},
    }


def operations(work: Work, steps: Sequence[int]) -> float:
    """Useful floating-point operations of full training: what any side has to do, padding left out.

    Six a weight and token for what learns, the head at learned places alone; two for the frozen tower; attention by
    the lengths of the samples.
    """
    width, layers, _, inner = work.size.language
    across, deep, _, wide = work.size.tower
    body = layers * (4 * width * width + 3 * width * inner)
    tower = deep * (4 * across * across + 2 * across * wide)
    total = 0.0
    for row in (row for step in steps for row in work.part(step)):
        tokens, learned = len(row.ids), int((row.labels != -100).sum())
        total += 6 * body * tokens + 6 * width * work.size.vocabulary * learned
        total += 6 * layers * width * tokens * tokens  # causal: half of 12
        total += 2 * tower * (work.size.tokens + 1)
    return total


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def one(scenario: Scenario, words: argparse.Namespace, until: float, base: Any) -> dict[str, Any]:
    """Rounds of a scenario, until the time is up; a side that fails is left out from then on."""
    size, device = llava.SIZES[words.size], torch.device(words.device)
    steps = DROPPED + words.steps
    rows = llava.rows(size, size.batch * steps, scenario.alike)
    work = Work(size, rows, scenario.learns, words.bf16, device)
    counted = range(DROPPED, steps)
    tokens, failed = useful_tokens(work, counted), {}
    taken: dict[str, list[Taken]] = {side: [] for side in scenario.sides}
    with tempfile.TemporaryDirectory() as out:
        all_sides = sides(size, scenario.learns, Path(out), base)
        for number in range(words.rounds):
            order = scenario.sides[number % 2 :] + scenario.sides[: number % 2]
            for side in (name for name in order if name in taken):
                begin = state(all_sides[side].model)
                try:
                    taken[side].append(all_sides[side](work, steps))
                except Exception as error:  # the others shall be run all the same
                    if side == "trainer" or words.raises:
                        raise
                    failed[side] = f"{type(error).__name__}: {error}"[:300]
                    print(f"{scenario.name}: {side} failed: {failed[side]}", flush=True)
                    del taken[side]
                all_sides[side].model.load_state_dict(begin)
            if time.monotonic() > until:
                break
    speed = {
        side: [tokens / sum(one.seconds[DROPPED:]) for one in each] for side, each in taken.items()
    }
    result: dict[str, Any] = {
        "name": scenario.name,
        **asdict(scenario),
        "failed": failed,
        "sides": {},
    }
    for side, each in taken.items():
        found: dict[str, Any] = {
            "tokens_per_second": spread(speed[side]),
            "first_loss": each[0].losses[0],
            "over_trainer": spread(
                [a / b for a, b in zip(speed[side], speed["trainer"], strict=True)]
            ),
        }
        if each[0].memory:
            found["gigabytes"] = max(one.memory for one in each) / 2**30
        if each[0].waited:
            found["waited"] = statistics.median(t.waited / sum(t.seconds) for t in each)
        if device.type == "cuda" and scenario.learns == "full":
            rate = operations(work, counted) / tokens
            found["share_of_peak"] = rate * found["tokens_per_second"]["median"] / PEAK
        result["sides"][side] = found
    losses = [found["first_loss"] for found in result["sides"].values()]
    result["losses_apart"] = max(losses) - min(losses)
    return result


def state(model: Any) -> dict[str, torch.Tensor]:
    """The weights before a turn, so that every turn begins with them."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def memory(scenario: Scenario, side: str, words: argparse.Namespace) -> float:
    """Gigabytes that a process of its own held at most, of which those before the first step are not counted."""
    own = ["--size", words.size, "--only", scenario.name, "--side", side]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train", *own, *(["--bf16"] if words.bf16 else [])],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


def alone(scenario: Scenario, side: str, words: argparse.Namespace) -> None:
    """Two steps of one side; prints what they took of memory on top of both models."""
    size = llava.SIZES[words.size]
    rows = llava.rows(size, size.batch * 2, scenario.alike)
    work = Work(size, rows, scenario.learns, words.bf16, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as out:
        own = sides(size, scenario.learns, Path(out), llava.peer(size))[side]
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        own(work, 2)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print((most - before) / 2**30)


def table(results: Sequence[dict[str, Any]], head: dict[str, Any]) -> str:
    """Markdown, for people."""
    lines = [f"{name}: {value}" for name, value in head.items()]
    lines += [
        "",
        "| scenario | side | tokens/s | over Trainer | GiB | waited | of peak | first loss |",
    ]
    lines.append("|---|---|---:|---:|---:|---:|---:|---:|")
    for result in results:
        for side, found in result["sides"].items():
            over = found["over_trainer"]
            many = [
                f"{found['tokens_per_second']['median']:.0f}",
                f"{over['median']:.2f} ({over['least']:.2f} to {over['most']:.2f})",
                f"{found['gigabytes']:.2f}" if "gigabytes" in found else "",
                f"{found['waited']:.1%}" if "waited" in found else "",
                f"{found['share_of_peak']:.1%}" if "share_of_peak" in found else "",
                f"{found['first_loss']:.5f}",
            ]
            lines.append(f"| {result['name']} | {side} | {' | '.join(many)} |")
    return "\n".join(lines) + "\n"


def head(words: argparse.Namespace) -> dict[str, Any]:
    """What the numbers hold for."""
    from importlib import metadata

    packages = ("torch", "transformers", "trl", "peft")
    name = torch.cuda.get_device_name() if words.device == "cuda" else f"{os.cpu_count()} cores"
    return {
        "device": name,
        "size": words.size,
        "precision": "bf16 autocast" if words.bf16 else "fp32",
        "load": "" if words.device == "cuda" else " ".join(f"{x:.1f}" for x in os.getloadavg()),
        "steps a turn": words.steps,
        **{package: metadata.version(package) for package in packages},
    }


def main(given: Sequence[str] | None = None) -> None:
    """Run what fits into the time, and write it down after every scenario."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--size", default="30m", choices=sorted(llava.SIZES))
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--steps", type=int, default=2, help="counted steps of a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=9.0, help="after which no round begins")
    parser.add_argument("--only", help="scenarios whose name holds this")
    parser.add_argument("--side", help="two steps of one side, for its memory")
    parser.add_argument(
        "--memory", action="store_true", help="on a CPU: a process for each side besides"
    )
    parser.add_argument(
        "--checks", action="store_true", help="compare a GPU's numbers with the CPU's first"
    )
    parser.add_argument("--raises", action="store_true", help="stop at the first failure")
    parser.add_argument("--out", default="benchmarks/results", help="folder of the results")
    words = parser.parse_args(given)
    chosen = [s for s in SCENARIOS if not words.only or words.only in s.name]
    if words.side:
        return alone(chosen[0], words.side, words)
    if words.bf16 and not quick_bf16(torch.device(words.device)):
        print("bf16 is slow on this device: run in float32")
        words.bf16 = False
    run(chosen, words)
    return None


def run(chosen: Sequence[Scenario], words: argparse.Namespace) -> None:
    """Scenarios one after another, each with an equal share of the time that is left."""
    begin, out, results = time.monotonic(), Path(words.out), []
    out.mkdir(parents=True, exist_ok=True)
    about = head(words)
    if words.checks:
        from benchmarks import on_cuda

        about["checks"] = on_cuda.main()
        if about["checks"][on_cuda.VARLEN].startswith("FAILED"):
            packed._varlen = lambda query: None
        (out / "checks.json").write_text(json.dumps(about["checks"], indent=1))
    torch.manual_seed(0)
    with torch.device(words.device):
        base = llava.peer(llava.SIZES[words.size])
    for number, scenario in enumerate(chosen):
        left = begin + 60 * words.minutes - time.monotonic()
        if left <= 0:
            print(f"no time is left for {scenario.name!r}")
            continue
        until = time.monotonic() + left / (len(chosen) - number)
        try:
            result = one(scenario, words, until, base)
        except Exception as error:  # the other scenarios shall be run all the same
            print(f"{scenario.name!r} failed: {type(error).__name__}: {error}", flush=True)
            if words.raises:
                raise
            continue
        if words.memory and words.device == "cpu":
            for side, found in result["sides"].items():
                found["gigabytes"] = memory(scenario, side, words)
        results.append(result)
        name = f"train-{words.device}-{words.size}-{'bf16' if words.bf16 else 'fp32'}"
        (out / f"{name}.json").write_text(
            json.dumps({**about, "results": results}, indent=1) + "\n"
        )
        (out / f"{name}.md").write_text(table(results, about))
        print(table([result], {}), flush=True)


if __name__ == "__main__":
    main()
