"""A training file over a few records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from omnimix import config
from tests.conftest import TINY
from tests.train.runs import Write, record


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a training file over a few records, with words laid over it."""
    Image.effect_noise((48, 32), 90).convert("RGB").save(tmp_path / "a.png")

    def file(lines: list[str] | None = None, stages: list[dict[str, Any]] | None = None) -> Path:
        (tmp_path / "talks.jsonl").write_text("\n".join(lines or [record(i) for i in range(5)]))
        plain = {
            "mixture": [{"data": {"kind": "jsonl", "path": "talks.jsonl"}}],
            "batch_size": 2,
            "max_steps": 6,
            "logging_steps": 1,
            "bf16": False,
            "schedule": {"warmup_steps": 2},
        }
        words = {
            "name": "test",
            "recipe": "nano",
            "set": [*TINY, "language.config.attention_dropout=0.2"],
            "num_workers": 0,
            "output_dir": "run",
            "stages": [{**plain, **stage} for stage in stages or [{}]],
        }
        path = tmp_path / "test.train.yaml"
        path.write_text(config.to_yaml(words))
        return path

    return file
