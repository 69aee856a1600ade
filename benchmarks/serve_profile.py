"""Where the time goes: over each engine, by part, and in torch at many clients, by kind of operator.

A step that reads any piece of a prompt counts as reading, whoever writes in it; others are writing alone.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.serve_work import Work
from omnimix.cli.tables import markdown
from omnimix.generate.engine.core import Core
from omnimix.generate.engine.runners import Runner
from omnimix.serve.batched import limits

GROUPS = {
    "products of matrices": ("aten::addmm", "aten::mm", "aten::bmm", "aten::linear", "mkl"),
    "attention": ("aten::_scaled_dot_product", "aten::scaled_dot_product", "aten::_flash"),
    "sampling": ("aten::argmax", "aten::amax", "aten::isfinite", "aten::stack"),
    "copies": ("aten::copy_", "aten::cat", "aten::index", "aten::clone", "aten::empty"),
}
"""Beginnings of operators' names; others are `norms, activations, positions`."""
STEPS = 12
"""Steps of writing that are profiled: they are alike."""


class Watched:
    """A runner whose steps are timed, by whether any prompt is read in them."""

    def __init__(self, run: Runner) -> None:
        self._run = run
        self.seconds = {"reading": 0.0, "writing": 0.0}
        self.steps = {"reading": 0, "writing": 0}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def run(self, texts: Sequence[Any], embeddings: Sequence[Tensor]) -> Tensor:
        kind = "reading" if any(len(one) > 1 for one in embeddings) else "writing"
        begin = time.perf_counter()
        logits = self._run.run(texts, embeddings)
        self.seconds[kind] += time.perf_counter() - begin
        self.steps[kind] += 1
        return logits


def parts(
    given: Work, runners: Mapping[str, Runner], held: Mapping[str, int], counts: Sequence[int]
) -> str:
    """A table in Markdown: seconds of each engine's answers, by part, and what weights alone would take.

    Args:
        held: bytes of the weights that each engine reads for a step.
    """
    speed = bandwidth()
    rows = []
    for name, run in runners.items():
        for count in counts:
            by_parts(given, run, count)
            seen, whole, encoders = by_parts(given, run, count)
            inside = sum(seen.seconds.values())
            step = seen.seconds["writing"] / max(seen.steps["writing"], 1)
            rows.append(
                (
                    name, count, f"{whole:.2f}", f"{encoders:.2f}",
                    f"{seen.seconds['reading']:.2f}", f"{seen.seconds['writing']:.2f}",
                    f"{whole - inside - encoders:.2f}", f"{1e3 * step:.1f}",
                    f"{1e3 * held[name] / speed:.1f}",
                )
            )  # fmt: skip
    titles = (
        "engine", "clients", "seconds", "of these encoders", "prompts read", "tokens written",
        "all else", "ms of a step that writes", "ms to read its weights",
    )  # fmt: skip
    said = f"This machine reads {speed / 1e9:.1f} GB a second from memory with all its threads."
    return "\n".join([said, "", *markdown(titles, rows)]) + "\n"


def by_parts(given: Work, run: Runner, count: int) -> tuple[Watched, float, float]:
    """The steps of some answers, their seconds, and of these the encoders'."""
    seen = Watched(run)
    core = Core(given.assistant.model, limits(), seen)
    encoded, begin = _timed(core.items, "embeddings"), time.perf_counter()
    core.run(given.requests(count))
    return seen, time.perf_counter() - begin, encoded[0]


def _timed(held: Any, name: str) -> list[float]:
    """Seconds that an object's method takes from now on."""
    work: Callable[..., Any] = getattr(held, name)
    took = [0.0]

    def timed(*words: Any) -> Any:
        begin = time.perf_counter()
        found = work(*words)
        took[0] += time.perf_counter() - begin
        return found

    setattr(held, name, timed)
    return took


def bandwidth(size: int = 2**29) -> float:
    """Bytes a second that this machine reads from memory."""
    table = torch.ones(size // 4)
    took = []
    for _ in range(5):
        begin = time.perf_counter()
        table.sum()
        took.append(time.perf_counter() - begin)
    return size / min(took)


def told(given: Work, count: int, alone: float | None = None) -> str:
    """A table in Markdown: a run without the profiler, then shares with it.

    Args:
        alone: seconds of one answer by `generate`.
    """
    took = _steps(given, count, given.options.max_new_tokens + 1)
    rows = [
        f"{count} clients, torch, one run:",
        "",
        "| steps | number | seconds |",
        "|---|---|---|",
    ]
    for kind in ("reading", "writing"):
        own = [seconds for one, seconds in took if one == kind]
        rows.append(f"| {kind} | {len(own)} | {sum(own):.2f} |")
    reads = sum(seconds for one, seconds in took if one == "reading")
    if alone is not None:
        bound = f"{count * alone / reads:.1f} times one at a time"
        rows += ["", f"Were writing free, and prompts read as they are, this would be {bound}."]
    rows += ["", "| share of the time, profiled | " + " | ".join(("reading", "writing")) + " |"]
    rows.append("|---|---|---|")
    shares = _profiled(given, count)
    names = sorted(shares["writing"], key=lambda name: -shares["writing"][name])
    for name in names:
        cells = (f"{100 * shares[kind].get(name, 0):.0f} %" for kind in ("reading", "writing"))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _core(given: Work, count: int) -> Core:
    core = Core(given.assistant.model, limits(), given.assistant.decoder.runner)
    for one in given.requests(count):
        core.add(one)
    return core


def _step(core: Core) -> str:
    before = sum(not one.writes for one in core._running) + core.waiting
    core.step()
    return "reading" if before else "writing"


def _steps(given: Work, count: int, most: int) -> list[tuple[str, float]]:
    """What each step was, and its seconds."""
    core, found = _core(given, count), []
    while (core.waiting or core.running) and len(found) < 2 * most:
        begin = time.perf_counter()
        found.append((_step(core), time.perf_counter() - begin))
    return found


def _profiled(given: Work, count: int) -> dict[str, dict[str, float]]:
    core = _core(given, count)
    times: dict[str, dict[str, float]] = {
        "reading": defaultdict(float),
        "writing": defaultdict(float),
    }
    wrote = 0
    while (core.waiting or core.running) and wrote < STEPS:
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            begin = time.perf_counter()
            kind = _step(core)
            seconds = time.perf_counter() - begin
        wrote += kind == "writing"
        own = times[kind]
        known = 0.0
        for event in seen.key_averages():
            spent = event.self_cpu_time_total / 1e6
            own[_group(event)] += spent
            known += spent
        own["Python and the rest"] += max(0.0, seconds - known)
    for own in times.values():
        whole = sum(own.values()) or 1.0
        for name in own:
            own[name] /= whole
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return times


def _group(event: Any) -> str:
    for name, begins in GROUPS.items():
        if event.key.startswith(begins):
            return name
    return "norms, activations, positions"
