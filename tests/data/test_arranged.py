"""Batches arranged by what records take: a pure function of the state, for any number of ranks and any way there."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from omnimix import cache
from omnimix.compose.processor import Processor
from omnimix.data import arranged, lengths
from omnimix.data.arranged import ArrangedBatches, Shuffled
from omnimix.data.lengths import LengthMeasure
from omnimix.data.mixture import Mixture, MixturePart, loader
from omnimix.data.packing import PackingSpec
from omnimix.data.rows import RowSource, RowsSpec, read_rows
from omnimix.data.streams import StreamReader
from omnimix.errors import SampleError

ROWS = 23


def row(i: int, words: int | None = None) -> dict[str, Any]:
    said = "word " * (3 * i % 11 if words is None else words)
    turns = [
        {
            "role": "user",
            "content": [*([{"image": "a.png"}] if i % 3 == 0 else []), f"Q{i} {said}"],
        },
        {"role": "assistant", "content": ["yes"]},
    ]
    return {"id": str(i), "turns": turns}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("rows")
    Image.effect_noise((48, 32), 90).convert("RGB").save(place / "a.png")
    (place / "rows.jsonl").write_text("\n".join(json.dumps(row(i)) for i in range(ROWS)))
    (place / "more").mkdir()
    for k in range(3):
        part = [json.dumps(row(i)) for i in range(ROWS) if i % 3 == k]
        (place / "more" / f"{k}.jsonl").write_text("\n".join(part))
    return place


@pytest.fixture(scope="module", autouse=True)
def small_windows() -> Iterator[None]:
    """So that a few batches cross several of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arranged, "WINDOW", 10)
        yield


def batches(
    folder: Path, processor: Processor, data: dict[str, Any], count: int = 8, **words: Any
) -> ArrangedBatches:
    parts = (MixturePart(data={"kind": "rows", "media": str(folder), **data}),)
    mixture = Mixture(parts, folder, words.pop("seed", 0))
    packing = words.pop("packing", None)
    sized: list[Any] = [None]
    if (packing or words.get("alike")) and mixture.sources[0].length is not None:
        sized = [lengths.index(mixture.sources[0], LengthMeasure(processor.weave, None), None)]
    first = words.pop("first", 0)
    return ArrangedBatches(
        mixture,
        processor,
        2,
        first,
        count,
        packing is not None,
        lengths=sized,
        packing=packing,
        **words,
    )


def ids(made: ArrangedBatches) -> list[list[str]]:
    return [sorted(made[work][0].ids) if work.rows else [] for work in made.order()]  # type: ignore[union-attr]


FORMS = [
    ({"path": "rows.jsonl"}, {"packing": PackingSpec(tokens=150, items=2)}),
    ({"path": "rows.jsonl"}, {"alike": 2}),
    ({"path": "more/*.jsonl", "stream": True, "shuffle_buffer": 5}, {}),
    ({"path": "more", "stream": True, "shuffle_buffer": 5}, {"packing": PackingSpec(tokens=150)}),
    ({"path": "more", "stream": True, "shuffle_buffer": 0}, {"alike": 2}),
]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(FORMS), st.integers(0, 7), st.integers(1, 2))
def test_any_state_goes_on_with_the_same_batches_for_any_number_of_ranks(
    folder: Path, tiny_processor: Processor, form: Any, at: int, world: int
) -> None:
    data, words = form
    whole = batches(folder, tiny_processor, data, **words)
    works = list(whole.order())
    begin = json.loads(json.dumps(whole.marks[at]))
    left: list[Counter[str]] = [Counter() for _ in works[at:]]
    for rank in range(world):
        share = batches(
            folder,
            tiny_processor,
            data,
            8 - at,
            **words,
            first=at,
            begin=begin,
            share=(rank, world),
        )
        for n, work in enumerate(share.order()):
            for k, entries in work.rows:
                for entry in entries:
                    left[n][f"{work.n}/{k}/{entry}"] += 1
    straight = [
        Counter(f"{work.n}/{k}/{entry}" for k, entries in work.rows for entry in entries)
        for work in works[at:]
    ]
    assert left == straight


