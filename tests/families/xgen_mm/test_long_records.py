"""Records that are too long for the trainer: cut on the right, each picture counted as one token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from omnimix.checkpoints import base, reading
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import IGNORE, Sequence
from omnimix.config import validate
from omnimix.data.mixture import Batches, Mixture, MixturePart
from omnimix.data.ordered import RoundBatches, Rounds
from omnimix.data.sources import Source
from omnimix.families.xgen_mm.records import XgenSft
from omnimix.prompts.questions import interleaved
from omnimix.train import optim
from omnimix.train.settings import Stage
from omnimix.train.step import optimizer_step
from omnimix.types import Sample, Turn
from tests.cases import case_path

CASE = "xgen_mm/anyres_single"
MARK = 492
"""The id of `<image>` in the case's tokenizer."""


@pytest.fixture(scope="module")
def processor() -> Processor:
    release = base.open_release(case_path(f"{CASE}/checkpoint/hf_hub"))
    return Processor.from_recipe(release.recipe, release.folder, release.files)


def record(words: int = 40) -> dict[str, Any]:
    """Three pictures, the last of them far behind."""
    return {
        "id": "long",
        "image": ["a.png", "b.png", "a.png"],
        "conversations": [
            {"from": "human", "value": "<image> and <image>?"},
            {"from": "gpt", "value": "red " * words},
            {"from": "human", "value": "And <image>?"},
            {"from": "gpt", "value": "blue"},
        ],
    }


def opened(folder: Path, *records: Any, **words: Any) -> Source:
    for name, size in {"a.png": (60, 60), "b.png": (120, 40)}.items():
        Image.new("RGB", size, (9, 90, 9)).save(folder / name)
    (folder / "d.json").write_text(json.dumps(records))
    spec = {"data_path": {"d.json": len(records)}, **words}
    return validate(XgenSft, spec, "data").open(folder)


def marked(sequence: Sequence) -> tuple[list[int], list[int]]:
    """Ids and labels with one mark in place of each picture, as the trainer's tokenizer gives them."""
    ids: list[int] = []
    labels: list[int] = []
    place = 0
    waiting = [item.tokens for item in sequence.items.get("image", ())]
    while place < len(sequence):
        picture = bool(sequence.owner[place])
        ids.append(MARK if picture else int(sequence.ids[place]))
        labels.append(IGNORE if picture else int(sequence.labels[place]))
        place += waiting.pop(0) if picture else 1
    assert not waiting
    return ids, labels


def whole(processor: Processor, source: Source) -> tuple[list[int], list[int]]:
    return marked(processor.weave(source[0]))


def test_ids_and_labels_end_at_the_limit(processor: Processor, tmp_path: Path) -> None:
    source = opened(tmp_path, record())
    ids, labels = whole(processor, source)
    pictures = [i for i, token in enumerate(ids) if token == MARK]
    assert len(pictures) == 3
    # In the words, right before a picture, right behind one, and between two.
    for most in (pictures[2] - 4, pictures[2], pictures[2] + 1, pictures[0] + 1, pictures[1], 60):
        sequence = processor.weave(source[0], max_length=most, target=False, cuts_items=True)
        assert marked(sequence) == (ids[:most], labels[:most])
        kept = sum(place < most for place in pictures)
        assert len(sequence.items.get("image", ())) == kept
    assert marked(processor.weave(source[0], max_length=len(ids), cuts_items=True)) == (ids, labels)


def test_the_cut_record_is_the_reference_s_own_up_to_there(processor: Processor) -> None:
    """Golden ids and labels of a conversation with three pictures, cut by hand."""
    folder = case_path(CASE)
    name = "multi_image_interleaved"
    golden = load_file(folder / "expected.safetensors")
    request = json.loads((folder / "inputs/request.json").read_text(encoding="utf-8"))
    roles = {"human": "user", "gpt": "assistant"}
    files = [str(folder / "inputs/cat.png")] * 3
    sample = Sample(
        tuple(
            Turn(roles[turn["from"]], interleaved(turn["value"], _taken(files, turn)).content)
            for turn in request["sft_conversations"][name]
        )
    )
    ids, labels = golden[f"sft/{name}/input_ids"], golden[f"sft/{name}/labels"]
    for most in (len(ids), len(ids) - 1, 120, 100):
        cut = processor.weave(sample, max_length=most, target=False, cuts_items=True)
        assert marked(cut) == (ids[:most].tolist(), labels[:most].tolist())


