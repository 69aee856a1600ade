"""The golden weight mix of SPHINX through `omnimix soup`: `mix.*` of the one-shard case."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from omnimix_golden.case import Case
from omnimix_golden.sphinx.case import SphinxCase
from omnimix_golden.sphinx.model import passed

from omnimix.convert.mixing import soup
from omnimix.convert.verifying import verify
from omnimix.errors import CheckpointError
from omnimix.generate import folder as folders
from tests.cases import golden

CASE = "sphinx/ens_1shard"


@pytest.mark.parametrize("name", ["0.5", "0.0_last"])
def test_the_mix_gives_the_logits_of_the_reference(name: str, tmp_path: Path) -> None:
    folder, facts, expected = golden(CASE)
    out = tmp_path / "mixed"
    weight = float(name.removesuffix("_last"))
    soup(folder / "checkpoint", folder / "inputs/mix_b", out, weight, partial=True)
    reading = SphinxCase(Case(folder))
    model, processor = folders.read(out, torch.device("cpu"))
    batch = processor.batch([processor.weave(reading.question(facts["results"]["conv"]))])
    rows = passed(model, batch)[2][0, -len(facts["results"]["conv"]["tokens"]) :]
    found = rows[-1] if name.endswith("_last") else rows
    tolerance = facts["tolerance_abs"]["logits"]
    torch.testing.assert_close(found, expected[f"mix.logits_beta{name}"], atol=tolerance, rtol=0.0)
    assert verify(out).passed
    certificate = json.loads((out / "certificate.json").read_text())
    norms = certificate["norms"]
    assert norms["image.branches.1.encoders.0"]["a_less_b"] == 0 < norms["language"]["a_less_b"]


def test_a_layer_alone_is_no_whole_model(tmp_path: Path) -> None:
    folder, _, _ = golden(CASE)
    with pytest.raises(CheckpointError):
        soup(folder / "checkpoint", folder / "inputs/mix_b", tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists()
