"""Records for small runs, and how runs are compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

Write = Callable[..., Path]
MEASURED = ("stage", "step", "steps", "loss", "lr", "grad_norm", "samples", "targets", "trainable")


def record(i: int) -> str:
    asked = [{"image": "a.png"}, "What is at ", {"point": [i, i]}, "?"]
    answer = ["red", "blue", "green"][i % 3]
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": [answer]}]
    return json.dumps({"id": str(i), "turns": turns})


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{word: line[word] for word in MEASURED} for line in lines if "loss" in line]


def looks(folder: Path) -> list[dict[str, Any]]:
    """The lines of validation."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "validation" in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def same_weights(one: Path, other: Path) -> None:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
