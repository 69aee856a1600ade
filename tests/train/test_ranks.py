"""Two processes train as one: the same gradients and weights, and nobody waits for ever."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from omnimix import config
from omnimix.compose import recipe as recipes
from tests.conftest import TINY
from tests.parallel.test_ranks import torchrun
from tests.train.ranks import trained
from tests.train.runs import looks, metrics, same_weights, weights


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training file of a model with two senses, and without batch norms."""
    folder = tmp_path_factory.mktemp("ranks")
    recipe = recipes.load("nano", TINY).dump()
    encoder = {
        "kind": "transformers",
        "config": {
            "model_type": "clip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 16,
        },
        "finish": ["drop_prefix"],
    }
    image = {
        "opens": "image",
        "steps": [
            {"kind": "resize", "size": 32},
            {"kind": "normalize", "mean": [0.5] * 3, "std": [0.5] * 3},
        ],
        "branches": [{"encoders": [encoder], "connector": "linear"}],
    }
    listener = {
        "kind": "whisper",
        "reads": "frames",
        "config": {
            "d_model": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 16,
            "num_mel_bins": 8,
            "max_source_positions": 5,
            "vocab_size": 20,
            **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 2),
            "decoder_start_token_id": 3,
            "decoder_layers": 1,
            "decoder_attention_heads": 2,
            "dropout": 0.0,
        },
    }
    audio = {
        "opens": "audio",
        "steps": [{"kind": "log_mel", "feature_size": 8, "chunk_length": 1, "hop_length": 1600}],
        "branches": [{"encoders": [listener], "connector": "linear"}],
    }
    recipe["modalities"] = {"image": image, "audio": audio}
    recipe["adapters"] = [{"r": 2, "target_modules": ["q_proj"]}]
    (folder / "two.yaml").write_text(config.to_yaml(recipe))
    words = {
        "name": "two senses",
        "recipe": "two.yaml",
        "num_workers": 0,
        "output_dir": "run",
        "stages": [
            {
                "mixture": [{"data": {"kind": "jsonl", "path": "none.jsonl"}}],
                "batch_size": 2,
                "max_steps": 4,
                "logging_steps": 1,
                "bf16": False,
                "schedule": {"warmup_steps": 1},
                # Adam divides gradients that are nothing but rounding by their own size.
                "optimizer": {"lr": 0.01, "eps": 1e-4},
            }
        ],
    }
    path = folder / "two.train.yaml"
    path.write_text(config.to_yaml(words))
    return path


@dataclass
class Ran:
    """What the processes of a run wrote."""

    out: Path
    said: list[dict[str, Any]]
    gradients: list[dict[str, Tensor]]


CASES: dict[str, tuple[str, ...]] = {
    "plain": (),
    "packed": (
        "stages.0.packing=true",
        "stages.0.gradient_accumulation_steps=2",
        "stages.0.batch_size=4",
    ),
    "clipped": (
        "stages.0.optimizer.clip_micro_batches=true",
        "stages.0.optimizer.max_grad_norm=0.1",
        "stages.0.objective={kind: sft, average: micro_batch}",
        "stages.0.gradient_accumulation_steps=2",
        "stages.0.batch_size=4",
    ),
    "connectors": ("stages.0.trainable=[connectors]",),
    "full": ("stages.0.trainable=['*']",),
    "validated": (
        "stages.0.validate={data: {kind: jsonl, path: none.jsonl}, every: 2, answers: 1, max_new_tokens: 2}",
    ),
}
UNCUT = ("set=['adapters=[]']", "stages.0.trainable=['*']")
"""Layers that tensor parallelism may cut."""

BITS = "stages.0.optimizer.name=adamw_8bit"
KEPT = ("stages.0.trainable=[connectors, language]", "stages.0.feature_cache={folder: kept}")
"""What frozen encoders give is kept, so that they are not always called."""

