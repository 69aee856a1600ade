"""SPHINX's records: what is read, what is refused, in which order ranks read them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from omnimix.data import orders
from omnimix.data.ordered import Rounds
from omnimix.errors import RecipeError, SampleError, TrainError
from omnimix.families.sphinx.records import SphinxRecords, SphinxSource


def record(text: str, answer: Any = "yes", **words: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
    return {"conversations": turns, **words}


def opened(folder: Path, records: list[Any], **words: Any) -> SphinxSource:
    (folder / "chat.json").write_text(json.dumps(records), encoding="utf-8")
    row = {"path": "chat.json", "type": "text", **words}
    (folder / "list.yaml").write_text(json.dumps({"META": [row]}), encoding="utf-8")
    source = SphinxRecords(path="list.yaml").open(folder)
    assert isinstance(source, SphinxSource)
    return source


def test_marks_go(tmp_path: Path) -> None:
    source = opened(
        tmp_path, [record("\n<image>  How many? ", "3", image="a/b.png")], root="pictures"
    )
    question, answer = source[0].turns
    assert (question.text(), answer.text()) == ("How many?", "3")
    (media,) = source[0].media()
    assert media.data == str(tmp_path / "pictures/a/b.png") and len(question.content) == 2


def test_records_of_a_type_are_sorted_by_their_text(tmp_path: Path) -> None:
    source = opened(tmp_path, [record("x" * n) for n in (5, 1, 3, 1)])
    assert [len(source[i].turns[0].text()) for i in range(4)] == [1, 1, 3, 5]
    # Equal ones stay in the order of the file.
    assert [source.records[i]["place"] for i in (0, 1)] == [
        "chat.json record 2",
        "chat.json record 4",
    ]


def test_a_share_is_drawn_with_seed_0(tmp_path: Path) -> None:
    records = [record(f"{i:03}") for i in range(100)]
    source = opened(tmp_path, records, ratio=0.255)
    wanted = sorted(random.Random(0).sample(range(100), 25))
    assert sorted(int(source[i].turns[0].text()) for i in range(source.length or 0)) == wanted


@pytest.mark.parametrize(
    ("records", "words", "message"),
    [
        ({"a": 1}, {}, "holds no list of records"),
        ([record("x")], {"ratio": 2.5}, "ratio 2.5 asks for more records than the 1"),
        ([record("x")], {"path": "nowhere.json"}, "cannot read the file"),
    ],
)
def test_files_that_are_no_records(
    records: list[Any], words: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SampleError, match=message):
        opened(tmp_path, records, **words)


def test_records_that_cannot_be_used(tmp_path: Path) -> None:
    stranger = {"conversations": [{"from": "bot", "value": "hi"}]}
    source = opened(tmp_path, [stranger, record("x" * 9, image="../secret.png")])
    with pytest.raises(SampleError, match="turn 1 is from 'bot'"):
        source[0]
    with pytest.raises(SampleError, match=r"'../secret.png' leads upwards"):
        source[1]


def test_a_record_that_cannot_be_read_is_named_alone(tmp_path: Path) -> None:
    bad: list[tuple[Any, str]] = [
        ({"image": "a.png"}, "not a record of conversations"),
        ("text", "not a record of conversations"),
        (record("x", None), "turn 2 is null, not text"),
        (record("x", ["y"]), "turn 2 is a list, not text"),
        (record("x", image=["a.png"]), "A record has one picture"),
        (record("x", images=["a.png"]), "does not read the key 'images'"),
        (record("<video>x"), "the mark <video> stands for an item"),
        (record("x", image="/etc/hosts"), "lies outside"),
    ]
    source = opened(tmp_path, [record("fine", image=""), *(row for row, _ in bad)])
    read = {}
    for index in range(source.length or 0):
        place = source.records[index]["place"]
        try:
            read[place] = source[index].media()
        except SampleError as error:
            read[place] = error.sentence()
    assert read.pop("chat.json record 1") == []
    for number, (_, said) in enumerate(bad, 2):
        assert said in read[f"chat.json record {number}"]
        assert f"record {number}" in read[f"chat.json record {number}"]


def test_lists_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("META: []", encoding="utf-8")
    with pytest.raises(SampleError, match="the list names no files"):
        SphinxSource(tmp_path / "list.yaml")
    (tmp_path / "list.yaml").write_text("META: [{path: a, typ: b}]", encoding="utf-8")
    with pytest.raises(RecipeError, match="unknown word 'typ'"):
        SphinxSource(tmp_path / "list.yaml")


def test_steps_are_of_one_kind_and_every_rank_has_its_share() -> None:
    kinds = ["a"] * 11 + ["b"] * 13
    ranks = [
        orders.by_kind(kinds, 1, 3, seed=5, rank=rank, world=2, accumulate=2) for rank in (0, 1)
    ]
    assert len(ranks[0]) == len(ranks[1]) == 10
    for at in range(0, 10, 2):
        step = sorted(ranks[0][at : at + 2] + ranks[1][at : at + 2])
        assert step == list(range(step[0], step[0] + 4))
        assert len({kinds[i] for i in step}) == 1
    assert not {8, 9, 10, 23} & {*ranks[0], *ranks[1]}  # what fills no step
    with pytest.raises(TrainError, match="no kind of record fills a step of 32"):
        orders.by_kind(kinds, 32, 0)


def test_a_stage_reads_in_that_order(tmp_path: Path) -> None:
    source = opened(tmp_path, [record(f"{i:02}") for i in range(9)])
    rounds = Rounds(source, "by_kind", batch=4, accumulate=2, epochs=2)
    assert rounds.steps == 4
    flat = [i for part in rounds.parts for i in part]
    assert sorted(flat) == sorted([*range(8), *range(8)])