def _taken(files: list[str], turn: dict[str, str]) -> list[str]:
    return [files.pop() for _ in range(turn["value"].count("<image>"))]


def test_the_published_limit_is_the_dataset_s_own(processor: Processor, tmp_path: Path) -> None:
    source = opened(tmp_path, record(words=1000))
    assert source.max_length == 2048
    ids, labels = whole(processor, source)
    assert len(ids) > 2048
    (batch, dropped) = RoundBatches(source, Rounds(source, "shuffled", 1, epochs=1), processor)[0]
    assert batch is not None and not dropped
    assert ids[:2048].count(MARK) == 2
    cut = processor.weave(source[0], max_length=2048, target=False, cuts_items=True)
    pictures = sum(item.tokens for item in cut.items["image"])
    assert int(batch.attention_mask.sum()) == 2048 - 2 + pictures
    learned = sum(label != IGNORE for label in labels[:2048])
    assert int((batch.labels != IGNORE).sum()) == learned > 0


def test_a_limit_of_the_stage_takes_its_place(processor: Processor, tmp_path: Path) -> None:
    spec = {"kind": "xgen_sft", "data_path": {"d.json": 1}}
    opened(tmp_path, record())
    part = validate(MixturePart, {"data": spec}, "mixture")
    mixture = Mixture((part,), tmp_path, 0)
    for cut, expected in ((90, 90), (None, len(whole(processor, mixture.sources[0])[0]))):
        batch, _ = Batches(mixture, processor, 1, 0, 1, False, cut)[0]
        assert batch is not None
        same = processor.weave(mixture[0], max_length=expected, target=False, cuts_items=True)
        assert int(batch.attention_mask.sum()) == len(same)
        assert len(marked(same)[0]) == expected


# --- what is left over at the end of an epoch ---


def test_left_over_parts_make_a_step_where_they_are_not_dropped(tmp_path: Path) -> None:
    talk = {"conversations": [{"from": "human", "value": "x?"}, {"from": "gpt", "value": "y"}]}
    source = opened(tmp_path, *({"id": str(i), **talk} for i in range(7)))
    dropped = Rounds(source, "shuffled", 4, accumulate=2, epochs=2)
    assert (dropped.steps, len(dropped.parts)) == (4, 8)
    source = opened(tmp_path, *({"id": str(i), **talk} for i in range(5)))
    assert Rounds(source, "shuffled", 4, accumulate=2, epochs=2).steps == 2
    kept = Rounds(source, "shuffled", 4, accumulate=2, epochs=2, drop_last=False)
    assert [len(part) for part in kept.parts] == [2, 2, 1, 0] * 2
    assert sorted(i for part in kept.parts[:4] for i in part) == list(range(5))


def test_a_part_without_a_record_changes_nothing(processor: Processor, tmp_path: Path) -> None:
    """The step of what is left over is divided by as many parts as any other."""
    model, processor, _ = reading.load(base.open_release(case_path(f"{CASE}/checkpoint/hf_hub")))
    talk = {"conversations": [{"from": "human", "value": "x?"}, {"from": "gpt", "value": "y z"}]}
    source = opened(tmp_path, *({"id": str(i), **talk} for i in range(3)))
    words = {
        "mixture": [{"data": {"kind": "xgen_sft", "data_path": {"d.json": 3}}}],
        "objective": {"kind": "sft", "average": "micro_batch"},
        "order": "shuffled",
        "batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 1,
        "drop_last": False,
        "bf16": False,
    }
    stage = validate(Stage, words, "stage")
    rounds = stage.rounds(source, 0)
    assert [len(part) for part in rounds.parts] == [1, 1, 1, 0]
    batches = RoundBatches(source, rounds, processor)
    parts = [batches[i][0] for i in (2, 3)]
    assert parts[1] is None
    optim.set_trainable(model, ("language.*",))
    alone = parts[0]
    assert alone is not None
    model(**alone.inputs(), labels=alone.labels).loss.backward()
    expected = {n: p.grad / 2 for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    seen: dict[str, Any] = {}

    def look() -> None:
        seen.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    optimizer = optim.optimizer(model, stage.optimizer)
    optimizer_step(model, optimizer, stage, 0, 2, parts, look=look)
    assert seen.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(seen[name], grad, msg=name)