PLANS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "fully": (
        CASES["packed"],
        ("parallel.shard=full", "stages.0.gradient_checkpointing=true"),
    ),
    "fully-clipped": (CASES["clipped"], ("parallel.shard=full",)),
    "fully-connectors": (CASES["connectors"], ("parallel.shard=full",)),
    "fully-validated": (CASES["validated"], ("parallel.shard=full", "parallel.offload=cpu")),
    "grad": ((), ("parallel.shard=grad",)),
    "hybrid": (CASES["full"], ("parallel.shard=hybrid", "parallel.replicate=2")),
    "tensor": (UNCUT, ("parallel.tensor=2",)),
    "kept": (KEPT, ("parallel.shard=full",)),
    "8 bits": ((BITS,), ()),
    "adafactor": (("stages.0.optimizer={name: adafactor}",), ()),
}
"""Words of a run, and how the model lies over two processes in it."""

ONE = "mixture: [{data: {kind: jsonl, path: none.jsonl}}], batch_size: 2, max_steps: 1, bf16: false"

REFUSED = {
    "three": ("parallel.replicate=3", "shard: none, replicate: 3 makes no mesh of 2 processes"),
    "four": ("parallel={shard: full, tensor: 4}", "tensor: 4 makes no mesh of 2 processes"),
    "adapted": ("parallel.tensor=2", "parallel.tensor: layers with adapters are not cut"),
    "heads": (
        "parallel.tensor=2;set=['adapters=[]','language.config.num_key_value_heads=1']",
        "num_key_value_heads is 1, which 2 processes cannot share evenly",
    ),
    "cut adafactor": (
        "parallel.shard=full;stages.0.optimizer={name: adafactor}",
        "adafactor does not work on weights that lie over several processes",
    ),
    "muon": ("parallel.shard=full;stages.0.optimizer.name=muon", "muon does not work on weights"),
    "kept and learned": (
        f"parallel.shard=full;stages=[{{{ONE}, trainable: [connectors], feature_cache: {{folder: kept}}}}, {{{ONE}}}]",
        "stages.0.feature_cache: features of 'image' are kept whose encoder learns in another stage",
    ),
    "few bits": (
        "parallel.shard=full;quantization=nf4;initial_checkpoint=nano",
        "quantized weights stay whole in every process",
    ),
}

DROPOUT = "set=['language.config.attention_dropout=0.2']"


@pytest.fixture(scope="module")
def two(file: Path) -> dict[str, Ran]:
    """All runs of two processes, one after another; the error that ends the group comes last."""
    folder = file.parent

    def words(name: str, *overrides: str, out: str | None = None, **more: Any) -> dict[str, Any]:
        place = str(folder / "two" / (out or name))
        return {"name": name, "file": str(file), "out": place, "overrides": overrides, **more}

    runs = [words(name, *overrides) for name, overrides in CASES.items()]
    runs += [words(name, *case, *plan) for name, (case, plan) in PLANS.items()]
    runs += [words(name, *overrides.split(";")) for name, (overrides, _) in REFUSED.items()]
    full, none = "parallel.shard=full", "parallel.shard=none"
    # One process trains two steps, and two go on; two train two, and go on otherwise or alone.
    trained(words("grown", press=2))
    runs += [
        words("grown", full),
        words("shrunk", full, press=2),
        words("turned", full, press=2),
        words("turned on", none, out="turned"),
        words("few", BITS, press=2),
        words("few on", BITS, out="few"),
        words("finished", full, f"initial_checkpoint={folder / 'two' / 'plain' / 'model'}"),
    ]
    runs += [
        words("straight", DROPOUT),
        words("cut", DROPOUT, press=2),
        words("changed", DROPOUT, "seed=3", out="cut"),
        words("resumed", DROPOUT, out="cut"),
        words("killed", DROPOUT, kill=1),
        words("spoiled", spoiled=True),
        words("spoiled again", out="spoiled", spoiled=True),
        words("raised", "stages.0.max_dropped=0.9", out="spoiled", spoiled=True),
        words("small", "stages.0.batch_size=1"),
        words("broken", broken=1),
        words("unseen", full, *CASES["validated"], "stages.0.validate.answers=2", unseen=1),
        words("burst", full, burst=1),
        words("lost step", full, fails="step"),
        words("lost answers", full, *CASES["validated"], fails="answers"),
        words("lost resume", full, fails="resume"),
    ]
    plan = folder / "plan.json"
    plan.write_text(json.dumps(runs))
    done = torchrun(str(Path(__file__).parent / "ranks.py"), str(plan))
    assert done.returncode == 0, done.stderr[-4000:]
    return {
        each["name"]: Ran(
            Path(each["out"]),
            [json.loads((folder / each["name"] / f"rank{r}.json").read_text()) for r in (0, 1)],
            [load_file(folder / each["name"] / f"rank{r}.safetensors") for r in (0, 1)],
        )
        for each in runs
    }


