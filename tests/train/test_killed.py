"""kill -9 at any moment, in saves too: what is read and learned is that of a run that was never killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from omnimix.train.proof import combined
from tests.train.runs import Write, record, weights

TRIES = [
    {"world": 1, "workers": 0, "kill": ["take", 2]},
    {"world": 1, "workers": 3, "kill": ["sync", 7]},
    {"world": 2, "workers": 0, "kill": ["take", 2]},
    {"world": 1, "workers": 0, "kill": ["sync", 3]},
    {"world": 1, "workers": 2},
]


def ran(file: Path, out: Path, tries: list[dict[str, Any]]) -> list[list[str]]:
    """The hashes of every step's batches, the last time that they were read."""
    out.mkdir()
    (out / "plan.json").write_text(json.dumps(tries))
    script = Path(__file__).parent / "killed.py"
    words = [sys.executable, "-m", "tests.train.killed", str(file), str(out)]
    done = subprocess.run(
        words, cwd=script.parents[2], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (out / "read.jsonl").read_text().splitlines()]
    steps: dict[int, list[list[int]]] = {}
    for line in lines:
        last = max(one["try"] for one in lines if one["step"] == line["step"])
        whole = sum(one["try"] == last and one["step"] == line["step"] for one in lines)
        assert whole <= 2
        if line["try"] == last:
            steps.setdefault(line["step"], []).append(line["digests"])
    return [combined(steps[step]) for step in sorted(steps)]


def test_killed_at_any_moment_a_run_ends_as_one_that_was_not(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNIMIX_CACHE", str(tmp_path / "cache"))
    rows = [record(i).replace("What is at", "What " + "is " * (7 * i % 5) + "at") for i in range(9)]
    mixture = [
        {"data": {"kind": "rows", "path": "talks.jsonl", "stream": True, "shuffle_buffer": 4}}
    ]
    words = {"mixture": mixture, "max_steps": 7, "save_steps": 1, "batch_size": 4}
    # Ranks round differently, and Adam makes much of gradients that are next to nothing.
    words |= {"trainable": ["language"], "optimizer": {"eps": 1e-3}}
    words["packing"] = {"tokens": 180, "items": 4}
    file = write(rows, [{**words, "gradient_accumulation_steps": 2}])
    text = file.read_text().replace("attention_dropout=0.2", "attention_dropout=0.0")
    file.write_text(text)
    straight = ran(file, tmp_path / "straight", [{"world": 1, "workers": 0}])
    killed = ran(file, tmp_path / "killed", TRIES)
    assert len(straight) == 7 and len({one for step in straight for one in step}) == 14
    assert killed == straight
    one, other = weights(tmp_path / "straight" / "run"), weights(tmp_path / "killed" / "run")
    assert max(float((one[n] - other[n]).abs().max()) for n in one) < 1e-6
