"""Batches of records of like length: little is padded, each record comes once, and rounds differ."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from omnimix.data.orders import like_length

LENGTHS = [(37 * i) % 211 for i in range(203)]


def padded(order: list[int], batch: int) -> int:
    """Places that padding takes."""
    parts = [order[i : i + batch] for i in range(0, len(order), batch)]
    return sum(max(LENGTHS[i] for i in part) - LENGTHS[j] for part in parts for j in part)


def test_little_is_padded() -> None:
    plain = like_length(LENGTHS, 8, 0, window=1)
    assert padded(like_length(LENGTHS, 8, 0), 8) < padded(plain, 8) / 8


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 99), min_size=1, max_size=60), st.integers(1, 9), st.integers(1, 4))
def test_each_record_comes_once_and_the_last_batch_is_the_short_one(
    lengths: list[int], batch: int, window: int
) -> None:
    order = like_length(lengths, batch, 3, 5, window)
    assert sorted(order) == list(range(len(lengths)))
    assert order == like_length(lengths, batch, 3, 5, window), "a pure function"


def test_rounds_and_seeds_differ_in_batches_and_their_order() -> None:
    first = like_length(LENGTHS, 8, 0)
    assert first != like_length(LENGTHS, 8, 1) and first != like_length(LENGTHS, 8, 0, seed=7)
    tops = [LENGTHS[first[i]] for i in range(0, 200, 8)]
    assert tops != sorted(tops, reverse=True), "long batches do not all come first"
