"""DPO and IPO: TRL's loss and gradients on the same rows, in every form, and runs that go on exactly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch.nn import functional
from trl import DPOConfig, DPOTrainer

from omnimix import config
from omnimix.compose import recipe as recipes
from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.data.lengths import LengthMeasure
from omnimix.data.mixture import Batches, Mixture, MixturePart, loader, woven_pair
from omnimix.data.packing import Size
from omnimix.errors import SampleError, TrainError
from omnimix.parallel.process_group import ProcessGroup
from omnimix.train.objectives import Sft
from omnimix.train.plan import plan
from omnimix.train.preferences import Dpo, Ipo
from omnimix.train.run import train
from omnimix.train.settings import Training
from tests.conftest import TINY
from tests.train.runs import Write, metrics, same_weights

QUESTIONS = ("How many?", "What is the colour of the large thing?")
CHOSEN = ("two", "a red circle")
REJECTED = ("no idea, nothing is seen", "blue")
ADAPTED = "adapters=[{part: language, r: 4, lora_alpha: 8}]"


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def rows() -> list[dict[str, Any]]:
    return [
        {
            "images": [f"{i}.png"],
            "prompt": [said("user", QUESTIONS[i])],
            "chosen": [said("assistant", CHOSEN[i])],
            "rejected": [said("assistant", REJECTED[i])],
        }
        for i in range(2)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, side in enumerate((80, 50)):
        # The same in every run: sums of float32 logarithms agree with others' to about the last bits alone.
        noise = np.random.default_rng(i).integers(0, 255, (60, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows()))
    return tmp_path


def drawn(
    folder: Path, processor: Processor, pack: bool = False, file: str = "rows.jsonl"
) -> Batch:
    part = MixturePart.model_validate({"data": {"kind": "rows", "path": file}})
    batch, dropped = Batches(Mixture((part,), folder, 0), processor, 2, 0, 1, pack)[0]
    assert batch is not None and not dropped, dropped
    return batch


def moved(model: MultimodalLM) -> None:
    """A policy that is not its reference any more."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("language"):
                parameter.add_(0.02 * torch.randn_like(parameter))


