"""Lines of metrics."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from omnimix.train.meter import resident


def test_a_run_does_not_count_the_memory_of_what_started_it() -> None:
    held = np.ones(3 * 2**30, dtype=np.uint8)  # far more than importing takes
    words = [sys.executable, "-c", "from omnimix.train.meter import resident; print(resident())"]
    told = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert 0 < told < held.nbytes < resident()
