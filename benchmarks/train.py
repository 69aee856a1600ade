"""Training steps beside transformers' Trainer and TRL's SFTTrainer: same rows, weights and ids, turn about.

`python -m benchmarks.train` on a CPU, `python -m benchmarks.train --device cuda --size 1b --bf16` on a GPU. In
every round each side takes the same steps, the first of which are not counted, and every round has rows of its own, for
how much is padded differs from batch to batch. What is reported is the ratio of useful tokens a second (padding is
not useful) of all rounds together, and that of the round with the least and the most. The tower is frozen on all
sides, as in LLaVA's second stage. TRL recomputes activations by default; `trl_keeps` is TRL told not to.
`--ranks 2` starts two processes over gloo or NCCL, which share each step's rows: ours whole in each (`packed`) or sharded
(`sharded`), the others under DDP. `--profile` says of each goal that was missed where the time and the memory went.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import llava, why
from benchmarks.trainers import Ours, Peer, Taken, Work, useful_tokens
from omnimix.language import packed
from omnimix.parallel import process_group
from omnimix.parallel.layout import ParallelSpec, lay
from omnimix.train.meter import resident
from omnimix.train.step import quick_bf16

PEAK = 989e12
"""Dense bf16 operations a second of an H100 or H200."""
DROPPED = {"cpu": 1, "cuda": 2}
"""Steps of a turn that warm up."""
MEASURED = ("packed", "warm", "sharded", "trainer", "trl")
"""Sides whose memory is measured on a CPU, each in a process of its own."""


HELD = "gigabytes held: "
ELASTIC = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a process that is one of several must not hand on."""


@dataclass(frozen=True)
class Scenario:
    """What is run: rows of mixed or like length, what learns, and who takes part."""

    name: str
    alike: bool
    learns: str
    sides: tuple[str, ...]


MIXED = Scenario("full, mixed lengths", False, "full", ("packed", "sharded", "trainer", "trl"))
"""What several processes do."""

SCENARIOS = (
    Scenario("full, mixed lengths", False, "full", ("packed", "padded", "trainer", "trl", "trl_keeps")),
    Scenario("connector, mixed lengths", False, "connector", ("packed", "warm", "trainer", "trl")),
    Scenario("full, like lengths", True, "full", ("packed", "padded", "trainer", "trl")),
    Scenario("lora, mixed lengths", False, "lora", ("packed", "padded", "trainer", "trl")),
    Scenario("lora, like lengths", True, "lora", ("packed", "padded", "trainer")),
)  # fmt: skip


ALL = (
    (0.2, ("--size", "30m", "--sides", "packed,warm,trl")),
    (0.14, ("--size", "30m", "--bf16", "--sides", "packed,warm,trl")),
    (0.29, ("--size", "135m", "--only", "full|lora", "--sides", "packed,trl", "--once", "trl")),
    (0.29, ("--size", "135m", "--bf16", "--only", "full|lora", "--sides", "packed,trl", "--once", "trl")),
    (0.08, ("--size", "30m", "--ranks", "2")),
)  # fmt: skip
"""What `--all` runs, and which share of the time each gets."""


def sides(
    size: llava.Size, learns: str, out: Path, theirs: Any, bf16: bool = False
) -> dict[str, Any]:
    """All who can take part, around models of the same weights."""
    # There the weights are drawn many times sooner; those of the peer take their place.
    with theirs.device:
        own = llava.ours(size, theirs, learns == "lora")
    group = process_group.current()
    if group.size > 1:
        found: dict[str, Any] = {kind: Peer(theirs, kind, out) for kind in ("trainer", "trl")}
        for name, shard in (("packed", "none"), ("sharded", "full")):
            model = copy.deepcopy(own)
            layout = lay(ParallelSpec(shard=shard), group, theirs.device, own.recipe)  # type: ignore[arg-type]
            layout.place(model, bf16)
            found[name] = Ours(model, pack=True, layout=layout)
        return found
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


def spread(whole: float, parts: Sequence[float]) -> dict[str, float]:
    """Of all rounds together, and of the part with the least and the most."""
    return {"whole": whole, "least": min(parts), "most": max(parts)}


