"""Several datasets in the orders that read in rounds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnimix.data.joined import JoinedSources
from omnimix.data.ordered import Rounds
from omnimix.data.sources import JsonlSource, Source
from omnimix.errors import RecipeError, TrainError
from omnimix.train import settings
from omnimix_scenes.source import ScenesSource


def dataset(folder: Path, name: str, count: int) -> Source:
    rows = []
    for i in range(count):
        asked = {"role": "user", "content": ["a " * (i + 1)]}
        rows.append({"id": f"{name}{i}", "turns": [asked, {"role": "assistant", "content": ["b"]}]})
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return JsonlSource(path=f"{name}.jsonl").open(folder)


def test_records_keep_their_dataset(tmp_path: Path) -> None:
    sources = [dataset(tmp_path, "a", 3), dataset(tmp_path, "b", 1), dataset(tmp_path, "c", 4)]
    joined = JoinedSources(sources)
    assert joined.length == 8
    assert [joined[i].id for i in range(8)] == ["a0", "a1", "a2", "b0", "c0", "c1", "c2", "c3"]
    assert [sources.index(joined.source(i)) for i in range(8)] == [0, 0, 0, 1, 2, 2, 2, 2]
    assert [joined.extent(i)[1] for i in (2, 3, 7)] == [4, 2, 5]


@pytest.mark.parametrize("order", ["shuffled", "like_length", "by_length", "by_kind"])
def test_every_order_reads_all_of_them_once(order: str, tmp_path: Path) -> None:
    joined = JoinedSources([dataset(tmp_path, "a", 5), dataset(tmp_path, "b", 3)])
    rounds = Rounds(joined, order, 2, epochs=1)
    assert sorted(i for part in rounds.parts for i in part) == list(range(8))


def test_one_without_an_end_is_refused(tmp_path: Path) -> None:
    joined = JoinedSources([dataset(tmp_path, "a", 5), ScenesSource(seed=0).open(tmp_path)])
    with pytest.raises(TrainError, match="has no end"):
        Rounds(joined, "shuffled", 2, epochs=1)


@pytest.mark.parametrize("file", sorted(settings.FOLDER.glob("*.train.yaml")), ids=lambda p: p.name)
def test_shipped_training_files_are_read(file: Path) -> None:
    training, _ = settings.load(file.name)
    assert training.stages and training.output_dir == f"runs/{training.name}"


def test_a_weight_has_no_place_in_rounds() -> None:
    words = ["stages.0.order=shuffled", "stages.0.mixture.0.weight=2"]
    with pytest.raises(RecipeError, match="knows no weight"):
        settings.load("nano.train.yaml", words)