@pytest.mark.parametrize(("data", "words"), FORMS)
def test_workers_change_nothing(
    folder: Path, tiny_processor: Processor, data: dict[str, Any], words: dict[str, Any]
) -> None:
    read = [
        [batch.digest for batch, _ in loader(batches(folder, tiny_processor, data, 4, **words), n)]  # type: ignore[union-attr]
        for n in (0, 2)
    ]
    assert read[0] == read[1] and len(set(read[0])) == 4


def test_digests_of_ranks_add_up(folder: Path, tiny_processor: Processor) -> None:
    def digests(rank: int, world: int) -> list[int]:
        made = batches(
            folder, tiny_processor, *(FORMS[0][0], 4), **FORMS[0][1], share=(rank, world)
        )
        return [batch.digest for batch, _ in loader(made, 0)]  # type: ignore[union-attr]

    both = [(a + b) % 2**128 for a, b in zip(digests(0, 2), digests(1, 2), strict=True)]
    assert both == digests(0, 1)


@pytest.mark.parametrize("form", FORMS[2:])
def test_a_stream_gives_every_row_once_a_round(
    folder: Path, tiny_processor: Processor, form: Any
) -> None:
    data, words = form
    made = batches(folder, tiny_processor, data, 60, **words)
    made.window = 2 * ROWS
    seen = [entry for work in made.order() for _, entries in work.rows for entry in entries]
    by_place = sorted(seen)
    rounds = [tuple(entry.record) for entry in by_place]
    assert len(set(rounds[:ROWS])) == ROWS and set(rounds[:ROWS]) == set(rounds[ROWS : 2 * ROWS])
    if data["shuffle_buffer"]:
        assert rounds[:ROWS] != rounds[ROWS : 2 * ROWS] != sorted(rounds[ROWS : 2 * ROWS])
    else:
        assert rounds[:ROWS] == sorted(rounds[:ROWS])


def test_tokens_of_a_row_never_exceed_the_budget(folder: Path, tiny_processor: Processor) -> None:
    made = batches(folder, tiny_processor, *(FORMS[0][0], 10), **FORMS[0][1])
    widths = [batch.input_ids.shape[1] for batch, _ in loader(made, 0)]  # type: ignore[union-attr]
    assert max(widths) <= 2 * 150
    assert sum(widths) / len(widths) > 180, "rows are nearly full"


def test_a_record_longer_than_the_budget_is_left_out_and_named(
    tmp_path: Path, folder: Path, tiny_processor: Processor
) -> None:
    rows = [json.dumps(row(i, 300 if i == 4 else 1)) for i in range(1, 9) if i % 3]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    data = {"path": str(tmp_path / "rows.jsonl")}
    made = batches(folder, tiny_processor, data, 2, packing=PackingSpec(tokens=60))
    dropped = [said for _, left in loader(made, 0) for said in left]
    assert dropped and all("rows.jsonl: line 3" in said for said in dropped)
    assert "more than the 60 of a row (packing.tokens)" in dropped[0]
    with pytest.raises(SampleError, match=r"none of \d+ records fits"):
        list(batches(folder, tiny_processor, data, 2, packing=PackingSpec(tokens=3)).order())


def test_rounds_are_packed_to_their_end(folder: Path, tiny_processor: Processor) -> None:
    sources = [RowsSpec(path="rows.jsonl", media=str(folder)).open(folder)]
    sized = [lengths.index(sources[0], LengthMeasure(tiny_processor.weave, None), None)]
    made = ArrangedBatches(
        Shuffled(sources, 1), tiny_processor, 2, 0, 0, True, total=2 * ROWS,
        packing=PackingSpec(tokens=150), lengths=sized,
    )  # fmt: skip
    made.count = made.steps(1, drop_last=False)
    seen = Counter(e.record for work in made.order() for _, row in work.rows for e in row)
    assert seen == Counter({i: 2 for i in range(ROWS)})
    assert made.count - 1 <= made.steps(1, drop_last=True) <= made.count


