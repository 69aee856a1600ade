"""Where a side's time and memory went, for goals that were missed: operators by kind, bytes by cause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.memory import Storages

GOALS = {"mixed": {"packed": 2.2, "warm": 5.0, "sharded": 2.2}, "like": {"packed": 1.0}}
"""Least useful tokens a second over Trainer's."""
OVER_TRL = 3.0
MEMORY = 0.7
"""Most memory, of Trainer's."""
WAITED = 0.02

KINDS = (
    ("between processes", ("c10d", "gloo", "nccl", "all_reduce", "reduce_scatter", "allgather")),
    ("loss", ("cross_entropy", "log_softmax", "nll_loss")),
    ("attention", ("attention", "flash", "softmax")),
    ("optimizer", ("adam", "_foreach", "clip", "norm_")),
    ("products", ("mm", "linear", "convolution", "dot", "einsum")),
    ("copies and casts", ("copy", "_to", "clone", "cat", "index", "gather", "fill", "zero", "empty")),
)  # fmt: skip
"""Kinds of operators by what their names hold; the first that fits."""


def weights(model: Any) -> int:
    """Bytes of a model in this process."""
    local = [getattr(t, "_local_tensor", t) for t in (*model.parameters(), *model.buffers())]
    return sum(t.nbytes for t in local)


def missed(result: dict[str, Any]) -> dict[str, str]:
    """Which side of a scenario missed which goal."""
    sides, found = result["sides"], {}
    kind = "like" if result["alike"] else "mixed"
    for side, goal in GOALS[kind].items():
        if side not in sides or (side == "packed" and result["learns"] == "connector"):
            continue
        own, said = sides[side], []
        ratio = own["over_trainer"]["whole"]
        if ratio < goal:
            said.append(f"{ratio:.2f} of Trainer's speed, the goal is {goal}")
        if kind == "mixed" and "trl" in sides:
            ratio *= 1 / sides["trl"]["over_trainer"]["whole"]
            if ratio < OVER_TRL:
                said.append(f"{ratio:.2f} of TRL's speed, the goal is {OVER_TRL}")
        if kind == "mixed" and "gigabytes" in own and "gigabytes" in sides["trainer"]:
            share = own["gigabytes"] / sides["trainer"]["gigabytes"]
            if share > MEMORY:
                said.append(f"{share:.2f} of Trainer's memory, the goal is {MEMORY}")
        if own.get("waited", 0) > WAITED:
            said.append(f"{own['waited']:.1%} of the time waiting, the goal is {WAITED:.0%}")
        if said:
            found[side] = "; ".join(said)
    return found


def concerned(result: dict[str, Any]) -> list[str]:
    """Sides that are looked into: those that missed a goal, and Trainer beside them."""
    found = list(missed(result))
    return [*found, "trainer"] if found else []


def kind_of(name: str) -> str:
    """The kind of an operator."""
    fits = (kind for kind, parts in KINDS if any(part in name.lower() for part in parts))
    return next(fits, "elementwise and others")


def profile(work: Callable[[], Any], side: Any, device: torch.device) -> dict[str, Any]:
    """Two steps under torch's profiler, and on a CPU two more whose storages are followed."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    word = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    with torch.profiler.profile(activities=activities) as seen:
        taken = work()
    seconds: dict[str, float] = {}
    for event in seen.key_averages():
        kind = kind_of(event.key)
        seconds[kind] = seconds.get(kind, 0.0) + getattr(event, word) / 1e6
    found: dict[str, Any] = {"seconds": dict(sorted(seconds.items(), key=lambda one: -one[1]))}
    found["seconds of the steps"] = sum(taken.seconds)
    own: dict[str, float] = {"weights": weights(side.model)}
    own |= {"gradients": taken.learned, "optimizer": 2 * taken.learned}
    if device.type == "cpu":
        with Storages() as held:
            work()
        own["activations and logits"] = max(0, held.peak - 3 * taken.learned)
    elif taken.memory:
        own["activations and logits"] = max(0, taken.memory - sum(own.values()))
    found["gigabytes"] = {cause: value / 2**30 for cause, value in own.items()}
    return found


def told(result: dict[str, Any]) -> list[str]:
    """Lines of a table's end: what was missed, and why."""
    lines = [f"{result['name']}: {side} has {said}." for side, said in missed(result).items()]
    for side, found in result.get("profile", {}).items():
        for unit in ("seconds", "gigabytes"):
            parts = ", ".join(f"{name} {value:.2f}" for name, value in found[unit].items())
            lines.append(f"- {side}, {unit}: {parts}")
        if side != "trainer":
            theirs = result["profile"]["trainer"]["seconds"]["products"]
            ratio = theirs / found["seconds"]["products"]
            lines.append(f"- {side}: {ratio:.2f} of Trainer's speed, were there products alone")
    return lines
