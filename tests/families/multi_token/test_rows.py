"""Rows of multi_token from JSON and Arrow, its documents, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from omnimix.config import validate
from omnimix.errors import SampleError
from omnimix.families.multi_token.documents import sentences, split_text_into_documents
from omnimix.families.multi_token.records import MultiTokenRows
from omnimix.language.tokenizer import FastTokenizer, Tokenizer
from omnimix.types import Sample
from tests.cases import case_path

ASKS = [
    {"role": "user", "content": "<image> and <image>: which is <speech> about?"},
    {"role": "assistant", "content": "The first."},
]
ROW: dict[str, Any] = {
    "id": "7",
    "images": ["a.png", "deep/b.png"],
    "speech_audios": ["q.wav"],
    "messages": ASKS,
}


def opened(folder: Path, **words: Any) -> Any:
    return validate(MultiTokenRows, {"path": "rows.json", **words}, "test").open(folder)


def written(folder: Path, *rows: Any) -> Path:
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder


def kinds(sample: Sample) -> list[str]:
    return [media.kind for media in sample.media()]


def test_items_stand_in_their_places(tmp_path: Path) -> None:
    (sample,) = [opened(written(tmp_path, ROW))[0]]
    assert sample.id == "7"
    assert kinds(sample) == ["image", "image", "speech"]
    first, joint, second = sample.turns[0].content[:3]
    assert (first.data, joint) == (str(tmp_path.resolve() / "a.png"), " and ")  # type: ignore[union-attr]
    assert second.data.endswith("deep/b.png")  # type: ignore[union-attr]
    assert sample.turns[1].content == ("The first.",)


def test_a_list_that_is_null_belongs_to_another_dataset(tmp_path: Path) -> None:
    row = {**ROW, "videos": None, "documents": None}
    assert kinds(opened(written(tmp_path, row))[0]) == ["image", "image", "speech"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": ["a.png"]}, "2 placeholders <image> in the messages, but 1 items"),
        ({"images": None}, "2 placeholders <image> in the messages, but 0 items"),
        ({"images": "a.png"}, "images is a list, not a text"),
        ({"images": ["a.png", "../b.png"]}, "lies outside"),
        ({"images": ["a.png", "https://host/b.png"]}, "is an address"),
        ({"speech_audios": [{"dataset_args": {}, "idx": 3}]}, "a dataset of the hub"),
        ({"speech_audios": [{"what": 1}]}, "this has what"),
        ({"messages": []}, "there are no messages"),
    ],
)
def test_bad_rows_are_named(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    source = opened(written(tmp_path, ROW, {**ROW, **change}))
    with pytest.raises(SampleError) as caught:
        source[1]
    assert says in caught.value.sentence()
    assert caught.value.where is not None and caught.value.where.startswith("7")
    assert kinds(source[0]) == ["image", "image", "speech"]  # its neighbour is as it was


def test_what_is_no_row_is_named_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"rows\.json: record 1: not a row"):
        opened(written(tmp_path, {"conversations": []}))[0]


def test_sounds_come_as_paths_bytes_or_samples(tmp_path: Path) -> None:
    asks = [{"role": "user", "content": "<sound><sound><sound>"}, ASKS[1]]
    sounds = [
        {"path": "a.wav"},
        {"bytes": "raw", "path": None},
        {"array": [0.0, 0.5], "sampling_rate": 8000, "path": "x.wav"},
    ]
    row = {"id": 1, "sounds": sounds, "messages": asks}
    found = [media.data for media in opened(written(tmp_path, row))[0].media()]
    assert found[0] == str(tmp_path.resolve() / "a.wav")
    assert found[1:] == ["raw", {"array": [0.0, 0.5], "sampling_rate": 8000}]


def test_a_modality_of_ones_own_has_its_name_as_mark(tmp_path: Path) -> None:
    asks = [{"role": "user", "content": "Is <signal> like <image>?"}, ASKS[1]]
    row = {"signals": ["s.npy"], "messages": asks}
    sample = opened(written(tmp_path, row), modalities=["signal"])[0]
    assert kinds(sample) == ["signal"]
    assert sample.turns[0].content[2] == " like <image>?"  # none of the model's marks: text
    assert sample.id == "rows.json: record 1"


@pytest.mark.parametrize("layout", ["stream", "file", "folder"])
def test_arrow_rows_are_those_of_the_json(layout: str, tmp_path: Path) -> None:
    import pyarrow

    rows = [{**ROW, "id": str(i)} for i in range(5)]
    table = pyarrow.Table.from_pylist(rows)
    parts = [table.slice(0, 2), table.slice(2)] if layout == "folder" else [table]
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "state.json").write_text("{}")  # what save_to_disk leaves beside them
    for i, part in enumerate(parts):
        new = pyarrow.ipc.new_file if layout == "file" else pyarrow.ipc.new_stream
        with new(str(folder / f"data-{i}.arrow"), table.schema) as sink:
            sink.write_table(part)
    source = validate(MultiTokenRows, {"path": "rows"}, "test").open(tmp_path)
    assert source.length == 5
    again = pickle.loads(pickle.dumps(source))
    for found in (source, again):
        assert [found[i].id for i in range(5)] == ["0", "1", "2", "3", "4"]
    assert source[4].media()[0].data == str(tmp_path.resolve() / "a.png")


def test_damaged_and_missing_arrow_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    spec = validate(MultiTokenRows, {"path": "rows"}, "test")
    with pytest.raises(SampleError, match="holds no file of rows"):
        spec.open(tmp_path)
    (tmp_path / "rows" / "a.arrow").write_bytes(b"ARROW1 or not")
    with pytest.raises(SampleError, match="not an Arrow file"):
        spec.open(tmp_path)


def test_rows_of_the_published_scripts_are_samples(tmp_path: Path) -> None:
    scripts = json.loads(case_path("multi_token/dataset_builders.json").read_text())["scripts"]
    llava = scripts["llava_build_finetune_dataset"]["rows"]
    samples = opened(written(tmp_path, *llava))
    assert [kinds(samples[i]) for i in range(3)] == [["image"]] * 3
    assert samples[1].turns[0].content[0].startswith("Is there a picture")
    papers = [x["row"] for x in scripts["document_build_finetune_dataset (LongAlpaca rows)"][:3]]
    for i, row in enumerate(papers):
        sample = opened(written(tmp_path, *papers))[i]
        assert [media.data for media in sample.media()] == row["documents"]


# --- documents ---


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    folder = case_path("multi_token/audio_document_mix/backbones/thenlper/gte-large")
    return FastTokenizer(
        path="tokenizer.json", pad_token="[PAD]", clean_up_tokenization_spaces=True
    ).load([folder])


TEXT = (
    "Mix five hundred grams of flour with three hundred and fifty grams of water and let the dough rest for "
    "half an hour. Add ten grams of salt and a little yeast. Fold the dough four times! Is it soft? Yes."
)


def test_a_short_text_is_one_document(pieces: Tokenizer) -> None:
    assert split_text_into_documents(TEXT, pieces) == [TEXT.lower()]


def test_documents_are_filled_with_whole_sentences(pieces: Tokenizer) -> None:
    counts = [len(pieces.encode(s)[0]) for s in sentences(TEXT)]
    most = counts[0] + 1
    found = split_text_into_documents(TEXT, pieces, most)
    assert len(found) > 1
    assert " ".join(found) == TEXT.lower()
    assert all(len(pieces.encode(d)[0]) <= most for d in found)
    assert found[0].endswith("half an hour.")


def test_a_sentence_that_is_too_long_stands_alone(pieces: Tokenizer) -> None:
    found = split_text_into_documents(f"Rest. {TEXT}", pieces, 10)
    assert found[:2] == ["rest.", TEXT.lower()[: found[1].index(".") + 1]]


def test_sentences_end_where_they_end() -> None:
    text = "Dr. Low met J. Doe at 5 p.m. on the quay. They left! 'Why?' (He asked.) 3.5 litres."
    assert list(sentences(text)) == [
        "Dr. Low met J. Doe at 5 p.m. on the quay.",
        "They left!",
        "'Why?'",
        "(He asked.)",
        "3.5 litres.",
    ]
    assert list(sentences("")) == []