@pytest.fixture(scope="module")
def one(file: Path) -> Callable[[tuple[str, ...]], tuple[Path, dict[str, Any], dict[str, Tensor]]]:
    """Trains with some words in one process, once."""
    done: dict[tuple[str, ...], tuple[Path, dict[str, Any], dict[str, Tensor]]] = {}

    def run(overrides: tuple[str, ...]) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
        if overrides not in done:
            out = file.parent / "one" / str(len(done))
            words = {"file": str(file), "out": str(out), "overrides": overrides}
            done[overrides] = (out, *trained(words))
        return done[overrides]

    return run


@pytest.mark.parametrize("name", [*CASES, *PLANS])
def test_two_processes_learn_what_one_learns(two: dict[str, Ran], one: Any, name: str) -> None:
    pair = two[name]
    place, alone, expected = one(CASES[name] if name in CASES else PLANS[name][0])
    assert alone["size"] == 1 and [said["size"] for said in pair.said] == [2, 2]
    assert all(said.get("finished") for said in pair.said), [
        said.get("error") for said in pair.said
    ]
    assert [said["dropped"] for said in pair.said] == [alone["dropped"]] * 2
    for gradients in pair.gradients:
        assert gradients.keys() == expected.keys() and expected
        for key, gradient in expected.items():
            torch.testing.assert_close(gradients[key], gradient, atol=1e-6, rtol=1e-5)
    left, right = weights(place), weights(pair.out)
    assert left.keys() == right.keys()
    for key, tensor in left.items():
        torch.testing.assert_close(right[key], tensor, atol=2e-6, rtol=1e-5)
    for mine, theirs in zip(metrics(pair.out), metrics(place), strict=True):
        assert mine == pytest.approx(theirs, abs=2e-4)
    for mine, theirs in zip(looks(pair.out), looks(place), strict=True):
        assert mine["step"] == theirs["step"] and mine["left_out"] == theirs["left_out"] == 1
        assert mine["validation"] == pytest.approx(theirs["validation"], abs=1e-4)


def test_no_rank_waits_for_a_sense_that_it_has_not(two: dict[str, Ran]) -> None:
    first, second = (said["senses"] for said in two["plain"].said)
    assert first == [["image"], ["image"], [], ["image"]]
    assert second == [["audio"], ["audio"], [], []]
    for gradients in two["plain"].gradients:
        for sense in ("image", "audio"):
            found = [name for name in gradients if f"/{sense}.branches.0.connector" in name]
            assert any(name.startswith("0/") for name in found), "both ranks have both senses'"
            assert all(gradients[n].abs().max() > 0 for n in found if n.endswith(".weight"))
            assert not any(n.startswith("2/") for n in found), "nobody saw it, so there is none"


def test_a_stopped_run_goes_on_exactly(two: dict[str, Ran]) -> None:
    cut, resumed = two["cut"], two["resumed"]
    assert [(said["finished"], said["steps"]) for said in cut.said] == [(False, 2)] * 2
    assert [(said["finished"], said["steps"]) for said in resumed.said] == [(True, 2)] * 2
    same_weights(two["straight"].out, resumed.out)
    assert metrics(two["straight"].out) == metrics(resumed.out)


