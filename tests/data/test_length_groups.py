"""The length-grouped order against the reference's own lists."""

from __future__ import annotations

import json
from typing import Any

import pytest

from omnimix.data.length_groups import LengthGroups, grouped, of_rank
from tests.cases import case_path


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    path = case_path("xgen_mm/data_mixing/case.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_rounds_of_every_rank(facts: dict[str, Any]) -> None:
    lengths = facts["modality_lengths"]
    for setting in facts["grouped_sampler"]:
        batch, world = setting["batch_size"], setting["world_size"]
        accumulate = setting["gradient_accumulation_steps"]
        seen: set[int] = set()
        for rank in setting["ranks"]:
            number, seed = rank["rank"], rank["global_seed_before"] - rank["rank"]
            inner = LengthGroups(lengths, batch, world * accumulate, seed + number).round()
            assert inner == rank["inner_order"]
            for epoch, name in enumerate(("epoch0", "epoch1_without_reseeding")):
                found = grouped(lengths, batch, epoch, seed, number, world, accumulate)
                assert found == rank[name]
                seen |= set(found) if epoch == 0 else set()
        assert len(seen) == setting["distinct_samples_seen_by_all_ranks_in_epoch0"]


@pytest.mark.parametrize("kind", ["all_image", "all_text"])
def test_a_single_modality(kind: str, facts: dict[str, Any]) -> None:
    (setting,) = (s for s in facts["one_modality"] if s["kind"] == kind)
    sign = 1 if kind == "all_image" else -1
    lengths = [sign * abs(length) for length in facts["modality_lengths"]]
    groups = LengthGroups(lengths, setting["batch_size"], setting["world_size"])
    assert groups.round() == setting["epoch0"]
    assert groups.round() == setting["epoch1"]


def test_without_modalities(facts: dict[str, Any]) -> None:
    setting = facts["length_grouped_no_modality"]
    groups = LengthGroups(facts["lengths"], setting["batch_size"], setting["world_size"])
    assert groups.round() == setting["epoch0"]
    assert groups.round() == setting["epoch1"]


def test_ranks_share_a_filled_order() -> None:
    assert [of_rank([5, 6, 7], rank, 2) for rank in (0, 1)] == [[5, 7], [6, 5]]
    assert of_rank([5], 2, 3) == [5]
