"""Rows as people have them: every format is found and read, in every container; what is no row is named."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from omnimix.data.containers import JsonRows
from omnimix.data.opened import ListedRows, open_rows
from omnimix.data.rows import RowSource, RowsSpec, format_of, read_rows
from omnimix.data.sources import JsonlSource
from omnimix.errors import OmnimixError, RecipeError, SampleError
from omnimix.types import Box, Media, Point, Sample, Turn, text_of

TALK = [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "A cup."}]
LLAVA = {"id": "1", "image": "a.png", "conversations": TALK}
USER, SAYS = {"role": "user", "content": "<image>Who?"}, {"role": "assistant", "content": "A cup."}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 20), (9, 9, 9)).save(tmp_path / name)
    return tmp_path


def plain(sample: Sample) -> list[Any]:
    """Roles and contents, items by kind and file name, regions as they are."""
    return [
        (turn.role[0], [part if isinstance(part, str) else _plain(part) for part in turn.content])
        for turn in sample.turns
    ]


def _plain(media: Media) -> Any:
    if media.kind == "region":
        return media.data
    return f"{media.kind}:{Path(media.data).name if isinstance(media.data, str) else '?'}"


def one(row: Any, folder: Path, **words: Any) -> Sample:
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    return RowsSpec(path="rows.jsonl", **words).open(folder)[0]


WHO = [("u", ["image:a.png", "Who?"]), ("a", ["A cup."])]

FORMS: list[tuple[str, dict[str, Any], list[Any]]] = [
    ("llava", LLAVA, [("u", ["image:a.png", "\nWho?"]), ("a", ["A cup."])]),
    ("llava", {**LLAVA, "image": ["a.png"]}, [("u", ["image:a.png", "\nWho?"]), ("a", ["A cup."])]),
    (
        "sharegpt",
        {
            "conversations": [{"from": "human", "value": "<video>and <image>?"}, TALK[1]],
            "images": ["b.png"],
            "videos": ["c.mp4"],
            "system": "Short.",
        },
        [
            ("s", ["Short."]),
            ("u", ["video:c.mp4", "and ", "image:b.png", "?"]),
            ("a", ["A cup."]),
        ],
    ),
    ("messages", {"messages": [USER, SAYS], "images": ["a.png"]}, WHO),
    (
        "messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Who?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "A cup."}]},
            ],
            "images": ["a.png"],
        },
        WHO,
    ),
    (
        "messages",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "a.png"}},
                        {"type": "text", "text": "Who?"},
                    ],
                },
                SAYS,
            ]
        },
        WHO,
    ),
    (
        "messages",
        {
            "prompt": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "path": "a.png"},
                        {"type": "text", "text": "Who?"},
                    ],
                }
            ],
            "completion": [SAYS],
        },
        WHO,
    ),
    (
        "alpaca",
        {"instruction": "Say", "input": "this", "output": "That", "history": [["Hi", "Hello"]]},
        [("u", ["Hi"]), ("a", ["Hello"]), ("u", ["Say\nthis"]), ("a", ["That"])],
    ),
    ("alpaca", {"instruction": "Who?", "output": "A cup.", "image": "a.png"}, WHO),
    (
        "pairs",
        {"filepath": "a.png", "title": "A cup."},
        [("u", ["image:a.png"]), ("a", ["A cup."])],
    ),
    ("pairs", {"image": "a.png", "question": "Who?", "answer": "A cup."}, WHO),
    (
        "grounded",
        {
            "messages": [
                {"role": "user", "content": "<image>Find <ref-object>"},
                {"role": "assistant", "content": "<bbox><bbox>"},
            ],
            "images": ["a.png"],
            "objects": {"ref": ["it"], "bbox": [[1, 2, 30, 15], [3, 4]]},
        },
        [("u", ["image:a.png", "Find ", "it"]), ("a", [Box(1, 2, 30, 15), Point(3, 4)])],
    ),
    (
        "turns",
        {
            "turns": [
                {"role": "user", "content": [{"image": "a.png"}, {"xywh": [1, 2, 3, 4], "on": 0}]},
                {"role": "assistant", "content": "A cup."},
            ]
        },
        [("u", ["image:a.png", Box(1, 2, 4, 6)]), ("a", ["A cup."])],
    ),
    (
        "multi_token",
        {
            "messages": [{"role": "user", "content": "<document>Who?"}, SAYS],
            "documents": ["Once."],
        },
        [("u", ["document:Once."]), ("a", ["A cup."])],
    ),
]


@pytest.mark.parametrize(("name", "row", "wanted"), FORMS, ids=lambda value: str(value)[:20])
def test_a_format_is_found_and_read(name: str, row: Any, wanted: Any, folder: Path) -> None:
    assert format_of(ListedRows([row])).kind == name
    found, named = one(row, folder), one(row, folder, format=name)
    if name == "multi_token":
        wanted[0] = ("u", ["document:Once.", "Who?"])
    assert plain(found) == plain(named) == wanted


@pytest.mark.parametrize("unit", ["norm1", "norm1000"])
def test_shares_become_pixels(unit: str, folder: Path) -> None:
    most = 1 if unit == "norm1" else 1000
    box = [0.5 * most, 0.25 * most, most, most]
    row = {
        "messages": [USER, {"role": "assistant", "content": "<bbox>"}],
        "images": ["a.png"],
        "objects": {"ref": [], "bbox": [box], "bbox_type": unit},
    }
    assert one(row, folder).media("region")[0].data == Box(20, 5, 40, 20)


# --- containers ---


def test_all_containers_hold_the_same_rows(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [{**LLAVA, "id": str(i)} for i in range(5)]
    text = json.dumps(rows, indent=1)
    (folder / "a.json").write_text(text)
    (folder / "b.json").write_text("\n".join(map(json.dumps, rows)))  # lines under another name
    (folder / "c.jsonl").write_text(text)  # a list under another name
    (folder / "d.NDJSON").write_text("\n\n".join(map(json.dumps, rows)))
    (folder / "e.JSONL").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, rows)).encode())
    (folder / "f.json").write_bytes(text.encode("utf-16"))
    (folder / "g.jsonl").write_bytes("\n".join(map(json.dumps, rows)).encode("utf-16"))
    (folder / "h.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(rows).encode())
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, folder / "i.parquet", row_group_size=2)
    for name in ("arrow", "many"):
        (folder / name).mkdir()
    with pyarrow.ipc.new_stream(folder / "arrow/data.arrow", table.schema) as out:
        out.write_table(table)
    for i, row in enumerate(rows):
        (folder / f"many/{i}.jsonl").write_text(json.dumps(row))
    names = [*"abc", "d.NDJSON", "e.JSONL", "f", "g", "h", "i", "arrow", "many", "many/*.jsonl"]
    paths = [
        next(iter(folder.glob(f"{n}.*")), folder / n) if len(n) == 1 else folder / n for n in names
    ]
    for path in paths:
        media = "." if path.parent == folder else ".."
        source = RowsSpec(path=str(path.relative_to(folder)), media=str(folder / media)).open(
            folder
        )
        media_root = RowSource(open_rows(path), roots=None)
        assert source.length == media_root.length == 5, path
        assert [source[i].id for i in range(5)] == list("01234"), path
        with pytest.raises(IndexError):
            source[5]


def test_a_list_or_a_dataset_in_memory_is_read(folder: Path) -> None:
    source = read_rows([{**LLAVA, "image": Image.new("RGB", (4, 4))}], media=str(folder))
    assert isinstance(source[0].media()[0].data, Image.Image)
    assert read_rows(folder / "none", "llava") if False else source.length == 1


def test_tables_of_text(folder: Path) -> None:
    with (folder / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["filepath", "title"],
                ["a.png", "A cup,\nand \u2028 more"],
                ["b.png", "B"],
                ["a", "b", "c"],
            ]
        )
    source = RowsSpec(path="t.csv").open(folder)
    assert source[0].turns[1].text() == "A cup,\nand \u2028 more"
    assert source.where(1) == "t.csv: line 4"  # the one before takes two lines of the file
    with pytest.raises(SampleError, match=r"t\.csv: line 5: more fields"):
        source[2]
    (folder / "t.tsv").write_text("image\tcaption\na.png\tA, or B\n")
    assert RowsSpec(path="t.tsv").open(folder)[0].turns[1].text() == "A, or B"


def shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_shards(folder: Path) -> None:
    png = (folder / "a.png").read_bytes()
    shard(
        folder / "s-0.tar",
        {"x/1.png": png, "x/1.txt": b"A cup.", "../2.png": png, "../2.txt": b"B"},
    )
    shard(
        folder / "s-1.tar", {"3.png": png, "3.json": json.dumps({"conversations": TALK}).encode()}
    )
    source = RowsSpec(path="s-0.tar").open(folder)
    assert source[0].media()[0].data == png and source[0].turns[1].text() == "A cup."
    with pytest.raises(SampleError, match=r"s-0\.tar: sample \.\./2: the member .* lies outside"):
        source[1]
    whole = RowsSpec(path="s-1.tar").open(folder)
    assert whole[0].media()[0].data == png and whole[0].turns[1].text() == "A cup."
    assert open_rows(folder / "s-*.tar").where(2) == "s-1.tar: sample 3"


# --- a row is read or named ---

ODD = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text(st.characters(codec="utf-8") | st.sampled_from(ODD)), min_size=1, max_size=4)
)
def test_text_comes_through_as_it_is(tmp_path: Path, texts: list[str]) -> None:
    rows = [{"turns": [{"role": "user", "content": [text]}]} for text in texts]
    for name, content in {
        "a.jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "b.json": json.dumps(rows, ensure_ascii=False, indent=2),
    }.items():
        (tmp_path / name).write_bytes(content.encode())
        found = JsonRows(tmp_path / name)
        assert [row["turns"][0]["content"][0] for row in found] == texts


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
PATHS = [("conversations",), ("conversations", 0), ("conversations", 0, "from"), ("image",)]
PATHS += [("conversations", 1, "value"), ("messages",), ("messages", 0, "content"), ("images",)]
PATHS += [("messages", 0, "role"), ("turns",), ("turns", 0), ("turns", 0, "content"), ("output",)]
PATHS += [("objects",), ("objects", "bbox"), ("title",), ("id",), ("system",), ("history",)]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FORMS), st.sampled_from(PATHS), ANY)
def test_whatever_stands_in_a_row_it_is_read_or_named(
    tmp_path: Path, form: Any, path: tuple[Any, ...], value: Any
) -> None:
    name, row, _ = form
    row = json.loads(json.dumps(row))
    place = row
    for step in path[:-1]:
        if not (
            step in place
            if isinstance(place, dict)
            else isinstance(place, list) and step < len(place)
        ):
            return
        place = place[step]
    if isinstance(place, dict) or (isinstance(place, list) and path[-1] < len(place)):
        place[path[-1]] = value
    spec = RowsSpec(path="", format=name)
    source = RowSource(ListedRows([row], tmp_path, "rows.json"), spec.format)
    try:
        sample = source[0]
    except OmnimixError as error:
        assert "rows.json: row 1" in error.sentence() or str(row.get("id")) in error.sentence()
    else:
        assert "None" not in "".join(turn.text() for turn in sample.turns) or "None" in json.dumps(
            row
        )


@pytest.mark.parametrize("value", [None, 3, 2.5, True, ["a"], {"a": 1}, b"x"])
def test_what_is_no_text(value: Any) -> None:
    with pytest.raises(SampleError, match="not text"):
        text_of(value)
    with pytest.raises(SampleError, match="not text"):
        Turn("user", (value,))


@pytest.mark.parametrize("text", ["hi \ud83d", "\udc00", "a\ud83d\ud83d\ude00"])
def test_half_a_surrogate_pair_is_no_text(text: str) -> None:
    with pytest.raises(SampleError, match="half of a surrogate pair"):
        Turn("user", (text,))
    assert text_of("\U0001f600") == "\U0001f600"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": ["b.png"]}, "items stand under 'image' and 'images'"),
        ({"video_path": "x.mp4"}, "does not read the key 'video_path'"),
        ({"image": 3}, "the picture is 3"),
        ({"image": "https://host/a.png"}, "is an address"),
        ({"image": "../a.png"}, "lies outside"),
        ({"image": "/etc/hosts"}, "lies outside"),
        ({"image": "a\0.png"}, "is no path"),
        ({"image": None}, "1 marks <image> for 0 pictures"),
        (
            {"conversations": [{"from": "human", "value": "<video>?"}, TALK[1]], "image": ""},
            "1 marks <video>",
        ),
        ({"conversations": [TALK[0], {"from": "gpt", "value": None}]}, "turn 2 is null"),
        (
            {"conversations": [TALK[0], {"from": "gpt", "value": "<image>"}]},
            "turn 2, which is the assistant",
        ),
        ({"conversations": [TALK[0], {"from": "bot", "value": "x"}]}, "unknown role 'bot'"),
        ({"conversations": {}}, "not a record in the form of LLaVA"),
    ],
)
@pytest.mark.parametrize("marks", ["strict", "loose"])
def test_rows_that_are_named(marks: str, change: Any, said: str, folder: Path) -> None:
    if marks == "loose" and ("<image>" in said or "turn 2, which" in said):
        return
    (folder / "r.jsonl").write_text(f"{json.dumps(LLAVA)}\n\n{json.dumps({**LLAVA, **change})}")
    form = {"kind": "llava", "marks": marks}
    source = RowsSpec(path="r.jsonl", format=form).open(folder)
    assert source[0].media()
    with pytest.raises(SampleError) as caught:
        source[1]
    assert said in caught.value.sentence() and "r.jsonl: line 3" in caught.value.sentence()


TALKS = {
    "llava": {"conversations": [{"from": "human", "value": "Who?"}, TALK[1]]},
    "sharegpt": {"conversations": [{"from": "human", "value": "Who?"}, TALK[1]], "system": ""},
    "messages": {"messages": [{"role": "user", "content": "Who?"}, SAYS]},
    "alpaca": {"instruction": "Who?", "output": "A cup."},
}


@pytest.mark.parametrize("value", ["", None, []])
@pytest.mark.parametrize("name", TALKS)
def test_no_picture_is_none(name: str, value: Any, folder: Path) -> None:
    row = {"image": value, "images": value, **TALKS[name]}
    for words in ({}, {"format": name}):
        assert one(row, folder, **words).media() == []


HUMAN, GPT = {"from": "human", "value": "Who?"}, {"from": "gpt", "value": "A cup."}
NO_QUESTION: list[Any] = [
    [],
    [GPT],
    [GPT, GPT],
    [GPT, HUMAN],
    [{"from": "system", "value": "Short."}],
    [{"from": "system", "value": "Short."}, GPT],
    [HUMAN],
    [HUMAN, HUMAN],
    [HUMAN, GPT, HUMAN],
    [HUMAN, {"from": "gpt"}],
    [{"from": "human"}, GPT],
    [{"value": "Who?"}, {"value": "A cup."}],
    [None, GPT],
    ["Who?", "A cup."],
    {"human": "Who?", "gpt": "A cup."},
]


@pytest.mark.parametrize("marks", ["strict", "loose"])
@pytest.mark.parametrize("talk", NO_QUESTION, ids=lambda talk: json.dumps(talk)[:40])
def test_a_talk_without_a_question_or_an_answer(talk: Any, marks: str, folder: Path) -> None:
    """It is refused alone, and never ends in another error than its own sentence; the row behind it is read."""
    rows = [{"id": "odd", "conversations": talk}, {"id": "good", "conversations": [HUMAN, GPT]}]
    (folder / "r.json").write_text(json.dumps(rows))
    source = RowsSpec(path="r.json", format={"kind": "llava", "marks": marks}).open(folder)
    assert source[1].turns[1].text() == "A cup."
    try:
        sample = source[0]
    except SampleError as error:
        assert "r.json: record 1" in error.sentence() or "odd" in error.sentence()
    else:
        assert [turn.text() for turn in sample.turns] == [one["value"] for one in talk]


MARKED = ["utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", MARKED)
@pytest.mark.parametrize("name", ["r.json", "r.jsonl", "r.ndjson", "r.JSONL", "r.csv", "r.tsv"])
def test_byte_order_marks_are_no_part_of_the_first_word(
    name: str, encoding: str, folder: Path
) -> None:
    sign = "," if name.endswith("csv") else "\t"
    text = f"image{sign}caption\na.png{sign}\u00fc \u6d77\n"
    if "j" in name.lower():
        text = json.dumps({"image": "a.png", "caption": "\u00fc \u6d77"}, ensure_ascii=False)
        text = f"[{text}]" if name == "r.json" else f"{text}\r\n"
    (folder / name).write_bytes(text.encode(encoding))
    source = RowsSpec(path=name).open(folder)
    assert source.length == 1
    assert plain(source[0]) == [("u", ["image:a.png"]), ("a", ["\u00fc \u6d77"])]


def test_a_broken_line_is_named_alone(folder: Path) -> None:
    good = json.dumps(LLAVA).encode()
    (folder / "r.jsonl").write_bytes(
        b'{"turns": [}\n' + good + b"\n\xff{}\n" + b"[" * 100_000 + b"\n"
    )
    source = RowsSpec(path="r.jsonl").open(folder)
    assert source[1].id == "1"
    for index, said in ((0, "line 1: not JSON"), (2, "line 3: not utf-8"), (3, "line 4: not JSON")):
        with pytest.raises(SampleError, match=said):
            source[index]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[1, 2", "not JSON"),
        (b"[1, 2,]", "not JSON"),
        (b"[1] 2", "not JSON"),
        (b"", "not JSON"),
        (b"[]", "no list of records"),
        (b'{"a": [1]}', "no list of records"),
        (b"\xff\xfe[", "cannot read|not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\x1f\x8b", "packed with gzip"),
    ],
)
def test_files_that_are_none(content: bytes, said: str, folder: Path) -> None:
    (folder / "r.json").write_bytes(content)
    with pytest.raises(SampleError, match=said):
        RowsSpec(path="r.json").open(folder)


def test_rows_of_no_format_say_their_keys(folder: Path) -> None:
    with pytest.raises(
        SampleError, match=r"no known format; their keys are a, b\. Name the format: pairs"
    ):
        one({"a": 1, "b": 2}, folder)
    with pytest.raises(RecipeError if False else Exception, match="did you mean 'llava'"):
        RowsSpec(path="x", format="lava")


def test_a_line_of_a_list_is_that_of_the_file(folder: Path) -> None:
    (folder / "r.json").write_text('[\n  {"turns": []},\n\n  {"turns": "\\n",\n "a": "é"},\n  3\n]')
    rows = JsonRows(folder / "r.json")
    assert [rows.where(i) for i in range(3)] == [
        f"r.json: record {i} (line {line})" for i, line in ((1, 2), (2, 4), (3, 6))
    ]
    assert rows[1]["a"] == "é" and rows[2] == 3


# --- where items lie ---


def test_roots(folder: Path) -> None:
    (folder / "p").mkdir()
    (folder / "q").mkdir()
    (folder / "q/c.png").write_bytes(b"x")

    def lies(name: str, media: Any) -> str:
        data = one({"image": name, "text": "x"}, folder, media=media).media()[0].data
        return str(Path(str(data)).relative_to(folder.resolve()))

    assert lies("c.png", ["p", "q"]) == "q/c.png"
    assert lies("d.png", ["p", "q"]) == "p/d.png"
    assert lies(str(folder / "q/c.png"), ["p", "q"]) == "q/c.png"
    assert lies("coco/train/c.png", {"coco/train/": "q", "gqa": "p"}) == "q/c.png"
    assert lies("file://" + str(folder / "q/c.png"), "q") == "q/c.png"
    for name in ("/old/x.png", "coco/../../x.png", str(folder / "a.png")):
        with pytest.raises(SampleError, match="lies outside"):
            lies(name, {"coco": "q"} if "coco" in name else "q")


@pytest.mark.parametrize("kind", ["jsonl", "rows"])
def test_absolute_paths_are_alike_for_every_reader(kind: str, folder: Path) -> None:
    spec = JsonlSource if kind == "jsonl" else RowsSpec
    for path, fine in ((folder / "a.png", True), (Path("/etc/hosts"), False)):
        turns = [{"role": "user", "content": [{"image": str(path)}]}]
        (folder / "r.jsonl").write_text(json.dumps({"turns": turns}))
        source = spec(path="r.jsonl").open(folder)
        if fine:
            assert source[0].media()
        else:
            with pytest.raises(SampleError, match="lies outside"):
                source[0]


def test_a_document_is_a_file_where_it_is_named_and_a_text_where_it_stands(folder: Path) -> None:
    named = one({"turns": [{"role": "user", "content": [{"document": "a.txt"}]}]}, folder)
    assert named.media()[0].data == (folder / "a.txt").resolve()
    asks = {"messages": [{"role": "user", "content": "<document>?"}, SAYS]}
    assert one({**asks, "documents": ["Once."]}, folder).media()[0].data == "Once."
    listed = one({**asks, "documents": [{"path": "a.txt"}]}, folder)
    assert listed.media()[0].data == (folder / "a.txt").resolve()


def test_a_note_about_an_item_is_none(folder: Path) -> None:
    assert len(one({**LLAVA, "image_url": "https://host/a.png"}, folder).media()) == 1
    talk = {"conversations": [{"from": "human", "value": "Who?"}, TALK[1]]}
    for key in ("image_url", "img", "sounds", "photo_path"):
        with pytest.raises(SampleError, match=f"does not read the key '{key}'"):
            one({**talk, key: "a.png"}, folder)


def test_streamed_rows_are_read_to_their_end(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    streamed = datasets.Dataset.from_list([LLAVA, LLAVA]).to_iterable_dataset()
    for rows in (streamed, (row for row in [LLAVA, LLAVA])):
        source = read_rows(rows, media=str(folder))
        assert source.length == 2 and len(source[1].media("image")) == 1


def test_one_file_serves_to_train_and_to_validate(folder: Path) -> None:
    (folder / "five.json").write_text(json.dumps([{**LLAVA, "id": i} for i in range(5)]))

    def ids(part: str) -> list[str]:
        source = RowsSpec(path="five.json", slice=part).open(folder)
        assert source.length is not None
        assert source.where(0).endswith(str(int(source[0].id) + 1))
        return [source[i].id for i in range(source.length)]

    assert ids(":-2") + ids("-2:") == ids(":") == ["0", "1", "2", "3", "4"]
    with pytest.raises(IndexError):
        RowsSpec(path="five.json", slice=":-2").open(folder)[3]
    with pytest.raises(SampleError, match="no row is left of 5"):
        RowsSpec(path="five.json", slice="9:").open(folder)
    with pytest.raises(ValueError, match="slice"):
        RowsSpec(path="five.json", slice="a:b")
