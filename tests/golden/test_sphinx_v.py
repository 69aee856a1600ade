"""SPHINX-V: every public golden case, and that a changed number is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from omnimix.convert.verifying import verify
from tests.cases import case_path

CASE = "sphinx_v/ens5_vp"
STAGES = {"start", "prompts", "prompt features", "prompt tokens", "demo", "prompt", "ids"}
STAGES |= {"folder", "pixels", "features", "embeddings", "logits", "greedy ids", "text", "records"}
STAGES |= {"labels", "what learns", "groups", "loss", "gradients", "weights", "rates", "batches"}
STAGES |= {"quantized"}


def test_the_public_case_agrees() -> None:
    report = verify(case_path(CASE))
    assert report.failed is None, report.failed
    assert {line.stage for line in report.lines()} >= STAGES
    assert report.unread == []
    assert any("that is not copied" in note for note in report.notes)


def test_a_wrong_number_is_found(tmp_path: Path) -> None:
    """The first prompt's numbers, changed where they are asked for."""
    out = tmp_path / "case"
    shutil.copytree(case_path(CASE), out, copy_function=shutil.copyfile)
    path = out / "case.json"
    path.chmod(0o644)
    facts = json.loads(path.read_text())
    facts["results"]["sparse_vp"][0]["vps"][0][0] += 1
    path.write_text(json.dumps(facts))
    report = verify(out)
    assert report.failed is not None
    assert report.failed.stage == "prompts"
    assert report.failed.what == "vp.0.sparse"