def fresh(*words: str) -> MultimodalLM:
    torch.manual_seed(0)
    model = MultimodalLM.from_recipe(recipes.load("nano", (*TINY, *words)))
    for encoder in model.image.branches[0].encoders:
        encoder.requires_grad_(False)
    return model.train()  # whose frozen encoders stand still from here on


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Dpo(beta=0.3), "sigmoid"),
        (Dpo(beta=0.3, length_normalized=True), "sigmoid_norm"),
        (Ipo(beta=0.2), "ipo"),
    ],
)
def test_the_loss_and_gradients_are_those_of_trl(
    ours: Any, theirs: str, folder: Path, tiny_processor: Processor
) -> None:
    model = fresh()
    ours = ours.model_copy()
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    ours.begin(model, names, folder / "start", False, ProcessGroup())
    rows_ = [
        {**row, "images": [Image.open(folder / image).copy() for image in row["images"]]}
        for row in rows()
    ]
    words = {"output_dir": str(folder / "out"), "per_device_train_batch_size": 2, "report_to": []}
    trainer = DPOTrainer(
        model=model,
        ref_model=fresh(),
        args=DPOConfig(
            **words, use_cpu=True, bf16=False, max_length=None, beta=ours.beta, loss_type=[theirs]
        ),
        train_dataset=Dataset.from_list(rows_),
        processing_class=tiny_processor,
    )
    moved(model)
    given = next(iter(trainer.get_train_dataloader()))
    wanted = trainer.compute_loss(model, given)
    wanted.backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    for pack in (False, True):
        model.zero_grad()
        batch = drawn(folder, tiny_processor, pack)
        assert batch.pairs == 2 and len(batch.ids) == 2
        loss = ours.loss(model, batch, 2)
        loss.backward()
        torch.testing.assert_close(loss.detach(), wanted.detach(), atol=1e-6, rtol=1e-6)
        for name, gradient in expected.items():
            found = model.get_parameter(name).grad
            torch.testing.assert_close(found, gradient, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("ours", [Dpo(beta=0.3), Ipo(beta=0.2)])
def test_a_pair_counts_for_what_its_row_and_its_dataset_say(
    ours: Any, folder: Path, tiny_processor: Processor
) -> None:
    model, ours = fresh().eval(), ours.model_copy()
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    ours.begin(model, names, folder / "start", False, ProcessGroup())
    moved(model)
    for i, row in enumerate(rows()):
        (folder / f"{i}.jsonl").write_text(json.dumps(row))
    alone = [ours.loss(model, drawn(folder, tiny_processor, file=f"{i}.jsonl"), 2) for i in (0, 1)]
    scaled = [{**row, "loss_scale": scale} for row, scale in zip(rows(), (3, 1), strict=True)]
    (folder / "scaled.jsonl").write_text("\n".join(map(json.dumps, scaled)))
    for pack in (False, True):
        batch = drawn(folder, tiny_processor, pack, "scaled.jsonl")
        assert ours.amount(batch) == 4 and batch.pairs == 2
        loss = ours.loss(model, batch, ours.amount(batch))
        torch.testing.assert_close(loss, (3 * alone[0] + alone[1]) / 4)
    with pytest.raises(SampleError, match="loss_scale is 0"):
        ours.takes(
            replace(
                Mixture((MixturePart.model_validate({"data": {"path": "rows.jsonl"}}),), folder, 0)[
                    0
                ],
                pair_scale=0.0,
            )
        )
    part = MixturePart.model_validate({"data": {"path": "scaled.jsonl"}, "loss_scale": 0.5})
    batch, _ = Batches(Mixture((part,), folder, 0), tiny_processor, 2, 0, 1, False)[0]
    assert batch is not None and sorted(batch.pair_scales) == [0.5, 1.5]


def test_a_reference_that_would_move_is_refused(folder: Path) -> None:
    names = {"language.a.lora_A.weight", "image.branches.0.connector.0.weight"}
    off = Dpo(reference="adapters_off")
    with pytest.raises(TrainError, match=r"objective.reference.*image.*connector.*would move"):
        off.begin(fresh(ADAPTED), names, folder / "start", False, ProcessGroup())


def test_rows_of_a_budget_hold_both_answers(folder: Path, tiny_processor: Processor) -> None:
    part = {"data": {"path": "rows.jsonl"}}
    mixture = Mixture((MixturePart.model_validate(part),), folder, 0)
    woven = [woven_pair(tiny_processor.weave, mixture[i]) for i in range(2)]
    sizes = [sum(map(len, one.both)) for one in woven]
    measure = LengthMeasure(tiny_processor.weave, None)
    found = {measure(mixture[i], mixture.sources[0]) for i in range(2)}
    assert found == {Size(size, 2) for size in sizes}

    def read(tokens: int) -> tuple[set[int], list[str]]:
        stage = {
            "mixture": [part],
            "batch_size": 1,
            "order": "shuffled",
            "num_train_epochs": 1,
            "objective": "dpo",
            "packing": {"tokens": tokens},
            "drop_last": False,
        }
        words = {"name": "t", "recipe": "nano", "output_dir": "run", "num_workers": 0}
        training = config.validate(Training, {**words, "stages": [stage]}, "test")
        made = plan(training, 0, 0, folder, tiny_processor, (0, 1))
        read = list(loader(made.batches, 0))
        return {b.input_ids.shape[1] for b, _ in read if b}, [w for _, d in read for w in d]

    assert read(sum(sizes)) == ({sum(sizes)}, [])
    assert read(max(sizes)) == (set(sizes), [])
    widths, dropped = read(max(sizes) - 1)
    assert widths == {min(sizes)} and f"{max(sizes)} tokens are more than" in dropped[0]


def test_the_loss_is_its_formula(folder: Path, tiny_processor: Processor) -> None:
    objective, margin = Dpo(beta=0.5, label_smoothing=0.1), torch.tensor([1.0, -2.0])
    right, wrong = functional.logsigmoid(0.5 * margin), functional.logsigmoid(-0.5 * margin)
    torch.testing.assert_close(objective.of(margin), -0.9 * right - 0.1 * wrong)
    # A policy that is its reference prefers nothing.
    model = fresh()
    found = Dpo().loss(model, drawn(folder, tiny_processor), 2)
    assert found.item() == pytest.approx(0.6931472, abs=1e-6)


def test_adapters_off_are_the_model_below_them(folder: Path, tiny_processor: Processor) -> None:
    plain, model = fresh(), fresh(ADAPTED)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    batch = drawn(folder, tiny_processor)
    start = Dpo()
    start.begin(
        model,
        {n for n, p in model.named_parameters() if p.requires_grad},
        folder / "start",
        False,
        ProcessGroup(),
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    model.eval()
    off = Dpo(reference="adapters_off")
    loss = off.loss(model, batch, 2)
    # Fresh adapters add nothing, so what the stage began with is the model below them as well.
    torch.testing.assert_close(loss, start.loss(model, batch, 2))
    loss.backward()
    assert all(p.requires_grad == ("lora_" in n) for n, p in model.named_parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())
    with pytest.raises(TrainError, match="no adapters whose absence"):
        off.loss(plain, batch, 2)


def test_a_run_learns_and_goes_on_exactly(write: Write, folder: Path) -> None:
    words = {
        "mixture": [{"data": {"path": "rows.jsonl"}}],
        "max_steps": 4,
        "save_steps": 2,
        "objective": {"kind": "dpo", "beta": 0.5},
        "optimizer": {"lr": 0.01},
        "schedule": {"warmup_steps": 0},
    }
    path = write(stages=[{"max_steps": 1}, words])

    def stop(line: dict[str, Any]) -> None:
        if (line["stage"], line["step"]) == (1, 2):
            raise KeyboardInterrupt

    train(path, out=folder / "straight")
    assert not train(path, out=folder / "cut", listener=stop).finished
    assert train(path, out=folder / "cut").steps == 2
    same_weights(folder / "straight", folder / "cut")
    assert metrics(folder / "straight") == metrics(folder / "cut")
    losses = [line["loss"] for line in metrics(folder / "straight") if line["stage"] == 1]
    assert losses[0] == pytest.approx(0.69, abs=0.1)  # the policy drops out
    assert losses[-1] < 0.5
    (folder / "cut" / "start-01" / "model.safetensors").unlink()
    for place in (folder / "cut").glob("stage-01-step-0000004"):
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    with pytest.raises(TrainError, match="the model that the stage began with cannot be read"):
        train(path, out=folder / "cut")


def test_pairs_and_single_answers_are_not_taken_for_one_another(
    folder: Path, tiny_processor: Processor, tiny_model: MultimodalLM
) -> None:
    pair = drawn(folder, tiny_processor)
    with pytest.raises(TrainError, match="learns from one"):
        Sft().loss(tiny_model, pair, 2)
    (folder / "plain.jsonl").write_text(
        json.dumps({"messages": [said("user", "What?"), said("assistant", "A cup")]})
    )
    with pytest.raises(TrainError, match="'dpo' learns from pairs"):
        Dpo().loss(tiny_model, drawn(folder, tiny_processor, file="plain.jsonl"), 2)


FORMS: list[dict[str, Any]] = [
    {"image": "0.png", "prompt": "Which?", "chosen": "this", "rejected": "that"},
    {"image": "0.png", "question": "Which?", "chosen": "this", "rejected": "that"},
    {
        "images": ["0.png"],
        "chosen": [said("user", "<image>Which?"), said("assistant", "this")],
        "rejected": [said("user", "<image>Which?"), said("assistant", "that")],
    },
    {
        "conversations": [{"from": "human", "value": "<image>Which?"}],
        "chosen": {"from": "gpt", "value": "this"},
        "rejected": {"from": "gpt", "value": "that"},
        "images": ["0.png"],
    },
    {
        "turns": [{"role": "user", "content": [{"image": "0.png"}, "Which?"]}],
        "chosen": {"role": "assistant", "content": ["this"]},
        "rejected": {"role": "assistant", "content": ["that"]},
    },
]


@pytest.mark.parametrize("row", FORMS)
def test_rows_of_every_form_are_one_pair(
    row: dict[str, Any], folder: Path, tiny_processor: Processor
) -> None:
    (folder / "one.jsonl").write_text(json.dumps(row))
    batch = drawn(folder, tiny_processor, file="one.jsonl")
    decode = tiny_processor.weave.tokenizer.decode
    texts = [decode(r[r >= 0].tolist()).strip() for r in batch.labels]
    chosen, rejected = texts[:2], texts[2:]
    assert all(text.startswith("this") for text in chosen)
    assert all(text.startswith("that") for text in rejected)
    assert len(batch["items"]["image"].tiles) == 4


def test_earlier_answers_regions_and_several_pictures(
    folder: Path, tiny_processor: Processor
) -> None:
    point = [{"image": "0.png"}, {"image": "1.png"}, "What is at ", {"point": [5, 5]}, "?"]
    row = {
        "turns": [
            {"role": "user", "content": point},
            {"role": "assistant", "content": ["a cup"]},
            {"role": "user", "content": ["And now?"]},
        ],
        "chosen": "a dog",
        "rejected": "nothing",
    }
    row["chosen"], row["rejected"] = (
        {"role": "assistant", "content": [row[k]]} for k in ("chosen", "rejected")
    )
    (folder / "one.jsonl").write_text(json.dumps(row))
    batch = drawn(folder, tiny_processor, file="one.jsonl")
    decode = tiny_processor.weave.tokenizer.decode
    assert not any("cup" in decode(r[r >= 0].tolist()) for r in batch.labels)
    assert len(batch["items"]["image"].tiles) == 8 and len(batch["items"]["region"].tiles) == 4


@pytest.mark.parametrize(
    ("row", "said_"),
    [
        (
            {"prompt": "a", "question": "b", "chosen": "c", "rejected": "d"},
            "both prompt and question",
        ),
        ({"chosen": "c", "rejected": "d"}, "no two answers to one prompt"),
        ({"prompt": "a", "chosen": [3], "rejected": "d"}, "not a record of preferences"),
    ],
)
def test_what_is_no_pair_is_refused(
    row: dict[str, Any], said_: str, folder: Path, tiny_processor: Processor
) -> None:
    (folder / "one.jsonl").write_text(json.dumps(row))
    part = MixturePart.model_validate({"data": {"path": "one.jsonl"}})
    with pytest.raises(SampleError, match=said_):
        Mixture((part,), folder, 0)[0]


def test_rows_that_an_objective_does_not_learn_from_are_refused_before_the_first_step(
    write: Write,
) -> None:
    with pytest.raises(SampleError, match=r"none of the 5 records.*one answer alone.*Give rows"):
        train(write(stages=[{"objective": "dpo"}]))


@pytest.mark.parametrize("packing", [False, {"tokens": 300}])
def test_a_row_of_the_other_kind_is_left_out_and_named(
    packing: Any, write: Write, folder: Path
) -> None:
    lone = {"messages": [said("user", "What?"), said("assistant", "A cup")]}
    pairs = [{**row, "id": f"pair {i}"} for i, row in enumerate(rows())]
    both = [json.dumps(row) for row in (pairs[0], {**lone, "id": "lone"}, pairs[1])]
    stage = {
        "mixture": [{"data": {"path": "talks.jsonl"}}],
        "max_steps": 2,
        "batch_size": 3,
        "packing": packing,
    }
    words = {**stage, "objective": "dpo", "max_dropped": 1.0}
    done = train(write(both, [words]), out=folder / "dpo")
    (line,) = (done.folder / "dropped.jsonl").read_text().splitlines()
    assert "talks.jsonl: line 2: a row without chosen and rejected" in json.loads(line)["why"]
    with pytest.raises(SampleError, match=r"chosen and a rejected answer.*Set objective: dpo"):
        train(write(both, [stage]), out=folder / "sft")
