"""Processes that hold one model together, started by `torchrun` or by the caller.

Every process runs the same script with the same input. What can go wrong on one of them alone (a file that
is not there, no memory left) must not leave the others waiting: an error of one rank is an error of all.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed as dist

from omnimix.errors import OmnimixError, ParallelError, reason
from omnimix.parallel import launchers

FAILED = "omnimix/failed"
TOLD = "omnimix/told"

PATIENCE = 10.0
"""Seconds that a rank which failed waits for the first to say so."""

LOOK = 0.5
"""Seconds between two looks for an error of another rank, on CUDA."""


class ProcessGroup:
    """A single process: nothing has to be agreed upon."""

    rank = 0
    size = 1
    known: BaseException | None = None
    """The last error that all ranks have heard of, and can go on behind."""

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Around work in which ranks wait for each other."""
        yield

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """Around work of a rank's own; behind it all ranks go on, or none."""
        yield

    def same(self, what: str, value: Any) -> None:
        """Refuse to go on where ranks hold different values."""

    def seed(self, seed: int | None) -> int | None:
        """The seed of sampling, equal on all ranks."""
        return seed

    def gather(self, what: str, value: Any) -> list[Any]:
        """What every rank says, in order.

        Args:
            what: a word for it, the same on all ranks.
            value: small, for it is pickled.
        """
        return [value]

    def tell(self, value: Any) -> Any:
        """What the first rank says, whatever the others do."""
        return value

    def any(self, said: bool) -> bool:
        """Whether any rank says so."""
        return said

    def leave(self) -> None:
        """At the end of the work, well or not: wait until the first rank has told what there is to tell."""