@pytest.mark.parametrize("name", ["grown", "shrunk", "turned"])
def test_a_run_goes_on_with_another_plan_and_other_processes(
    file: Path, two: dict[str, Ran], one: Any, name: str
) -> None:
    if name == "shrunk":
        rest, _ = trained({"file": str(file), "out": str(two[name].out), "overrides": ()})
        assert rest["finished"] and rest["steps"] == 2
    left, right = weights(one(())[0]), weights(two[name].out)
    assert left.keys() == right.keys()
    for key, tensor in left.items():
        torch.testing.assert_close(right[key], tensor, atol=1e-6, rtol=1e-5)


def test_a_run_in_8_bits_goes_on_exactly(two: dict[str, Ran]) -> None:
    assert all(said["finished"] for said in two["few on"].said)
    same_weights(two["8 bits"].out, two["few on"].out)


def test_a_model_is_read_in_pieces_onto_the_mesh(two: dict[str, Ran], one: Any) -> None:
    place, *_ = one((f"initial_checkpoint={two['plain'].out / 'model'}",))
    left, right = weights(place), weights(two["finished"].out)
    for key, tensor in left.items():
        torch.testing.assert_close(right[key], tensor, atol=1e-6, rtol=1e-5)
    assert not any("makes the whole model" in said for said in two["finished"].said[0]["told"])
    assert any("makes the whole model" in said for said in two["fully"].said[0]["told"])


@pytest.mark.parametrize("name", REFUSED)
def test_a_plan_that_does_not_fit_is_refused_by_all(two: dict[str, Ran], name: str) -> None:
    assert all(REFUSED[name][1] in said["error"] for said in two[name].said), two[name].said


@pytest.mark.parametrize("name", ["burst", "lost step", "lost answers", "lost resume"])
def test_an_error_where_others_wait_ends_all(two: dict[str, Ran], name: str) -> None:
    """Inside a sharded pass, where weights move, where answers are written, where a checkpoint is read."""
    first, second = two[name].said
    assert second["error"] == "no memory is left"
    assert first["error"] == "rank 1 failed: no memory is left."


def test_both_end_together_by_a_signal_and_by_what_is_refused(two: dict[str, Ran]) -> None:
    assert [(said["signal"], said["steps"]) for said in two["killed"].said] == [(15, 1)] * 2
    for name, words in (
        ("changed", "began with other words: seed: 0 -> 3"),
        ("spoiled", "2 records (of 8) could not be used, more than max_dropped"),
        ("spoiled again", "2 records (of 8) could not be used, more than max_dropped"),
    ):
        assert all(words in said["error"] for said in two[name].said), two[name].said
    assert all(said["finished"] for said in two["raised"].said)
    named = (two["raised"].out / "dropped.jsonl").read_text().splitlines()
    assert len(named) == len({json.loads(line)["why"] for line in named}) > 1


def test_what_one_rank_cannot_read_is_asked_by_none(two: dict[str, Ran]) -> None:
    run = two["unseen"]
    assert all(said.get("finished") for said in run.said), run.said
    lines = (run.out / "answers" / "stage-00-step-0000002" / "answers.jsonl").read_text()
    assert [json.loads(line)["row"] for line in lines.splitlines()] == [1]
    said = "1 records of validation are not answered: not every process can read them"
    assert said in run.said[0]["told"]


def test_an_error_of_one_rank_ends_all(two: dict[str, Ran]) -> None:
    first, second = two["broken"].said
    assert second["error"] == "no memory is left"
    assert first["error"] == "rank 1 failed: no memory is left."


def test_a_batch_too_small_to_share(two: dict[str, Ran]) -> None:
    assert all("cannot be shared by 2 processes" in said["error"] for said in two["small"].said)
