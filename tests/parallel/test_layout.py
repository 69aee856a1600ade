"""What a plan makes of the processes there are, and who says how many there are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from torch import distributed as dist
from torch.nn import functional

from omnimix.compose.model import MultimodalLM
from omnimix.errors import ParallelError
from omnimix.parallel import launchers
from omnimix.parallel.layout import ParallelSpec, blocks
from omnimix.parallel.norms import SharedNorms
from tests.compose.shrunk import shrunk

CLUSTER = Path(__file__).parent.parent.parent / "examples" / "cluster"


@pytest.mark.parametrize(
    ("words", "world", "machines", "mesh"),
    [
        ({}, 4, 1, (4, 1, 1)),
        ({"shard": "full"}, 8, 2, (1, 8, 1)),
        ({"shard": "hybrid"}, 8, 2, (2, 4, 1)),
        ({"shard": "grad", "tensor": 2}, 8, 1, (1, 4, 2)),
        ({"tensor": 2}, 8, 1, (4, 1, 2)),
        ({"shard": "full", "replicate": 2, "tensor": 2}, 8, 1, (2, 2, 2)),
    ],
)
def test_a_mesh_has_as_many_places_as_there_are_processes(
    words: dict[str, object], world: int, machines: int, mesh: tuple[int, int, int]
) -> None:
    assert ParallelSpec.model_validate(words).sizes(world, machines) == mesh


@pytest.mark.parametrize(
    ("words", "world"),
    [
        ({"tensor": 3}, 4),
        ({"tensor": 8}, 4),
        ({"replicate": 3}, 4),
        ({"replicate": 2}, 4),
        ({"shard": "full", "replicate": 3}, 4),
        ({"shard": "full", "replicate": 2}, 1),
    ],
)
def test_a_plan_that_makes_no_mesh_is_refused(words: dict[str, object], world: int) -> None:
    with pytest.raises(ParallelError, match=f"makes no mesh of {world} process"):
        ParallelSpec.model_validate(words).sizes(world)


@pytest.mark.parametrize("name", ["nano", "prism_dinosiglip", "sphinx_v", "xgen_mm"])
def test_blocks_are_found_in_every_tower_and_lie_in_no_other(name: str) -> None:
    model = MultimodalLM.on_meta(shrunk(name))
    found = blocks(model)
    inside = [id(inner) for block in found for inner in block.modules()]
    assert len(inside) == len(set(inside))
    layers = list(model.language.model.layers)
    assert found[-len(layers) :] == layers
    for modality in model.modalities:
        for branch in model.modality(modality).branches:
            for encoder in branch.encoders:  # type: ignore[union-attr]
                held = {id(p) for block in found for p in block.parameters()}
                own = list(encoder.parameters())
                share = sum(p.numel() for p in own if id(p) in held)
                small = sum(p.numel() for p in own) < 5000
                assert small or share > 0, f"{modality}: no block"


SRUN = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}


def test_tasks_of_srun_are_ranks() -> None:
    more = {**SRUN, "MASTER_ADDR": "first", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
    with mock.patch.dict(os.environ, more):
        launchers.take_slurm()
        names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
        assert [os.environ[name] for name in names] == ["4", "1", "1", "2", "29500"]


@pytest.mark.parametrize(
    "names",
    [
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
        {"PMI_SIZE": "2", "PMI_RANK": "1", "MPI_LOCALRANKID": "1"},
    ],
)  # fmt: skip
def test_processes_of_mpirun_under_accelerate_are_ranks(names: dict[str, str]) -> None:
    with mock.patch.dict(os.environ, names):
        launchers.take_mpi()  # each of them alone: nobody says where they meet
        assert "WORLD_SIZE" not in os.environ
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
        launchers.take_mpi()
        found = [os.environ[n] for n in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")]
        assert found == ["2", "1", "1", "29511"]


def test_a_batch_script_alone_is_no_task_and_tasks_without_a_meeting_place_are_refused() -> None:
    with mock.patch.dict(os.environ, SRUN):
        launchers.take_slurm()
        assert "WORLD_SIZE" not in os.environ
        os.environ["SLURM_STEP_ID"] = "0"
        with pytest.raises(ParallelError, match="srun started 4 tasks, and MASTER_ADDR does not"):
            launchers.take_slurm()


@pytest.fixture
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_shared_batch_norm_is_a_batch_norm() -> None:
    torch.manual_seed(0)
    found = []
    for mode in (SharedNorms(), torch.autograd.set_grad_enabled(True)):
        torch.manual_seed(0)
        x = torch.randn(4, 3, 5, 5, requires_grad=True)
        mean, var, weight = torch.zeros(3), torch.ones(3), torch.rand(3, requires_grad=True)
        with mode:
            y = functional.batch_norm(x, mean, var, weight, torch.rand(3), True, 0.2, 1e-3)
        (y**3).sum().backward()
        found.append((y, mean, var, x.grad, weight.grad))
    for ours, torchs in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs, atol=1e-4, rtol=1e-4)


def test_the_files_to_copy_say_what_they_start() -> None:
    service, job = yaml.safe_load_all((CLUSTER / "train.yaml").read_text())
    words = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert words[0] == "torchrun" and f"--nnodes={job['spec']['completions']}" in words
    assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"]
    assert "srun" in (text := (CLUSTER / "train.sbatch").read_text()) and "MASTER_ADDR" in text
