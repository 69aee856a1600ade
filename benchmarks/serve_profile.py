"""Where the time of many clients goes, by torch's profiler: steps that read prompts and steps that only write."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.serve_work import Work
from omnimix.generate.engine.core import Core
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
