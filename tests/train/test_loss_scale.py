"""What rows, turns and datasets count for in the loss: an exactly weighted mean over tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import IGNORE
from omnimix.data.mixture import Batches, Mixture, MixturePart
from omnimix.errors import SampleError
from omnimix.train.objectives import Sft
from omnimix.train.run import train
from tests.conftest import TINY
from tests.train.runs import Write, metrics


def said(role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text, **more}


def talk(*scales: float | None, whole: float | None = None) -> dict[str, Any]:
    answers = ("a red ring", "two of them")
    turns = []
    for scale, answer in zip(scales, answers, strict=False):
        more = {} if scale is None else {"loss_scale": scale}
        turns += [said("user", "What is it?"), said("assistant", answer, **more)]
    return {"messages": turns, **({} if whole is None else {"loss_scale": whole})}


def read(
    rows: list[Any], folder: Path, processor: Processor, pack: bool = False, **words: Any
) -> Batch:
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    part = MixturePart.model_validate({"data": {"path": "rows.jsonl"}, **words})
    batch, dropped = Batches(Mixture((part,), folder, 0), processor, len(rows), 0, 1, pack)[0]
    assert batch is not None and not dropped, dropped
    return batch


def tokens(model: MultimodalLM, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross entropy and scale of each learned token."""
    words = {k: v for k, v in batch.inputs(mask=False).items() if k != "loss_scale"}
    losses = model(**words, labels=batch.labels, token_losses=True).loss
    scale = batch.get("loss_scale", torch.ones(batch.labels.shape))
    return losses, scale[:, 1:][batch.labels[:, 1:] != IGNORE]


@pytest.mark.parametrize("pack", [False, True])
def test_the_loss_is_the_weighted_mean_over_tokens(
    pack: bool, tmp_path: Path, tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    rows = [talk(0.5, 2.0), talk(None, None, whole=3.0), talk(0.25, None, whole=2.0), talk(None)]
    batch = read(rows, tmp_path, tiny_processor, pack)
    losses, scale = tokens(tiny_model.eval(), batch)
    assert sorted({round(float(s), 3) for s in scale}) == [0.5, 1.0, 2.0, 3.0]
    assert batch.targets == pytest.approx(float(scale.sum()))
    expected = (losses * scale).sum() / scale.sum()
    objective = Sft()
    found = objective.loss(tiny_model, batch, objective.amount(batch))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(tiny_model(**batch).loss, expected)


def test_nothing_is_learned_of_a_turn_that_counts_for_nothing(
    tmp_path: Path, tiny_processor: Processor
) -> None:
    batch = read([talk(0, 1.0)], tmp_path, tiny_processor)
    decode = tiny_processor.weave.tokenizer.decode
    text = decode(batch.labels[batch.labels >= 0].tolist())
    assert "two of them" in text and "ring" not in text
    assert "loss_scale" not in batch and isinstance(batch.targets, int)


def test_a_dataset_counts_as_its_part_of_the_mixture_says(
    tmp_path: Path, tiny_processor: Processor
) -> None:
    plain = read([talk(None)], tmp_path, tiny_processor)
    batch = read([talk(None)], tmp_path, tiny_processor, loss_scale=0.5)
    assert batch.targets == 0.5 * plain.targets
    mine = {"turns": [said("user", ["What?"]), said("assistant", ["a cup"], loss_scale=4)]}
    assert 4 in read([mine], tmp_path, tiny_processor)["loss_scale"]
    theirs = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "a", "loss_scale": 4}]
    batch = read([{"conversations": theirs}], tmp_path, tiny_processor)
    assert 4 in batch["loss_scale"]


def test_other_trainers_words_for_what_a_turn_counts_for(
    tmp_path: Path, tiny_processor: Processor
) -> None:
    """OpenAI's and ShareGPT's `weight`, and ms-swift's `loss`, of answers; of other turns they say nothing."""
    first = [said("user", "What?", weight=0, loss=True), said("assistant", "a ring", weight=0)]
    last = [said("user", "And?", weight=0), said("assistant", "two of them", weight=1, loss=True)]
    swift = [*first[:1], said("assistant", "a ring", loss=False), *last]
    sharegpt = [
        {"from": one["role"].replace("assistant", "gpt"), "value": one["content"], "weight": w}
        for one, w in zip((*first, *last), (None, 0, 0, 1), strict=True)
    ]
    rows = [
        {"messages": [*first, *last]},
        {"messages": swift},
        {"prompt": [*first, *last[:1]], "completion": last[1:]},
        {"conversations": sharegpt},
    ]
    decode = tiny_processor.weave.tokenizer.decode
    for row in rows:
        labels = read([row], tmp_path, tiny_processor).labels
        text = decode(labels[labels >= 0].tolist())
        assert "two of them" in text and "ring" not in text, row


def test_words_that_cannot_be_followed_are_refused(tmp_path: Path) -> None:
    both = {"messages": [said("user", "What?"), said("assistant", "a", weight=0, loss=True)]}
    answers = {"chosen": [said("assistant", "a", weight=0)], "rejected": [said("assistant", "b")]}
    rivals = {"prompt": [said("user", "What?")], **answers}
    lone = {"prompt": "What?", "chosen": said("assistant", "a", loss_scale=3), "rejected": "b"}
    disliked = {"prompt": [said("user", "What?")], "completion": [said("assistant", "a")]}
    words = ("weight and loss", "among preferences", "among preferences", "label: false")
    for row, message in zip((both, rivals, lone, {**disliked, "label": False}), words, strict=True):
        (tmp_path / "rows.jsonl").write_text(json.dumps(row))
        part = MixturePart.model_validate({"data": {"path": "rows.jsonl"}})
        with pytest.raises(SampleError, match=message):
            Mixture((part,), tmp_path, 0)[0]


@pytest.mark.parametrize("scale", [-1, "two", True])
def test_what_is_no_scale_is_refused(scale: Any, tmp_path: Path) -> None:
    for row in (talk(scale), talk(None, whole=scale)):
        (tmp_path / "rows.jsonl").write_text(json.dumps(row))
        part = MixturePart.model_validate({"data": {"path": "rows.jsonl"}})
        with pytest.raises(SampleError, match=r"a loss_scale of .*\n?.*"):
            Mixture((part,), tmp_path, 0)[0]


def test_micro_batches_of_scaled_records_add_up(write: Write, tmp_path: Path) -> None:
    rows = [talk(0.5, 2.0), talk(None), talk(3.0), talk(1.0, 0)]
    lines = [json.dumps(row) for row in rows]
    words = {
        "mixture": [{"data": {"path": "talks.jsonl"}}],
        "batch_size": 4,
        "max_steps": 1,
    }
    losses = []
    for parts in (1, 2):
        path = write(lines=lines, stages=[{**words, "gradient_accumulation_steps": parts}])
        out = tmp_path / str(parts)
        train(path, out=out, overrides=[f"set={json.dumps([*TINY])}"])
        losses.append(metrics(out)[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
