"""Best-fit packing: every record once, no budget exceeded, the same for the same seed."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings, strategies as st

from omnimix.data.packing import Size, alike, best_fit, packed

SIZES = st.lists(st.builds(Size, st.integers(1, 60), st.integers(0, 4)), max_size=80)


@settings(max_examples=150, deadline=None)
@given(SIZES, st.integers(60, 90), st.sampled_from([None, 4, 6]))
def test_every_record_once_and_no_row_over_its_budget(
    sizes: list[Size], tokens: int, items: int | None
) -> None:
    rows = best_fit(sizes, tokens, items)
    assert Counter(place for row in rows for place in row) == Counter(range(len(sizes)))
    for row in rows:
        assert sum(sizes[i].tokens for i in row) <= tokens
        assert items is None or sum(sizes[i].items for i in row) <= items
    assert rows == best_fit(sizes, tokens, items)


@settings(max_examples=80, deadline=None)
@given(SIZES, st.integers(60, 90))
def test_no_two_rows_would_fit_into_one(sizes: list[Size], tokens: int) -> None:
    sums = sorted(sum(sizes[i].tokens for i in row) for row in best_fit(sizes, tokens))
    assert len(sums) < 2 or sums[0] + sums[1] > tokens


def test_a_long_record_takes_the_short_ones_that_fill_its_row() -> None:
    rows = best_fit([Size(n, 0) for n in (5, 60, 40, 95, 35)], 100)
    assert sorted(map(sorted, rows)) == [[0, 3], [1, 2], [4]]


def test_a_window_is_mixed_by_its_number_and_the_seed() -> None:
    sizes = [Size(10 + i % 50, 1) for i in range(60)]
    one = packed(sizes, 100, None, seed=3, window=0)
    assert one == packed(sizes, 100, None, seed=3, window=0)
    assert one != packed(sizes, 100, None, seed=3, window=1)
    assert sorted(one) == sorted(packed(sizes, 100, None, seed=4, window=0))
    assert all(row == sorted(row) for row in one)


@settings(max_examples=80, deadline=None)
@given(SIZES, st.integers(1, 7), st.integers(0, 3))
def test_batches_of_like_length(sizes: list[Size], batch: int, seed: int) -> None:
    places = [row[0] for row in alike(sizes, batch, seed, 0)]
    assert sorted(places) == list(range(len(sizes)))
    batches = [places[i : i + batch] for i in range(0, len(places), batch)]
    ends = sorted((sizes[b[0]].tokens, sizes[b[-1]].tokens) for b in batches)
    assert all(low <= high for low, (_, high) in zip((e[0] for e in ends), ends[1:], strict=False))
