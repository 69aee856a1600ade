"""What other launchers say of their processes, under the names that torchrun has for it."""

from __future__ import annotations

import os
import re

from omnimix.errors import ParallelError

_SLURM = {"WORLD_SIZE": "SLURM_NTASKS", "RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID"}


def take_slurm() -> None:
    """What `srun` says of its tasks, under the names that torchrun has for it.

    Raises:
        ParallelError: several tasks, and nothing that says where the first of them runs.
    """
    here = os.environ
    # A batch script sees the number of tasks as well, without being one of them.
    task = "SLURM_STEP_ID" in here or "MASTER_ADDR" in here
    several = task and "SLURM_PROCID" in here and int(here.get("SLURM_NTASKS", "1")) > 1
    if "WORLD_SIZE" in here or not several:
        return
    if "MASTER_ADDR" not in here:
        raise ParallelError(
            f"srun started {here['SLURM_NTASKS']} tasks, and MASTER_ADDR does not say where they meet",
            hint='export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        )
    here |= {ours: here[theirs] for ours, theirs in _SLURM.items() if theirs in here}
    here.setdefault("MASTER_PORT", "29500")
    each = here.get("SLURM_STEP_TASKS_PER_NODE", here.get("SLURM_TASKS_PER_NODE", ""))
    if number := re.match(r"\d+", each):  # 8(x2),4: eight on each of the first two
        here.setdefault("LOCAL_WORLD_SIZE", number[0])


_MPI = {
    "WORLD_SIZE": ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"),
    "RANK": ("OMPI_COMM_WORLD_RANK", "PMI_RANK"),
    "LOCAL_RANK": ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"),
    "LOCAL_WORLD_SIZE": ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"),
}


def take_mpi() -> None:
    """What `mpirun` says, where somebody says besides where they meet, as accelerate does."""
    here = os.environ
    found = {ours: here[own] for ours, names in _MPI.items() for own in names if own in here}
    if "MASTER_ADDR" in here and "WORLD_SIZE" not in here and {"RANK", "WORLD_SIZE"} <= set(found):
        here |= {"MASTER_PORT": here.get("MASTER_PORT", "29500"), **found}