def one(scenario: Scenario, words: argparse.Namespace, until: float, base: Any) -> dict[str, Any]:
    """Rounds of a scenario, until the time is up; a side that fails is left out from then on."""
    device, group = torch.device(words.device), process_group.current()
    dropped, now = DROPPED[words.device], time.monotonic()
    steps = dropped + words.steps
    work = rows_of(scenario, words, steps * words.rounds)
    each = steps * work.size.batch
    works = [replace(work, rows=work.rows[n * each : (n + 1) * each]) for n in range(words.rounds)]
    failed: dict[str, str] = {}
    taken: dict[str, list[Taken]] = {side: [] for side in scenario.sides}
    gigabytes = {}
    if measures(words) and group.rank == 0:
        # Before this process holds anything, for which there might be no room beside them.
        for side in (side for side in MEASURED if side in taken):
            if side != "trl" or time.monotonic() < (2 * now + until) / 3:
                gigabytes[side] = memory(scenario, side, words)
    with tempfile.TemporaryDirectory() as out:
        everybody = sides(work.size, scenario.learns, Path(out), base, words.bf16)
        for number, part in enumerate(works):
            order = scenario.sides[number % 2 :] + scenario.sides[: number % 2]
            for side in (name for name in order if name in taken):
                if number and side in words.once.split(","):
                    continue
                begin = state(everybody[side].model)
                try:
                    taken[side].append(everybody[side](part, steps))
                except Exception as error:  # the others shall be run all the same
                    if side == "trainer" or words.raises:
                        raise
                    failed[side] = f"{type(error).__name__}: {error}"[:300]
                    print(f"{scenario.name}: {side} failed: {failed[side]}", flush=True)
                    del taken[side]
                everybody[side].model.load_state_dict(begin)
            if group.any(time.monotonic() > until):
                break
        result = compared(scenario, taken, works, range(dropped, steps))
        result["failed"] = failed
        for side in (side for side in gigabytes if side in taken):
            result["sides"][side]["gigabytes"] = gigabytes[side]
        if words.profile:
            result["profile"] = {
                side: why.profile(functools.partial(everybody[side], work, 2), everybody[side], device)
                for side in group.gather("concerned", why.concerned(result))[0]
            }  # fmt: skip
    return result


def measures(words: argparse.Namespace) -> bool:
    """Whether memory is measured by a process for each side."""
    return bool(words.memory and words.device == "cpu")


def rows_of(scenario: Scenario, words: argparse.Namespace, steps: int) -> Work:
    """The rows of so many steps, and who of how many takes them."""
    size, group = llava.SIZES[words.size], process_group.current()
    rows = llava.rows(size, size.batch * steps, scenario.alike)
    device = torch.device(words.device)
    return Work(size, rows, scenario.learns, words.bf16, device, group.rank, group.size)


def compared(
    scenario: Scenario, taken: dict[str, list[Taken]], works: Sequence[Work], counted: range
) -> dict[str, Any]:
    """What came of the rounds, a side beside Trainer in the rounds it took part in; the spread is over rounds, and of
    a single round over its steps.
    """
    result: dict[str, Any] = {**asdict(scenario), "rounds": len(taken["trainer"]), "sides": {}}
    result["steps"] = len(counted) * result["rounds"]
    work = works[0]
    for side, each in taken.items():
        every = [(number, step) for number in range(len(each)) for step in counted]
        parts = [[at for at in every if at[0] == n] for n in range(len(each))]
        if len(each) == 1:
            parts = [[at] for at in every]

        def tokens(chosen: Sequence[tuple[int, int]]) -> int:
            return sum(useful_tokens(works[number], [step]) for number, step in chosen)

        def seconds(side: str, chosen: Sequence[tuple[int, int]]) -> float:
            return sum(taken[side][number].seconds[step] for number, step in chosen)

        speeds = [tokens(part) / seconds(side, part) for part in (every, *parts)]
        over = [seconds("trainer", part) / seconds(side, part) for part in (every, *parts)]
        found: dict[str, Any] = {
            "tokens_per_second": spread(speeds[0], speeds[1:]),
            "first_loss": each[0].losses[0],
            "over_trainer": spread(over[0], over[1:]),
        }
        if each[0].memory:
            found["gigabytes"] = max(one.memory for one in each) / 2**30
        if each[0].waited:
            found["waited"] = statistics.median(t.waited / sum(t.seconds) for t in each)
        if work.device.type == "cuda" and scenario.learns == "full":
            done = sum(operations(own, counted) for own in works[: len(each)])
            found["share_of_peak"] = done / seconds(side, every) / PEAK
        result["sides"][side] = found
    losses = [found["first_loss"] for found in result["sides"].values()]
    result["losses_apart"] = max(losses) - min(losses)
    return result


