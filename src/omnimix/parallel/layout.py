"""How a model that learns lies over processes: whole in each, cut into shards, or cut by tensors as well.

One device mesh, `replicate x shard x tensor`, and torch's own engine over it: FSDP2 (`fully_shard`) for every block
of the towers and of the language model, DTensor for the cuts inside a block. `shard: none` is the same engine with
shards of one process, which is data parallelism: weights are whole, gradients are summed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, distributed as dist, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.nn.modules.batchnorm import _BatchNorm

from omnimix.compose.model import MultimodalLM
from omnimix.compose.recipe import Recipe
from omnimix.config import Spec
from omnimix.errors import ParallelError
from omnimix.parallel import tensor
from omnimix.parallel.norms import SharedNorms
from omnimix.parallel.process_group import ProcessGroup

T = TypeVar("T")

DIMS = ("replicate", "shard", "tensor")


class ParallelSpec(Spec):
    """How the model lies over the processes of a run; replicate x shard x tensor is their number.

    Attributes:
        shard: `full` cuts weights, gradients and optimizer state (ZeRO-3), `grad` gathers the weights once a step
            (ZeRO-2), `hybrid` is `full` inside a machine and replicated over machines, `none` keeps all of it whole in
            every process (DDP).
        tensor: processes that share each layer of the language model; they read the same records.
        replicate: copies of the model; by default 1, of `hybrid` one a machine, of `none` as many as fit.
        offload: `cpu` keeps shards in the machine's memory between their uses.
    """

    shard: Literal["full", "grad", "hybrid", "none"] = "none"
    tensor: int = Field(default=1, gt=0)
    replicate: int | None = Field(default=None, gt=0)
    offload: Literal["cpu"] | None = None

    def sizes(self, world: int, machines: int = 1) -> tuple[int, int, int]:
        """Replicate, shard and tensor of so many processes.

        Raises:
            ParallelError: no mesh of them has so many processes.
        """
        rest, over = divmod(world, self.tensor)
        replicate = self.replicate or {"hybrid": machines, "none": rest}.get(self.shard, 1)
        whole = self.shard != "none" or replicate == rest
        if over or not rest or rest % replicate or not whole:
            words = {"tensor": self.tensor, "replicate": self.replicate}
            said = ", ".join(f"{word}: {n}" for word, n in words.items() if n and n > 1)
            least = self.tensor * (self.replicate or 1)
            raise ParallelError(
                f"shard: {self.shard}{', ' if said else ''}{said} makes no mesh of {world} "
                f"process{'' if world == 1 else 'es'}",
                where="parallel",
                hint=f"start {least if self.shard == 'none' else f'{least}, or a multiple of it'} "
                f"(torchrun --nproc-per-node {least}), or change the words",
            )
        return replicate, rest // replicate, self.tensor


class ModelLayout:
    """A model that lies whole in the only process.

    Attributes:
        data: which share of the records this process reads, and of how many.
        speaks: whether what it read counts; of processes with the same records one alone does.
        sharded: whether other processes take part in every forward and backward pass.
        cuts: whether this one holds a part of the model alone.
        device: where is computed; None where the weights lie.
    """

    data: tuple[int, int] = (0, 1)
    speaks = True
    sharded = False
    cuts = False
    device: Any = None

    def __init__(self, process_group: ProcessGroup | None = None) -> None:
        self.process_group = process_group or ProcessGroup()

    def turns(self) -> Iterator[bool]:
        """When to build the model whole: in one turn, or one process of a machine after another."""
        yield True

    def place(self, model: MultimodalLM, bf16: bool = False, whole: Collection[str] = ()) -> None:
        """Distribute a model that was built whole, or on the meta device, over the processes."""

    def run(self, work: Callable[[], T], counts: bool = True) -> T:
        """Do what calls the model; processes that share it all have to.

        Args:
            counts: whether the batch is this process's own.
        """
        return work()

    @contextmanager
    def standing_in(self, model: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
        """Exchange some of a model's weights for others, and back; outside of `run`.

        Args:
            weights: by name, held as those of the model are; they hold the model's meanwhile.
        """
        self._exchange(model, weights)
        try:
            yield
        finally:
            self._exchange(model, weights)

    def _exchange(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.data, weights[name] = weights[name], parameter.data


ALONE = ModelLayout()


class Root(nn.Module):
    """The outermost module of FSDP, around whatever calls the model, through whichever of its methods."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


