"""Tiny shipped recipes learn by every plan what they learn in one process."""

from __future__ import annotations

from pathlib import Path

from tests.train.matrix import PLANS, compared


def test_every_plan_learns_what_one_process_learns(tmp_path: Path) -> None:
    found = list(compared(tmp_path, ["sphinx_v", "multi_token_speech", "sphinx_v dpo"], 2))
    assert len(found) == 3 * len(PLANS)
    assert [one for one in found if one.loss > 1e-4 or one.weight > 1e-5] == []
