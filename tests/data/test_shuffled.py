"""The order of torch's distributed sampler: another one in every round, all records in each."""

from __future__ import annotations

from hypothesis import given, strategies as st

from omnimix.data.orders import shuffled


def test_every_round_has_an_order_of_its_own() -> None:
    rounds = [shuffled(50, epoch) for epoch in range(4)]
    assert len({tuple(order) for order in rounds}) == 4
    assert all(sorted(order) == list(range(50)) for order in rounds)
    assert shuffled(50, 1, seed=0) == shuffled(50, 0, seed=1), (
        "seed and round add up, as in torch's sampler"
    )


@given(st.integers(1, 40), st.integers(0, 5), st.integers(1, 4))
def test_the_ranks_share_one_round(count: int, epoch: int, world: int) -> None:
    dealt = [shuffled(count, epoch, rank=rank, world=world) for rank in range(world)]
    assert len({len(own) for own in dealt}) == 1
    assert {record for own in dealt for record in own} == set(range(count))