class Sharded(ModelLayout):
    """A model over several processes, or sharded in one (which `offload` asks for).

    Raises:
        ParallelError: words that make no mesh of the processes there are.
    """

    sharded = True

    def __init__(
        self, words: ParallelSpec, group: ProcessGroup, device: torch.device, recipe: Recipe
    ) -> None:
        super().__init__(group)
        self.words = words
        self.device = device
        here = int(os.environ.get("LOCAL_WORLD_SIZE", group.size))
        sizes = words.sizes(group.size, max(1, group.size // here))
        self.layers = tensor.trained(recipe, words.tensor) if words.tensor > 1 else {}
        if not dist.is_initialized():  # FSDP wants a group of one process as well
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
        self.mesh = init_device_mesh(device.type, sizes, mesh_dim_names=DIMS)
        replicate, shard, cut = (self.mesh.get_local_rank(dim) for dim in DIMS)
        self.data = (replicate * sizes[1] + shard, sizes[0] * sizes[1])
        self.speaks, self.cuts = cut == 0, sizes[1] * sizes[2] > 1

    def turns(self) -> Iterator[bool]:
        # A machine holds one whole model at a time, however many processes it runs.
        mine = int(os.environ.get("LOCAL_RANK", self.process_group.rank))
        many = 1 + max(self.process_group.gather("turns", mine))
        if not self.cuts:
            mine, many = 0, 1
        yield from (turn == mine for turn in range(many))

    def place(self, model: MultimodalLM, bf16: bool = False, whole: Collection[str] = ()) -> None:
        """Cut and shard a model.

        Args:
            bf16: compute in bf16 what is kept and summed in float32.
            whole: names of frozen parameters that every process keeps whole.
        """
        words, replicate = self.words, self.mesh["replicate"].size()
        tensor.cut(model, self.mesh["tensor"], self.layers)
        none = words.shard == "none"
        over: dict[str, Any] = {
            "mesh": self.mesh["replicate", "shard"] if replicate > 1 else self.mesh["shard"],
            "reshard_after_forward": not none and words.shard != "grad",
            "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32)
            if bf16
            else MixedPrecisionPolicy(),
            "offload_policy": CPUOffloadPolicy(pin_memory=self.device.type == "cuda")
            if words.offload
            else OffloadPolicy(),
            # Few bits are held as they are, whole in every process.
            "ignored_params": {
                p for n, p in model.named_parameters() if n in whole or not p.is_floating_point()
            },
        }
        if bf16:  # A batch norm's running statistics are float32, and so must its weights be.
            for norm in model.modules():
                if isinstance(norm, _BatchNorm) and not over["ignored_params"].issuperset(
                    norm.parameters()
                ):
                    fully_shard(norm, **{**over, "mp_policy": MixedPrecisionPolicy()})
        for block in blocks(model):
            if not over["ignored_params"].issuperset(block.parameters()):
                fully_shard(block, **over)
        root: Any = Root(model)
        self.root: Any = fully_shard(root, **over)
        for module in self.root.modules():
            if hasattr(module, "set_gradient_divide_factor"):
                # Sums, for the loss is divided by the count of the whole batch; gloo knows no scaled ones.
                module.set_force_sum_reduction_for_comms(True)
                module.set_gradient_divide_factor(1.0)
        rest = torch.device("cpu") if words.offload else self.device
        if words.offload:
            model.runs_on = self.device
        self.root._apply(lambda t: torch.zeros_like(t, device=rest) if t.is_meta else t)
        for name, parameter in model.named_parameters():
            if name in whole:
                parameter.data = parameter.data.to(self.device)

    @torch.no_grad()
    def _exchange(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        for module in self.root.modules():
            if weights and isinstance(module, FSDPModule):
                module.reshard()  # What `shard: grad` keeps gathered would be the old values.
        for name, parameter in model.named_parameters():
            if name in weights:  # FSDP gathers from the memory that it was given.
                mine, other = own_part(parameter)[0], own_part(weights[name])[0]
                kept = mine.clone()
                mine.copy_(other)
                other.copy_(kept)

    def run(self, work: Callable[[], T], counts: bool = True) -> T:
        several = self.process_group.size > 1 and any(
            norm.training for norm in self.root.modules() if isinstance(norm, _BatchNorm)
        )
        with SharedNorms(counts, self.words.tensor) if several else nullcontext():
            found: T = self.root(work)
        return found


def lay(
    words: ParallelSpec, group: ProcessGroup, device: torch.device, recipe: Recipe
) -> ModelLayout:
    """The layout that a run's words ask for.

    Raises:
        ParallelError: words that do not fit the processes.
    """
    alone = group.size == 1 and words.shard == "none" and not words.offload
    if alone:
        words.sizes(1)
        return ModelLayout(group)
    return Sharded(words, group, device, recipe)


def own_part(tensor: Tensor) -> tuple[Tensor, tuple[slice, ...]]:
    """What of a tensor lies in this process, and which part of the whole it is."""
    if not isinstance(tensor, DTensor):
        return tensor, tuple(slice(None) for _ in tensor.shape)
    shape, offset = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return tensor.to_local(), tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))


def blocks(model: MultimodalLM) -> list[nn.Module]:
    """What is gathered at a time: the repeated blocks of the language model and of every tower.

    They are the members of lists that have layers inside and a forward of their own, so that what they hold is used
    inside a call of theirs; embeddings, heads and connectors belong to the root.
    """
    found: list[nn.Module] = []
    encoders = [e for m in model.modalities for b in model.modality(m).branches for e in b.encoders]  # type: ignore[union-attr]
    for part in (*encoders, model.language):
        _collect(part, found)
    return found


def _collect(module: nn.Module, found: list[nn.Module]) -> None:
    for child in module.children():
        repeated = isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 0
        plain = isinstance(child, nn.ModuleList | nn.Sequential | nn.ModuleDict)
        if repeated and not plain and len(list(child.children())) > 1:
            found.append(child)
        else:
            _collect(child, found)
