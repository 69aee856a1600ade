"""Plans and refusals that need no second process."""

from __future__ import annotations

import pytest
import torch

import omnimix
from omnimix.compose import recipe as recipes
from omnimix.errors import OmnimixError, ParallelError
from omnimix.parallel import tensor
from omnimix.parallel.process_group import ProcessGroup, check_cuda, current, join
from tests.conftest import TINY


def test_one_process_is_the_plain_model(tiny_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assistant = omnimix.load(tiny_folder, parallel="tensor")
    assert type(assistant.process_group) is ProcessGroup and assistant.process_group.size == 1
    assert type(join()) is ProcessGroup and type(current()) is ProcessGroup


@pytest.mark.parametrize(
    ("change", "size", "said"),
    [
        ((), 8, "num_attention_heads is 4, which 8 processes cannot share"),
        (("language.config.num_key_value_heads=2",), 4, "num_key_value_heads is 2"),
        (("language.config.intermediate_size=63",), 2, "gate_proj is 63"),
    ],
)
def test_what_does_not_divide_is_refused(change: tuple[str, ...], size: int, said: str) -> None:
    with pytest.raises(ParallelError, match=said) as caught:
        tensor.plan(recipes.load("nano", (*TINY, *change)), size)
    assert "nproc-per-node 1" in caught.value.sentence()


def test_a_language_model_without_a_plan_is_refused() -> None:
    recipe = recipes.load("nano", TINY)
    words = {"model_type": "gpt2", "vocab_size": 712, "n_embd": 32, "n_layer": 1, "n_head": 4}
    language = recipe.language.model_copy(update={"config": words})
    with pytest.raises(ParallelError, match=r"no tensor-parallel plan.*gpt2"):
        tensor.plan(recipe.model_copy(update={"language": language}), 2)


def test_a_head_that_gives_some_of_its_rows_stays_whole() -> None:
    found = tensor.plan(recipes.load("xgen_mm"), 2)
    assert found[tensor.HEAD] == "replicate"
    assert found["language.model.layers.*.self_attn.qkv_proj"] == "colwise_gather_output"


def test_more_processes_than_gpus() -> None:
    with pytest.raises(ParallelError, match=r"4 processes.*2 GPUs") as caught:
        check_cuda(4, 2)
    assert "--nproc-per-node 2" in caught.value.sentence()


def test_words_that_exclude_each_other() -> None:
    with pytest.raises(OmnimixError, match="Leave out one"):
        omnimix.load("nano", parallel="tensor", quantization="nf4")
    with pytest.raises(OmnimixError, match="unknown parallel"):
        omnimix.load("nano", parallel="pipeline")


@pytest.mark.parametrize(("count", "size"), [(1, 2), (3, 2), (4, 2), (5, 4)])
def test_shares_are_padded_with_the_first(
    count: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = torch.arange(count, dtype=torch.bfloat16).view(count, 1)
    each = -(-count // size)
    seen: list[torch.Tensor] = []

    def encode(share: torch.Tensor) -> torch.Tensor:
        seen.append(share)
        return share + 1

    def gather(whole: torch.Tensor, mine: torch.Tensor, group: object) -> None:
        padded = torch.cat([tiles, tiles[:1].expand(each * size - count, 1)]) + 1
        assert len(mine) == each
        whole.copy_(padded.contiguous().view(torch.uint8))

    monkeypatch.setattr(tensor.dist, "all_gather_single", gather)
    last = tensor.Spread(size - 1, size)
    assert torch.equal(last(encode, tiles), tiles + 1)
    assert all(len(share) == each for share in seen)
    padded = torch.cat([tiles, tiles[:1].expand(each * size - count, 1)])
    assert torch.equal(seen[0], padded[-each:])