def state(model: Any) -> dict[str, torch.Tensor]:
    """The weights before a turn, so that every turn begins with them."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def memory(scenario: Scenario, side: str, words: argparse.Namespace) -> float:
    """Gigabytes that a process of its own held at most for one side; of several processes the first."""
    own = ["--size", words.size, "--only", scenario.name, "--side", side]
    own += ["--ranks", str(words.ranks), *(["--bf16"] if words.bf16 else [])]
    here = {name: value for name, value in os.environ.items() if name not in ELASTIC}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.train", *own],
        capture_output=True, text=True, check=False, env={**here, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return next(float(line.removeprefix(HELD)) for line in done.stdout.splitlines() if HELD in line)


def alone(scenario: Scenario, side: str, words: argparse.Namespace) -> None:
    """Two steps of one side; prints what they held at most, the side's own weights included."""
    work = rows_of(scenario, words, 2)
    with tempfile.TemporaryDirectory() as out:
        own = sides(work.size, scenario.learns, Path(out), llava.peer(work.size), words.bf16)[side]
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        own(work, 2)
    most = resident()
    if work.rank == 0:
        print(f"{HELD}{(most - before + why.weights(own.model)) / 2**30}", flush=True)


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
                f"{found['tokens_per_second']['whole']:.0f}",
                f"{over['whole']:.2f} ({over['least']:.2f} to {over['most']:.2f})",
                f"{found['gigabytes']:.2f}" if "gigabytes" in found else "",
                f"{found['waited']:.1%}" if "waited" in found else "",
                f"{found['share_of_peak']:.1%}" if "share_of_peak" in found else "",
                f"{found['first_loss']:.5f}",
            ]
            lines.append(f"| {result['name']} | {side} | {' | '.join(many)} |")
    said = [line for result in results for line in why.told(result)]
    return "\n".join([*lines, *([""] if said else []), *said]) + "\n"


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
        "processes": words.ranks,
        **{package: metadata.version(package) for package in packages},
    }


def main(given: Sequence[str] | None = None) -> None:
    """Run what fits into the time, and write it down after every scenario."""
    given = list(sys.argv[1:] if given is None else given)
    words = asked(given)
    if words.all:
        failed = []
        for share, more in ALL:
            if "--bf16" in more and not quick_bf16(torch.device(words.device)):
                print("bf16 is slow on this device: left out", flush=True)
                continue
            print(f"benchmarks.train {' '.join(more)}", flush=True)
            own = [*given, *more, "--minutes", f"{share * words.minutes:.2f}", "--no-all"]
            if anew(own):
                failed.append(" ".join(more))
        if failed:
            raise SystemExit(f"not all was measured: {'; '.join(failed)}")
        return
    if words.ranks > 1 and "RANK" not in os.environ:
        launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(words.ranks)]
        command = [sys.executable, "-W", "ignore", "-m", *launch, "-m", "benchmarks.train", *given]
        subprocess.run(command, check=True)
        return
    scenarios = SCENARIOS if words.ranks == 1 else (MIXED,)
    chosen = [s for s in scenarios if not words.only or re.search(words.only, s.name)]
    if words.bf16 and not quick_bf16(torch.device(words.device)):
        print("bf16 is slow on this device: run in float32")
        words.bf16 = False
    if words.device == "cpu" and len(chosen) > 1:
        apart(chosen, given, words)
        return
    process_group.join()
    if words.side:
        alone(chosen[0], words.side, words)
    else:
        run(chosen, words)


