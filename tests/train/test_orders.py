"""Several datasets of different forms in every order and every way of making batches: each row comes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from omnimix import cache, config
from omnimix.compose.processor import Processor
from omnimix.data.mixture import loader
from omnimix.train.plan import plan
from omnimix.train.settings import Training

ALL = Counter({f"{name}{i}" for name in ("llava", "alpaca", "messages", "turns") for i in range(4)})
ROUNDS = {
    "shuffled": {},
    "shuffled, alike": {"order": "shuffled", "group_by_length": True},
    "shuffled, a row": {"order": "shuffled", "packing": True},
    "shuffled, packed": {"order": "shuffled", "packing": {"tokens": 120}},
    "like_length": {},
    "by_length": {},
    "by_modality": {},
    "by_kind": {},
}
FOREVER: dict[str, dict[str, Any]] = {
    "mixture": {},
    "mixture, alike": {"group_by_length": True},
    "mixture, a row": {"packing": True},
    "mixture, packed": {"packing": {"tokens": 120}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four rows each of LLaVA's, Alpaca's, OpenAI's and our own, in four containers."""
    datasets = pytest.importorskip("datasets")
    place = tmp_path_factory.mktemp("forms")
    Image.effect_noise((48, 32), 90).convert("RGB").save(place / "a.png")
    asked = [f"What {'is ' * i}it?" for i in range(4)]
    said = [{"from": "human", "value": ""}, {"from": "gpt", "value": "red"}]
    llava = [
        {"id": f"llava{i}", "image": "a.png", "conversations": [{**said[0], "value": f"<image>{one}"}, said[1]]}
        for i, one in enumerate(asked)
    ]  # fmt: skip
    (place / "llava.json").write_text(json.dumps(llava))
    alpaca = [
        {"id": f"alpaca{i}", "instruction": one, "output": "red"} for i, one in enumerate(asked)
    ]
    (place / "alpaca.jsonl").write_text("\n".join(map(json.dumps, alpaca)))
    answer = {"role": "assistant", "content": "red"}
    messages = [
        {"id": f"messages{i}", "messages": [{"role": "user", "content": one}, answer]}
        for i, one in enumerate(asked)
    ]
    datasets.Dataset.from_list(messages).to_parquet(place / "messages.parquet")
    turns = [
        {"id": f"turns{i}", "turns": [{"role": "user", "content": [{"image": "a.png"}, one]}, {**answer, "content": ["red"]}]}
        for i, one in enumerate(asked)
    ]  # fmt: skip
    (place / "turns.jsonl").write_text("\n".join(map(json.dumps, turns)))
    return place


FILES = ("llava.json", "alpaca.jsonl", "messages.parquet", "turns.jsonl")


def read(folder: Path, processor: Processor, words: dict[str, Any]) -> Counter[str]:
    """How often each row comes in a stage."""
    mixture = [{"data": {"path": name}} for name in FILES]
    stage = {"mixture": mixture, "batch_size": 2, **words}
    training = config.validate(
        Training,
        {"name": "t", "recipe": "nano", "output_dir": "run", "num_workers": 0, "stages": [stage]},
        "test",
    )
    made = plan(training, 0, 0, folder, processor, (0, 1))
    seen: Counter[str] = Counter()
    for batch, dropped in loader(made.batches, 0):
        assert batch is not None and not dropped
        seen.update(batch.ids)
    return seen


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.MOVED, str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ROUNDS)
def test_a_round_has_every_row_of_every_dataset(
    folder: Path, tiny_processor: Processor, name: str
) -> None:
    words = {"order": name, "num_train_epochs": 2, **ROUNDS[name]}
    assert read(folder, tiny_processor, words) == Counter(dict.fromkeys(ALL, 2))


@pytest.mark.parametrize("name", FOREVER)
def test_a_mixture_gives_every_row_of_every_dataset(
    folder: Path, tiny_processor: Processor, name: str
) -> None:
    seen = read(folder, tiny_processor, {"max_steps": 24, **FOREVER[name]})
    assert seen.keys() == ALL.keys()
