"""Folders that the package `datasets` saved: the rows are read, and not what it keeps beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from omnimix.data.opened import open_rows, shards_of
from omnimix.data.rows import RowsSpec
from omnimix.errors import SampleError

datasets = pytest.importorskip("datasets")
ROWS = 6


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved dataset in two files, in which caches of a map, a filter and an order lie as well."""
    rows = [{"instruction": f"Say {i}.", "output": str(i)} for i in range(ROWS)]
    place = tmp_path / "saved"
    datasets.Dataset.from_list(rows).save_to_disk(str(place), num_shards=2)
    again = datasets.load_from_disk(str(place))
    again.map(lambda row: {"output": "changed"})
    again.filter(lambda row: row["output"] != "2").shuffle(seed=1)
    assert len(list(place.glob("cache-*.arrow"))) == 3
    return place


def outputs(path: Path, **words: Any) -> list[str]:
    rows = open_rows(path)
    return [rows[i]["output"] for i in range(len(rows))]


EVERY = [str(i) for i in range(ROWS)]


@pytest.mark.parametrize("state", [True, False])
def test_caches_are_no_rows(state: bool, saved: Path) -> None:
    if not state:
        (saved / "state.json").unlink()
    assert outputs(saved) == EVERY
    assert outputs(saved / "*.arrow") == EVERY
    assert [file.name[:7] for file in shards_of(saved)] == ["data-00"] * 2
    assert shards_of(saved / "*.arrow") == shards_of(saved)
    assert RowsSpec(path="saved").open(saved.parent).length == ROWS
    cache = next(saved.glob("cache-*.arrow"))
    assert len(open_rows(cache)) and len(open_rows(saved / "cache-*.arrow")), "those that are named"


def test_a_folder_of_caches_alone_holds_no_rows(saved: Path) -> None:
    for file in (*saved.glob("data-*"), *saved.glob("*.json")):
        file.unlink()
    with pytest.raises(SampleError, match="holds no file of rows"):
        open_rows(saved)


def test_splits_and_folders_of_saved_datasets(saved: Path) -> None:
    test = datasets.load_from_disk(str(saved)).select([4])
    splits = datasets.DatasetDict({"train": datasets.load_from_disk(str(saved)), "test": test})
    place = saved.parent / "splits"
    splits.save_to_disk(str(place))
    datasets.load_from_disk(str(place))["train"].map(lambda row: {"output": "changed"})
    assert list(place.rglob("cache-*.arrow"))
    assert outputs(place / "train") == EVERY and outputs(place / "test") == ["4"]
    for opens in (open_rows, shards_of):  # as a stream as well
        with pytest.raises(SampleError, match="several splits: test, train"):
            opens(place)
    (place / "dataset_dict.json").unlink()
    shutil.copy(place / "test" / "data-00000-of-00001.arrow", place / "test" / "more.arrow")
    assert outputs(place) == ["4", *EVERY], "a folder of saved datasets, each as its own words say"


STATES = {
    "../other.arrow": "leads out of the folder",
    "/etc/rows.arrow": "leads out of the folder",
    "C:\\rows.arrow": "leads out of the folder",
    "a\\..\\..\\rows.arrow": "leads out of the folder",
    "gone.arrow": "is not there",
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_that_names_other_files_is_refused(name: str, saved: Path) -> None:
    shutil.copy(saved / "data-00000-of-00002.arrow", saved.parent / "other.arrow")
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    for opens in (open_rows, shards_of):
        with pytest.raises(SampleError, match=STATES[name]):
            opens(saved)


def test_rows_chosen_by_indices_are_refused(saved: Path) -> None:
    state = json.loads((saved / "state.json").read_text())
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (saved / "state.json").write_text(json.dumps(state))
    with pytest.raises(SampleError, match="flatten_indices"):
        open_rows(saved)


def test_a_state_of_another_program_says_nothing(saved: Path) -> None:
    for text in ("{}", "[1]", "no JSON", '{"_data_files": 7}'):
        (saved / "state.json").write_text(text)
        assert outputs(saved) == EVERY