def anew(words: Sequence[str]) -> int:
    """The benchmark in a process of its own, which gives back what it held; its exit code."""
    program = [sys.executable, "-W", "ignore", "-m", "benchmarks.train", *words]
    return subprocess.run(program, check=False).returncode


def apart(chosen: Sequence[Scenario], given: Sequence[str], words: argparse.Namespace) -> None:
    """Each scenario in a process of its own; their results in one file.

    Two sides of 135 M parameters and what was left of the scenario before them did not fit into 24 GiB.
    """
    end, results, lost = time.monotonic() + 60 * words.minutes, [], []
    out = Path(words.out)
    out.mkdir(parents=True, exist_ok=True)
    for number, scenario in enumerate(chosen):
        minutes = (end - time.monotonic()) / 60 / (len(chosen) - number)
        if minutes < 0:
            lost.append(f"no time is left for {scenario.name!r}")
            continue
        with tempfile.TemporaryDirectory() as own:
            more = ["--only", f"^{scenario.name}$", "--minutes", f"{minutes:.2f}", "--out", own]
            code = anew([*given, *more])
            found = [json.loads(file.read_text()) for file in Path(own).glob("train-*.json")]
        for about in found:
            results += about.pop("results")
            write(out, words, about, results)
        if code or not found:
            lost.append(f"{scenario.name!r} gave nothing (exit {code})")
            print(lost[-1], flush=True)
    if lost:
        raise SystemExit("; ".join(lost))


def asked(given: Sequence[str]) -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--size", default="30m", choices=sorted(llava.SIZES))
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--ranks", type=int, default=1, help="processes that share each step")
    parser.add_argument("--steps", type=int, default=4, help="counted steps of a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=9.0, help="after which no round begins")
    parser.add_argument("--only", help="scenarios whose name this pattern is found in: full|lora")
    parser.add_argument("--sides", help="of those: packed,warm,trainer (trainer always is)")
    parser.add_argument(
        "--once", default="", help="sides that take part in the first round alone: trl"
    )
    parser.add_argument("--side", help="two steps of one side, for its memory")
    parser.add_argument(
        "--memory", action="store_true", help="on a CPU: a process for each side besides"
    )
    profile = "say of a goal that was missed where it went"
    parser.add_argument("--profile", action=argparse.BooleanOptionalAction, help=profile)
    parser.add_argument(
        "--checks", action="store_true", help="compare a GPU's numbers with the CPU's first"
    )
    parser.add_argument("--raises", action="store_true", help="stop at the first failure")
    parser.add_argument("--out", default="benchmarks/results", help="folder of the results")
    every = "30m and 135m in fp32 and bf16, and two processes; give it --minutes 80"
    parser.add_argument("--all", action=argparse.BooleanOptionalAction, help=every)
    return parser.parse_args(given)


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
        if words.sides:
            kept = [s for s in scenario.sides if s in f"{words.sides},trainer".split(",")]
            scenario = replace(scenario, sides=tuple(kept))
        now, end = time.monotonic(), begin + 60 * words.minutes
        if process_group.current().any(now > end):
            print(f"no time is left for {scenario.name!r}")
            continue
        until = now + (end - now) / (len(chosen) - number)
        try:
            result = one(scenario, words, until, base)
        except Exception as error:  # the other scenarios shall be run all the same
            print(f"{scenario.name!r} failed: {type(error).__name__}: {error}", flush=True)
            if words.raises or words.ranks > 1:
                raise
            continue
        if process_group.current().rank:
            continue
        results.append(result)
        write(out, words, about, results)
        print(table([result], {}), flush=True)


def write(
    out: Path, words: argparse.Namespace, about: dict[str, Any], results: list[dict[str, Any]]
) -> None:
    """JSON for programs, a table for people."""
    name = f"train-{words.device}-{words.size}-{'bf16' if words.bf16 else 'fp32'}"
    name += f"-{words.ranks}-ranks" if words.ranks > 1 else ""
    (out / f"{name}.json").write_text(json.dumps({**about, "results": results}, indent=1) + "\n")
    (out / f"{name}.md").write_text(table(results, about))


if __name__ == "__main__":
    main()