def test_lengths_are_those_of_weaving_and_are_kept(
    folder: Path, tiny_processor: Processor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.MOVED, str(tmp_path))
    source = RowsSpec(path="rows.jsonl", media=str(folder)).open(folder)
    measure = LengthMeasure(tiny_processor.weave, None)
    key = lengths.key_of("words", source, tiny_processor.weave, None)
    found = lengths.index(source, measure, key)
    woven = [tiny_processor.weave(source[i]) for i in range(ROWS)]
    assert found[:, 0].tolist() == [len(one) for one in woven]
    assert found[:, 1].tolist() == [int(i % 3 == 0) for i in range(ROWS)]
    monkeypatch.setattr(lengths, "_measured", None)
    assert lengths.index(source, measure, key).tolist() == found.tolist()
    other = lengths.key_of("words", source, tiny_processor.weave, 7)
    (folder / "rows.jsonl").touch()
    assert len({key, other, lengths.key_of("words", source, tiny_processor.weave, None)}) == 3


def test_records_that_could_not_be_measured_are_tried_again(
    folder: Path, tiny_processor: Processor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.MOVED, str(tmp_path / "cache"))
    for name in ("rows.jsonl", "a.png"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    source = RowsSpec(path="rows.jsonl").open(tmp_path)
    measure = LengthMeasure(tiny_processor.weave, None)
    whole = lengths.index(source, measure, None).tolist()
    (tmp_path / "a.png").rename(tmp_path / "away.png")
    key = lengths.key_of("words", source, tiny_processor.weave, None)
    unread = [list(lengths.UNREAD) if i % 3 == 0 else size for i, size in enumerate(whole)]
    assert lengths.index(source, measure, key, launch=1).tolist() == unread
    assert lengths.index(source, measure, key, launch=2).tolist() == unread
    (tmp_path / "away.png").rename(tmp_path / "a.png")
    plain, tried = RowSource.__getitem__, []

    def seen(self: RowSource, index: int) -> Any:
        tried.append(index)
        return plain(self, index)

    monkeypatch.setattr(RowSource, "__getitem__", seen)
    told: list[str] = []
    assert lengths.index(source, measure, key, launch=2).tolist() == unread, "as its run began"
    assert not tried
    assert lengths.index(source, measure, key, tell=told.append).tolist() == whole
    assert tried == list(range(0, ROWS, 3)) and "again 8 records" in told[0]
    assert lengths.index(source, measure, key, tell=told.append).tolist() == whole
    assert len(tried) == 8 and len(told) == 1, "all are known"


def test_rows_of_an_iterable_are_a_stream(tiny_processor: Processor) -> None:
    datasets = pytest.importorskip("datasets")
    plain = [{"instruction": f"Say {i}.", "output": str(i)} for i in range(7)]
    for rows in (datasets.Dataset.from_list(plain).to_iterable_dataset(), _Again(plain)):
        source = read_rows(rows, stream=True, shuffle_buffer=3)
        assert source.length is None and source[2].turns[1].text() == "2"
        reader = reader_of(source, None)
        said = [next(reader)[0] for _ in range(5)]
        state = json.loads(json.dumps(reader.state()))
        left = [next(reader)[0] for _ in range(9)]
        again = reader_of(source, state)
        assert [next(again)[0] for _ in range(9)] == left
        assert sorted(said + left[:2]) == list(range(7))
    with pytest.raises(SampleError, match="can be read once at most"):
        read_rows(iter(plain), stream=True)


@pytest.mark.parametrize("batched", [False, True])
def test_a_shuffled_stream_goes_on_in_every_round_as_it_would_have(batched: bool) -> None:
    datasets = pytest.importorskip("datasets")
    plain = [{"instruction": f"Say {i}.", "output": str(i)} for i in range(12)]
    rows = datasets.Dataset.from_list(plain).to_iterable_dataset(num_shards=4)
    if batched:
        rows = rows.map(lambda many: many, batched=True, batch_size=2).with_format("numpy")
    source = read_rows(rows.shuffle(seed=0, buffer_size=3), stream=True, shuffle_buffer=2)

    def said(handle: Any) -> str:
        return source.at(handle).turns[1].text()  # type: ignore[attr-defined]

    reader, texts, states = reader_of(source, None), [], []
    for _ in range(36):
        states.append(json.loads(json.dumps(reader.state())))
        texts.append(said(next(reader)))
    rounds = [texts[i : i + 12] for i in (0, 12, 24)]
    assert [sorted(one, key=int) for one in rounds] == [list(map(str, range(12)))] * 3
    assert len(set(map(tuple, rounds))) == 3
    assert {state["epoch"] for state in states} == {0, 1, 2}
    for at, state in enumerate(states):
        again = reader_of(source, state)
        assert [said(next(again)) for _ in texts[at:]] == texts[at:], state


def test_rows_that_skip_for_themselves_are_asked_to(tiny_processor: Processor) -> None:
    class Skips(_Again):
        def skip(self, many: int) -> _Again:
            return _Again(self.rows[many:])

    source = read_rows(
        Skips([{"instruction": str(i), "output": str(i)} for i in range(5)]),
        stream=True,
        shuffle_buffer=0,
    )
    source.rows.__class__.__iter__ = None  # type: ignore[attr-defined]  # nobody reads it from its beginning
    for epoch in (0, 3):
        reader = reader_of(source, {"epoch": epoch, "head": 3, "place": 0})
        assert [next(reader)[0] for _ in range(2)] == [3, 4]


def reader_of(source: Any, state: Any) -> StreamReader:
    return StreamReader(source, "seed", state)


class _Again:
    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __iter__(self) -> Any:
        return iter(self.rows)


def test_shards_of_tar_and_parquet_stream(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    for k in range(2):
        with tarfile.open(tmp_path / f"{k}.tar", "w") as tar:
            for i in range(3):
                for ending, content in (("txt", f"{k}{i}"), ("jpg", "x")):
                    about = tarfile.TarInfo(f"{i}.{ending}")
                    about.size = len(content)
                    tar.addfile(about, io.BytesIO(content.encode()))
        table = {"instruction": [f"{k}{i}" for i in range(3)], "output": ["a"] * 3}
        parquet.write_table(pyarrow.table(table), tmp_path / f"{k}.parquet")
    (tmp_path / "2.tar").write_bytes(b"no tar")
    for pattern, turn in (("*.tar", 1), ("*.parquet", 0)):
        source = RowsSpec(path=pattern, stream=True, shuffle_buffer=4).open(tmp_path)
        reader = reader_of(source, None)
        texts = []
        for _ in range(7 if pattern == "*.tar" else 6):
            try:
                texts.append(source.at(next(reader)).turns[turn].text())  # type: ignore[attr-defined]
            except SampleError as error:
                assert "2.tar" in str(error)
        assert sorted(texts) == ["00", "01", "02", "10", "11", "12"]


def test_a_stream_that_is_over_or_empty_says_so(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="there is no file of rows"):
        RowsSpec(path="none/*.tar", stream=True).open(tmp_path)
    with pytest.raises(ValueError, match="shuffle_buffer is of a stream"):
        RowsSpec(path="a.jsonl", shuffle_buffer=3)


def test_a_loader_takes_works_as_they_come(folder: Path, tiny_processor: Processor) -> None:
    made = batches(folder, tiny_processor, FORMS[2][0], 3)
    assert len(list(DataLoader(made, batch_size=None, sampler=made.order()))) == 3  # type: ignore[arg-type]
