"""Finite datasets in rounds: orders, parts of steps, and the records of LLaVA that they read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from omnimix.data import orders
from omnimix.data.llava import LlavaRecords
from omnimix.data.ordered import Rounds
from omnimix.data.sources import Source
from omnimix.errors import SampleError, TrainError
from omnimix.types import Media, Sample


class Fake(Source):
    """A dataset of nothing but extents."""

    def __init__(self, extents: list[tuple[bool, int]]) -> None:
        self.extents = extents
        self.length = len(extents)

    def __getitem__(self, index: int) -> Sample:
        raise AssertionError("orders do not open records")

    def extent(self, index: int) -> tuple[bool, int]:
        return self.extents[index]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 500)), min_size=1, max_size=60),
    st.sampled_from([(4, 1), (4, 2), (8, 4)]),
    st.integers(0, 3),
)
def test_batches_are_of_one_kind_and_nobody_is_left_out(
    extents: list[tuple[bool, int]], shape: tuple[int, int], epoch: int
) -> None:
    batch, world = shape
    pictures, words = [p for p, _ in extents], [w for _, w in extents]
    try:
        ranks = [
            orders.by_modality(pictures, words, batch, epoch, 7, r, world) for r in range(world)
        ]
    except TrainError:
        sizes = [sum(pictures), len(pictures) - sum(pictures)]
        assert sizes[0] == 0 or any(0 < 2 * size < batch for size in sizes)
        return
    assert len({len(rank) for rank in ranks}) == 1
    share = batch // world
    seen: Counter[int] = Counter()
    for start in range(0, len(ranks[0]), share):
        rows = [i for rank in ranks for i in rank[start : start + share]]
        assert len({pictures[i] for i in rows}) == 1
        seen.update(rows)
    assert set(seen) == set(range(len(extents)))
    longest = max(range(len(extents)), key=lambda i: words[i] + orders.PICTURE * pictures[i])
    top = words[longest] + orders.PICTURE * pictures[longest]
    first = [i for rank in ranks for i in rank[:share]]
    assert max(words[i] + orders.PICTURE * pictures[i] for i in first) == top


def test_a_batch_that_cannot_be_dealt() -> None:
    with pytest.raises(TrainError, match="a batch of 6 cannot be dealt to 4 ranks"):
        orders.by_modality([True] * 8, [1] * 8, 6, 0, world=4)
    with pytest.raises(TrainError, match="no record has a picture"):
        orders.by_modality([False] * 8, [1] * 8, 4, 0)


def test_parts_that_make_no_whole_step_are_left_out() -> None:
    rounds = Rounds(Fake([(True, 1)] * 7), "shuffled", 4, 2, epochs=2, seed=1)
    assert [len(part) for part in rounds.parts] == [2, 2, 2, 1, 2, 2, 2, 1]
    assert (rounds.steps, rounds.horizon) == (4, 4)
    short = Rounds(Fake([(True, 1)] * 5), "shuffled", 4, 2, epochs=1)
    assert (short.steps, short.horizon) == (1, 2)
    assert Rounds(Fake([(True, 1)] * 7), "shuffled", 4, 1, steps=5).steps == 5


def test_a_filled_round_runs_past_its_horizon() -> None:
    extents = [(True, 3)] * 5 + [(False, 2)] * 5
    rounds = Rounds(Fake(extents), "by_modality", 4, epochs=1)
    assert (rounds.horizon, rounds.steps) == (3, 4)


def test_rounds_need_an_end_and_a_whole_step() -> None:
    endless = Fake([(True, 1)])
    endless.length = None
    with pytest.raises(TrainError, match="the dataset has no end"):
        Rounds(endless, "shuffled", 4, epochs=1)
    with pytest.raises(TrainError, match="make no whole step"):
        Rounds(Fake([(True, 1)]), "shuffled", 4, 2, epochs=1)


def written(folder: Path, *records: Any) -> Path:
    (folder / "talks.json").write_text(json.dumps(list(records)))
    return folder


def talk(*texts: str, **words: Any) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"conversations": turns, **words}


def test_marks_become_pictures_where_they_stand(tmp_path: Path) -> None:
    record = talk("A <image>\nB", "yes", "and <image>?", "no", image=["a.png", "b.png"], id=7)
    sample = LlavaRecords(path="talks.json").open(written(tmp_path, record))[0]
    assert sample.id == "7" and [turn.role for turn in sample.turns] == ["user", "assistant"] * 2
    first, third = sample.turns[0].content, sample.turns[2].content
    assert first[0] == "A " and isinstance(first[1], Media) and first[2] == "\nB"
    assert isinstance(third[1], Media) and third[1].data.endswith("b.png")


def test_loose_marks(tmp_path: Path) -> None:
    records = [talk("no mark", "yes", image="a.png"), talk("<image> none <image>", "a <image>")]
    folder = written(tmp_path, *records)
    loose = LlavaRecords(path="talks.json", marks="loose").open(folder)
    assert isinstance(loose[0].turns[0].content[0], Media)
    assert loose[1].turns[0].content == (" none ",) and loose[1].turns[1].text() == "a "
    assert [loose.extent(i) for i in range(2)] == [(True, 3), (False, 5)]
    strict = LlavaRecords(path="talks.json").open(folder)
    with pytest.raises(SampleError, match=r"talks\.json: record 1: 0 marks <image> for 1 pictures"):
        strict[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("{}", "holds no list of records"),
        ("[]", "holds no list of records"),
        ('[{"conversations": [{"from": "human"}]}]', "not a record in the form of LLaVA"),
        ('[{"image": "../x.png", "conversations": []}]', "lies outside"),
        ('[{"conversations": [{"from": "robot", "value": "x"}]}]', "unknown role 'robot'"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "talks.json").write_text(text)
    with pytest.raises(SampleError, match=said):
        LlavaRecords(path="talks.json").open(tmp_path)[0]


def test_what_makes_no_whole_step_is_kept_apart() -> None:
    rounds = Rounds(Fake([(False, 1)] * 5), "shuffled", batch=4, accumulate=2, epochs=2)
    assert [len(rows) for rows in rounds.parts] == [2] * 4
    assert {at: [len(rows) for rows in left] for at, left in rounds.left.items()} == {
        2: [1],
        4: [1],
    }
