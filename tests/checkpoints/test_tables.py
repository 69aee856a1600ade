"""Rename tables: every rule there and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from omnimix.checkpoints import tables
from omnimix.checkpoints.tables import (
    Change,
    Ignore,
    Positions,
    Rename,
    RenameTable,
    ResizedRows,
    Rule,
)


def numbers(*shape: int) -> Tensor:
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


ROUND: list[tuple[Rule, list[Tensor]]] = [
    (Rename("a.*", "b.*"), [numbers(2, 3)]),
    (Change("a", "b", lambda t: t.T, lambda t: t.T), [numbers(2, 3)]),
    (Positions("p", "q", (2, 2)), [numbers(1, 5, 3)]),
    (ResizedRows("e", "f", 3), [numbers(3, 2)]),
]


@pytest.mark.parametrize(("rule", "given"), ROUND, ids=lambda x: type(x).__name__)
def test_rules_come_back(rule: Rule, given: list[Tensor]) -> None:
    back = rule.write(rule.read(given))
    assert all(torch.equal(a, b) for a, b in zip(back, given, strict=True))
    meta = rule.read([tensor.to("meta") for tensor in given])
    assert [t.shape for t in meta] == [t.shape for t in rule.read(given)]


def test_positions_are_resampled_and_the_class_token_is_not() -> None:
    table = torch.cat([torch.full((1, 1, 2), 9.0), torch.ones(1, 16, 2)], dim=1).half()
    (found,) = Positions("p", "q", (3, 3)).read([table])
    assert found.shape == (1, 10, 2) and found.dtype == torch.half
    assert found[0, 0].tolist() == [9.0, 9.0]
    torch.testing.assert_close(found[:, 1:].float(), torch.ones(1, 9, 2))


def test_new_rows_are_drawn_alike_every_time() -> None:
    rule = ResizedRows("e", "f", 6, std=0.5, seed=3)
    (one,), (other,) = rule.read([numbers(4, 2)]), rule.read([numbers(4, 2)])
    assert torch.equal(one, other) and torch.equal(one[:4], numbers(4, 2))
    assert one[4:].abs().sum() > 0
    (short,) = ResizedRows("e", "f", 2).read([numbers(4, 2)])
    assert torch.equal(short, numbers(4, 2)[:2])


class Joined(Rename):
    """Two foreign tensors that make one of ours."""

    @property
    def foreign(self) -> tuple[str, ...]:
        return tuple(self.theirs.split("+"))


def test_plans_name_what_does_not_fit() -> None:
    table = RenameTable(Ignore("old.*", "retired"), Joined("a.*+b.*", "c.*"))
    plan = table.reading(["old.x", "a.1", "b.1", "a.2", "z"])
    assert plan.unused == {"old.x": "retired"}
    assert plan.unknown == ["z"]
    assert plan.missing == ["b.2"]
    assert [move.native for move in plan.moves] == [("c.1",)]


def test_the_first_rule_that_matches_counts() -> None:
    table = RenameTable(Rename("x.head.*", "head.*"), Rename("x.*", "body.*"))
    plan = table.reading(["x.head.w", "x.w"])
    assert {m.foreign[0]: m.native[0] for m in plan.moves} == {
        "x.head.w": "head.w",
        "x.w": "body.w",
    }


@settings(max_examples=50)
@given(st.text(st.characters(codec="ascii"), min_size=1), st.text(min_size=1, max_size=5))
def test_a_star_stands_for_the_same_on_both_sides(star: str, prefix: str) -> None:
    if "*" in star or "*" in prefix:
        return
    table = RenameTable(Rename(f"{prefix}*", "ours.*"))
    (move,) = table.reading([f"{prefix}{star}"]).moves
    assert move.native == (f"ours.{star}",)
    assert table.writing(move.native).moves[0].foreign == (f"{prefix}{star}",)


def test_unchanged_tensors_are_not_copied() -> None:
    tensor = numbers(2, 2)
    table = RenameTable(Rename("a", "b"))
    assert tables.read(table.reading(["a"]), {"a": tensor})["b"] is tensor
