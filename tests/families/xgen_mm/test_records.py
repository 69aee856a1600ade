"""xGen-MM's data in its own words, against the reference's orders, paths and repairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from omnimix.config import read_yaml, validate
from omnimix.data.sources import Source
from omnimix.errors import RecipeError, SampleError
from omnimix.families.xgen_mm.records import XgenSft, _XgenSft, mapped, repaired
from omnimix.types import Media
from tests.cases import case_path

FOLDER = "xgen_mm/data_mixing"


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (case_path(FOLDER) / "case.json").read_text(encoding="utf-8")
    )
    return found


def test_a_data_path_takes_its_counts_in_the_published_order(facts: dict[str, Any]) -> None:
    folder = case_path(FOLDER)
    words = read_yaml(folder / "inputs/data_config.yaml")
    source = validate(XgenSft, {**words, "image_folders": {"photos": "x"}}, "data").open(folder)
    assert isinstance(source, _XgenSft)
    assert [record["id"] for record in source.records] == facts["mixed_order"]
    assert source.length == len(facts["mixed_order"])
    lengths = []
    for index, length in enumerate(facts["lengths"]):
        picture, words_ = source.extent(index)
        assert words_ + 128 * picture == length
        lengths.append(words_ if picture else -words_)
    assert lengths == facts["modality_lengths"]


def test_paths_are_mapped_by_the_first_key(facts: dict[str, Any]) -> None:
    folders = dict(facts["path_mapping"]["mapping"])
    for path, wanted in facts["path_mapping"]["results"].items():
        assert mapped(path, folders) == wanted
    assert mapped("a/b.png", {}) == "a/b.png"
    with pytest.raises(SampleError, match=r"no folder is named for the picture 'other/x.png'"):
        mapped("other/x.png", folders)


def test_marks_are_put_right(facts: dict[str, Any]) -> None:
    for case in facts["marker_check"]:
        before = json.dumps(case["record"])
        found = repaired(case["record"])
        assert (found is not None) == case["keep"]
        if found is not None:
            assert found == case["after"]
        assert json.dumps(case["record"]) == before  # the record itself is left alone


# --- reading records ---


def turn(who: str, text: str) -> dict[str, str]:
    return {"from": who, "value": text}


def source_of(tmp_path: Path, records: list[Any], **words: Any) -> Source:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (6, 4), (9, 9, 9)).save(tmp_path / name)
    (tmp_path / "d.json").write_text(json.dumps(records))
    spec = {"data_path": {"d.json": len(records)}, **words}
    source = validate(XgenSft, spec, "data").open(tmp_path)
    assert isinstance(source, _XgenSft)
    source.records.sort(key=lambda record: str(record.get("id")))
    return source


def test_marks_become_pictures_in_their_places(tmp_path: Path) -> None:
    record = {
        "id": 1,
        "image": ["a.png", "b.png"],
        "conversations": [
            turn("system", "Short."),
            turn("human", "<image>\nand <image>?<s>"),
            turn("gpt", "A <s>cup."),
        ],
    }
    sample = source_of(tmp_path, [record])[0]
    assert sample.id == "1"
    assert [t.role for t in sample.turns] == ["system", "user", "assistant"]
    kinds = ["image" if isinstance(p, Media) else p for p in sample.turns[1].content]
    assert kinds == ["image", "\nand ", "image", "?"]
    assert sample.turns[2].content == ("A cup.",)
    assert [m.label for m in sample.media()] == ["a.png", "b.png"]


def test_what_cannot_be_used_gives_way_to_the_next(tmp_path: Path) -> None:
    talk = [turn("human", "<image>\nWhat?"), turn("gpt", "x")]
    records = [
        {"id": "1", "conversations": talk},
        {"id": "2", "image": ["a.png"] * 5, "conversations": talk},
        {"id": "3", "image": "none.png", "conversations": talk},
        {"id": "4", "image": "a.png", "conversations": talk},
        {"id": "5", "image": "none.png", "conversations": talk},
    ]
    source = source_of(tmp_path, records)
    assert [source[i].id for i in range(4)] == ["4"] * 4
    with pytest.raises(SampleError, match=r"from place 4 to the end .* cannot be read"):
        source[4]
    assert source_of(tmp_path, records, most=5, data_path={"d.json": 5}) is not None


def test_pictures_without_a_mark_are_left_out_and_marks_without_one_refused(tmp_path: Path) -> None:
    def one(text: str) -> Any:
        return {"id": "r", "image": ["a.png", "b.png"], "conversations": [turn("human", text)]}

    assert len(source_of(tmp_path, [one("only <image> one")])[0].media()) == 1
    with pytest.raises(SampleError, match="more marks <image> than the 2 pictures"):
        source_of(tmp_path, [one("<image><image><image>")])[0]


def test_what_is_no_data(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"d\.json: record 1"):
        source_of(tmp_path, [{"text": "x"}])[0]
    with pytest.raises(SampleError, match="leads upwards"):
        source_of(tmp_path, [{"image": "../a.png", "conversations": [turn("human", "x")]}])[0]
    (tmp_path / "d.json").write_text("{")
    with pytest.raises(SampleError, match="not JSON"):
        validate(XgenSft, {"data_path": {"d.json": 1}}, "data").open(tmp_path)
    with pytest.raises(SampleError, match="no record is asked for"):
        validate(XgenSft, {"data_path": {}}, "data").open(tmp_path)
    with pytest.raises(RecipeError, match="data_path"):
        validate(XgenSft, {"data_paths": {}}, "data")


def test_pictures_are_found_from_a_relative_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case_path("xgen_mm"))
    words = {"data_path": {"inputs/train_b.json": 1}, "image_folders": {"photos": "inputs"}}
    source = validate(XgenSft, words, "data").open(Path("interleave_multi"))
    assert source[0].media()