class Ranks(ProcessGroup):
    """Several processes.

    Args:
        rank, size: of this process, and how many there are.
        store: where a failing rank leaves its sentence, reachable when the group is gone.
        control: a group on the CPU for what is agreed upon.
    """

    def __init__(self, rank: int, size: int, store: Any, control: Any) -> None:
        self.rank = rank
        self.size = size
        self.store = store
        self.control = control
        self.failed: str | None = None
        """What ended the work, and on which rank."""

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Around work in which ranks wait for each other.

        Raises:
            ParallelError: another rank failed; says which and why.
        """
        self._alive()
        try:
            yield
        except BaseException as error:
            self._end(error)
            raise
        self._look()

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        own: Exception | None = None
        try:
            yield
        except ParallelError:
            raise
        except Exception as error:
            if error is self.known:
                raise
            own = error
        said = self.gather("agreed", None if own is None else reason(own))
        for rank, sentence in enumerate(said):
            if sentence is not None:
                self.known = own or ParallelError(f"rank {rank} failed: {sentence}")
                raise self.known

    def same(self, what: str, value: Any) -> None:
        values = self.gather(what, value)
        if any(other != values[0] for other in values):
            raise ParallelError(
                f"the ranks were given different {what}",
                hint="every process of torchrun has to ask the same question about the same pictures",
            )

    def seed(self, seed: int | None) -> int | None:
        drawn = int(torch.randint(2**31, ()).item()) if seed is None else seed
        found: int = self.gather("seed", drawn)[0]
        return found

    def tell(self, value: Any) -> Any:
        told = [value]
        with self.together():
            dist.broadcast_object_list(told, 0, group=self.control)
        return told[0]

    def any(self, said: bool) -> bool:
        return any(self.gather("any", said))

    def leave(self) -> None:
        with contextlib.suppress(Exception):
            if self.rank == 0:
                self.store.set(TOLD, "yes")
            else:
                _until(self.store, TOLD, PATIENCE)
        if self.failed is None and dist.is_initialized():
            with contextlib.suppress(Exception):
                dist.destroy_process_group()

    def gather(self, what: str, value: Any) -> list[Any]:
        """What every rank says, in order.

        Raises:
            ParallelError: a rank failed, or they do not do the same thing.
        """
        with self.together():
            said: list[Any] = [None] * self.size
            dist.all_gather_object(said, (what, value), group=self.control)
        if any(word != what for word, _ in said):
            words = ", ".join(sorted({word for word, _ in said}))
            raise ParallelError(
                f"the ranks do different things at the same time ({words})",
                hint="every process of torchrun has to run the same script with the same input",
            )
        return [value for _, value in said]

    def _alive(self) -> None:
        if self.failed is not None:
            raise ParallelError(self.failed, hint="the processes have to be started again")

    def _look(self) -> None:
        """Notice that another rank has failed.

        Raises:
            ParallelError: says which and why.
        """
        said = self._said()
        if said is not None:
            self.failed = said
            _abort()
            raise ParallelError(said)

    def _end(self, error: BaseException) -> None:
        """Leave a sentence for the others and close the connections, so that nobody waits for ever.

        Raises:
            ParallelError: in place of a broken connection, the reason why another rank broke it.
        """
        if self.failed is not None:
            return
        said = self._said()
        foreign = isinstance(error, RuntimeError) and not isinstance(error, OmnimixError)
        if said is None and foreign and _is_connection(error):
            # The other rank is gone without a word: killed, or out of the machine's memory.
            said = "another rank ended without a word (killed, or out of memory)"
        if said is not None:
            self.failed = said
            _abort()
            raise ParallelError(said) from error
        self.failed = f"rank {self.rank} failed: {reason(error)}"
        with contextlib.suppress(Exception):
            self.store.set(FAILED, self.failed)
        _abort()

    def _said(self) -> str | None:
        with contextlib.suppress(Exception):
            if self.store.check([FAILED]):
                return str(self.store.get(FAILED).decode())
        return None

    def watch(self) -> None:
        """On CUDA, where a broken connection is not noticed: look for errors of others beside the work."""

        def look() -> None:
            while self.failed is None and dist.is_initialized():
                if self._said() is not None:
                    _abort()
                    return
                time.sleep(LOOK)

        threading.Thread(target=look, daemon=True).start()


_process_group: ProcessGroup | None = None


def current() -> ProcessGroup:
    """The process group of this process; alone where nobody has called `join`."""
    return _process_group or ProcessGroup()


def join(group: Any = None) -> ProcessGroup:
    """Meet the other processes that `torchrun` started; alone where there are none.

    Args:
        group: a process group that the caller made, in place of what `torchrun` says; a group of one process
            is alone.

    Raises:
        ParallelError: more processes on a machine than it has GPUs, a back end that is missing, or a group
            that is not made of all processes.
    """
    global _process_group
    if group is not None and _alone(group):
        return ProcessGroup()
    if (
        isinstance(_process_group, Ranks)
        and _process_group.failed is None
        and dist.is_initialized()
    ):
        return _process_group
    if group is not None:
        _process_group = _met()
        return _process_group
    launchers.take_slurm()
    launchers.take_mpi()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        _process_group = ProcessGroup()
        return _process_group
    if not dist.is_available():
        raise ParallelError(
            "this build of torch has no torch.distributed", hint="install torch from pytorch.org"
        )
    cuda = torch.cuda.is_available()
    if cuda:
        check_cuda(int(os.environ.get("LOCAL_WORLD_SIZE", size)), torch.cuda.device_count())
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    _process_group = _met()
    return _process_group


def _met() -> Ranks:
    """The processes of the default group, which is there."""
    control = dist.new_group(backend="gloo")
    store = dist.distributed_c10d._get_default_store()
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), store, control)
    if torch.cuda.is_available():
        here = torch.cuda.current_device()
        # transformers puts a rank's weights on the GPU of this number, which torchrun alone sets.
        os.environ.setdefault("LOCAL_RANK", str(here))
        places = ranks.gather("GPU", (socket.gethostname(), here))
        if len(set(places)) < len(places):
            raise ParallelError(
                "two processes work on the same GPU",
                hint="call torch.cuda.set_device(rank) before the model is loaded",
            )
        ranks.watch()
    return ranks


def _alone(group: Any) -> bool:
    """Whether a process group is this process alone.

    Raises:
        ParallelError: no group, one without this process, or one that is a part of all processes.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise ParallelError(
            "a process group was given, but torch.distributed is not initialised",
            hint="call torch.distributed.init_process_group and new_group first",
        )
    member = group is not dist.GroupMember.NON_GROUP_MEMBER
    if member and not isinstance(group, dist.ProcessGroup):
        raise ParallelError(
            f"{type(group).__name__} is no process group",
            hint="give what torch.distributed.new_group returned",
        )
    if not member or dist.get_rank(group) < 0:
        raise ParallelError(
            "this process is no member of the process group", hint="give each process its own group"
        )
    size, world = dist.get_world_size(group), dist.get_world_size()
    if 1 < size < world:
        raise ParallelError(
            f"the process group holds {size} of {world} processes; a model is shared by all or by none",
            hint=f"start {size} processes for each model, and make their group of all of them",
        )
    return size == 1


def check_cuda(processes: int, devices: int) -> None:
    """One GPU for every process of a machine.

    Raises:
        ParallelError: fewer, or a torch without NCCL.
    """
    if processes > devices:
        raise ParallelError(
            f"{processes} processes were started on a machine with {devices} GPUs",
            hint=f"give torchrun --nproc-per-node {devices}, or hide the GPUs with "
            "CUDA_VISIBLE_DEVICES= to work on the CPU",
        )
    if not dist.is_nccl_available():
        raise ParallelError(
            "this build of torch has no NCCL, which GPUs talk through",
            hint="install the CUDA build of torch, on Linux",
        )


def _is_connection(error: BaseException) -> bool:
    words = ("connection", "peer", "socket", "timed out", "nccl", "gloo", "abort")
    return any(word in str(error).lower() for word in words)


def _abort() -> None:
    """Close all connections at once; a proper goodbye would wait for the others."""
    with contextlib.suppress(Exception):
        if dist.is_initialized():
            dist.distributed_c10d._abort_process_group()


def _until(store: Any, key: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not store.check([key]) and time.monotonic() < end:
        time.sleep(0.02)
