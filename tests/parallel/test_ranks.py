"""Two processes against one: the same logits, the same tokens, and errors that leave nobody waiting."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import omnimix
from omnimix.checkpoints.base import open_release
from omnimix.compose import recipe as recipes
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.convert import certificate
from omnimix.generate.assistant import Assistant
from omnimix.prompts.questions import question
from omnimix.registry import CHECKPOINTS
from tests.cases import case_path
from tests.conftest import TINY
from tests.parallel.ranks import QUESTION

ROOT = Path(__file__).parent.parent.parent
PICTURE = ROOT / "examples" / "scene.png"
SECONDS = 300
TOKENS = 8

ONE_SHARD = "sphinx/ens_1shard"
TWO_SHARDS = "sphinx/ens5_2shard"


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    """Two processes on the CPU; both are ended when time is up."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [*command, "--standalone", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"two processes were not done after {SECONDS} s")
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@dataclass
class Ran:
    """What two ranks wrote, and the folders they opened."""

    models: dict[str, Path]
    ranks: list[dict[str, Any]]
    tensors: list[dict[str, Tensor]]


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with grouped queries and a head of its own."""
    changed = ("language.config.num_key_value_heads=2", "language.config.tie_word_embeddings=false")
    recipe = recipes.load("nano", (*TINY, *changed))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = MultimodalLM.from_recipe(recipe)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3)
    folder = tmp_path_factory.mktemp("grouped") / "grouped"
    model.save_pretrained(folder)
    Processor.from_recipe(recipe).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ran(
    tiny_folder: Path, grouped: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ran]:
    place = tmp_path_factory.mktemp("ranks")
    two = case_path(TWO_SHARDS) / "checkpoint"
    four = place / "four" / "checkpoint"
    whole = omnimix.load(two, dtype=torch.float32)
    CHECKPOINTS.load("sphinx")().write(whole.model, whole.processor, four, shards=4)
    models = {
        "tiny": tiny_folder,
        "grouped": grouped,
        "one_shard": case_path(ONE_SHARD) / "checkpoint",
        "two_shards": two,
        "four_shards": four,
    }
    plan = place / "plan.json"
    words = {
        "models": {name: str(folder) for name, folder in models.items()},
        "picture": str(PICTURE),
        "tokens": TOKENS,
    }
    plan.write_text(json.dumps(words))
    done = torchrun(str(Path(__file__).parent / "ranks.py"), str(plan))
    assert done.returncode == 0, done.stderr[-4000:]
    yield Ran(
        models,
        [json.loads((place / f"rank{rank}.json").read_text()) for rank in range(2)],
        [load_file(place / f"rank{rank}.safetensors") for rank in range(2)],
    )


NAMES = ("tiny", "grouped", "one_shard", "two_shards", "four_shards")


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_give_the_logits_and_the_tokens_of_one(ran: Ran, name: str) -> None:
    alone = omnimix.load(ran.models[name], dtype=torch.float32)
    expected = certificate.probe(alone.model, alone.processor)["logits"]
    turns = [question(QUESTION, [str(PICTURE)], [])]
    ids = list(alone.reply(turns, max_new_tokens=TOKENS).ids)
    assert ids
    for results, tensors in zip(ran.ranks, ran.tensors, strict=True):
        torch.testing.assert_close(tensors[f"{name}.logits"], expected, atol=1e-4, rtol=1e-5)
        assert results["models"][name]["ids"] == ids


def test_recut_shards_hold_the_same_model(ran: Ran) -> None:
    assert len(open_release(ran.models["four_shards"]).layout.files) == 4
    for tensors in ran.tensors:
        two, four = tensors["two_shards.logits"], tensors["four_shards.logits"]
        torch.testing.assert_close(four, two, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_each_rank_holds_its_part_alone(ran: Ran, name: str) -> None:
    for results in ran.ranks:
        held = results["models"][name]["held"]
        assert held["own"] < 0.51 * held["whole"]


def test_ranks_choose_the_same_tokens(ran: Ran, tiny_folder: Path) -> None:
    first, second = ran.ranks
    assert first["sampled"] == second["sampled"]
    assert first["sampled"][0] != first["sampled"][1], "a seed of one's own for every answer"
    turns = [question(QUESTION, [str(PICTURE)], [])]
    alone = omnimix.load(tiny_folder)
    hot = {"temperature": 5.0, "max_new_tokens": 12}
    assert first["seeded"] == second["seeded"] == list(alone.reply(turns, seed=3, **hot).ids)
    assert first["streamed"] == second["streamed"]
    assert first["streamed"] == alone.reply(turns, max_new_tokens=12).text


def test_an_error_of_one_rank_is_an_error_of_all(ran: Ran) -> None:
    first, second = (results["errors"] for results in ran.ranks)
    assert "no such file" in second["file"]
    assert first["file"].startswith("rank 1 failed") and "/nowhere.png" in first["file"]
    assert first["input"] == second["input"] and "different input" in first["input"]
    assert first["between"] == second["between"] == "nothing", "such errors leave the ranks whole"
    assert second["inside"] == "no memory is left"
    assert first["inside"] == "rank 1 failed: no memory is left."
    assert "started again" in first["after"] and "started again" in second["after"]


def test_the_command_speaks_once(tiny_folder: Path) -> None:
    words = ("chat", str(tiny_folder), "--parallel", "tensor", "--image", str(PICTURE))
    wrong = torchrun("-m", "omnimix", *words[:-1], "/nowhere.png", "--ask", "What?")
    assert wrong.returncode != 0
    assert wrong.stderr.count("there is no such picture") == 1, wrong.stderr[-3000:]
    done = torchrun("-m", "omnimix", *words, "--ask", "What?", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.strip().splitlines()) == 1
    alone = Assistant.answer(
        omnimix.load(tiny_folder), "What?", image=str(PICTURE), max_new_tokens=96
    )
    assert json.loads(done.stdout)["answer"] == alone
