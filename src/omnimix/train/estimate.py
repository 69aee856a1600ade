"""What a stage takes of each device: memory by cause, traffic, and arithmetic, as formulas over a recipe's own sizes.

Letters: N numbers of all weights, n of those that learn, S devices that share a shard, R copies of it, T of `tensor`,
c bytes of a number in compute (2 in bf16, else 4). A byte is a byte, a GB is 1e9 of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from omnimix.compose.loss import CHUNK
from omnimix.compose.model import MultimodalLM
from omnimix.compose.recipe import Recipe
from omnimix.compose.sequence import Sequence
from omnimix.parallel import tensor
from omnimix.parallel.layout import ParallelSpec, blocks
from omnimix.train import optim, optimizers
from omnimix.train.held import dtypes
from omnimix.train.settings import OptimizerSpec, Stage
from omnimix.train.traced import ENCODERS, FakeModel, Traced

QUANTIZED = {"nf4": 0.5625, "int8": 1.0}
"""Bytes of a number: four bits and a float32 for each 64 (arXiv 2305.14314), or eight bits."""


@dataclass(frozen=True)
class Machine:
    """What a plan is for.

    Attributes:
        devices: of all nodes.
        memory: bytes of one.
        nodes: machines they stand in.
        peak: FLOP/s of one; 989e12 is dense bf16 of an H100 SXM (NVIDIA's data sheet).
        efficiency: share of the peak that is reached.
        overhead: bytes of a device that are not torch's: CUDA's context, NCCL's and cuBLAS's own.
    """

    devices: int
    memory: float
    nodes: int = 1
    peak: float = 989e12
    efficiency: float = 0.4
    overhead: float = 2e9


@dataclass(frozen=True)
class Way:
    """How a stage lies over the devices.

    Attributes:
        parallel: words of the training file.
        recomputed: `gradient_checkpointing`.
        parts: `gradient_accumulation_steps`.
    """

    parallel: ParallelSpec
    recomputed: bool
    parts: int

    def words(self, number: int) -> str:
        """Options of `omnimix train` that ask for it."""
        parallel = ", ".join(f"{k}: {v}" for k, v in self.parallel.dump().items())
        said = [f"'parallel={{{parallel}}}'"]
        own = {
            "gradient_checkpointing": str(self.recomputed).lower(),
            "gradient_accumulation_steps": self.parts,
        }
        said += [f"stages.{number}.{k}={v}" for k, v in own.items()]
        return " ".join(f"--set {word}" for word in said)


@dataclass(frozen=True)
class Weight:
    """A parameter: where it lies, whether it learns, in how many bytes a number it is held."""

    name: str
    shape: tuple[int, ...]
    learns: bool
    bytes: float
    block: int
    table: bool

    @property
    def size(self) -> int:
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class Memory:
    """Bytes of a device by cause, at the moment when most are held.

    Attributes:
        moment: `forward over`, when all activations are there, or `backward over`, when all gradients are.
    """

    moment: str
    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    buffers: float
    overhead: float

    def causes(self) -> dict[str, float]:
        return {name: value for name, value in vars(self).items() if name != "moment"}

    @property
    def total(self) -> float:
        return sum(self.causes().values())


class Estimator:
    """The formulas over one stage.

    Args:
        row: a row of the length that memory is to be reckoned for; of preferences with its rejected answer.
        tokens, learned: of a row, on the average, for what is computed in all; of preferences of both answers.
        bf16: whether the devices compute in bf16 where the stage asks for it.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: Stage,
        row: Sequence,
        tokens: float,
        learned: float,
        quantization: str | None = None,
        bf16: bool = True,
    ) -> None:
        self.recipe, self.stage, self.row = recipe, stage, row
        self.tokens, self.learned, self.quantization = tokens, learned, quantization
        self.bf16 = bf16 and stage.bf16
        self.compute = 2 if self.bf16 else 4
        model = MultimodalLM.on_meta(recipe)
        self.learns = optim.learning(model, stage.trainable)
        optim.check_patterns(model, stage.optimizer)
        stage.objective.check(self.learns)
        self.weights = weights(model, self.learns, quantization)
        self.vocabulary, self.width = model.vocab_size, model.width
        self._traced: dict[tuple[bool, bool, int], Traced] = {}

    def memory(self, way: Way, machine: Machine) -> Memory:
        """Bytes of a device.

        weights: what is held of each weight (4 bytes, fewer of frozen parts that say a `dtype`) / (S T); once more of
            what learns, where preferences are compared with the model that the stage began with.
        gradients: 4 n / (S T) behind a backward pass. When the forward pass is over they are there if micro-batches
            came before, else that of the output head alone, the first to come.
        optimizer: `state` of each weight that learns / (S T).
        activations: `kept` of a micro-batch, and where they are computed again one block's beside it.
        logits: `logits`.
        buffers: `gathered` (FSDP alone).
        With `offload` weights, gradients and optimizer states lie in the machine's memory.
        """
        (_, shard, cut), alone = self.mesh(way, machine)
        share = {w.name: 1 / shard / self.cut(w, cut) for w in self.weights}
        learned = [w for w in self.weights if w.learns]
        held = sum(w.size * w.bytes * share[w.name] for w in self.weights)
        if self.stage.objective.holds_start:
            held += sum(w.size * w.bytes * share[w.name] for w in learned)
        grads = sum(4 * w.size * share[w.name] for w in learned)
        states = sum(state(w, self.stage.optimizer) * share[w.name] for w in learned)
        if way.parallel.offload:
            held = grads = states = 0.0
        head = sum(w.size * share[w.name] for w in learned if w.table and "head" in w.name)
        rows = self.rows(way, machine)
        traced = self.traced(way.recomputed, not alone, rows)
        block = self.traced(False, not alone, rows).block if way.recomputed else 0
        first = grads if way.parts > 1 else 4 * head
        # What the optimizer makes on its way: Adafactor the whole move, the others nothing of size.
        move = grads if self.stage.optimizer.name == "adafactor" else 0.0
        fixed = {"weights": held, "optimizer": states, "overhead": machine.overhead}
        moments = (
            Memory(
                "forward over",
                gradients=first,
                activations=traced.whole + block,
                logits=self.logits(rows),
                buffers=0.0 if alone else self.gathered(way, cut, False),
                **fixed,
            ),
            Memory(
                "backward over",
                gradients=grads + move,
                activations=float(block or traced.block),
                logits=0.0,
                buffers=0.0 if alone else self.gathered(way, cut, True),
                **fixed,
            ),
        )
        return max(moments, key=lambda moment: moment.total)

    def mesh(self, way: Way, machine: Machine) -> tuple[tuple[int, int, int], bool]:
        """Replicate, shard and tensor, and whether one process runs without FSDP."""
        sizes = way.parallel.sizes(machine.devices, machine.nodes)
        plain = way.parallel.shard == "none" and not way.parallel.offload
        return sizes, machine.devices == 1 and plain

    def rows(self, way: Way, machine: Machine) -> int:
        """Rows of a micro-batch on one device: batch_size / gradient_accumulation_steps / (devices / T)."""
        readers = machine.devices // way.parallel.tensor
        return -(-self.stage.batch_size // (way.parts * readers))

    def traced(self, recomputed: bool, sharded: bool, rows: int) -> Traced:
        """What autograd keeps of a micro-batch, found by `FakeModel`.

        Rows of one length keep rows times as much, and once, in one process, the bf16 copies of weights that
        autocast makes: measured with one row and with two, and drawn on. FSDP holds bf16 weights and makes none.
        """
        cast = sharded and self.bf16
        one = self._run(recomputed, cast, 1)
        if rows == 1 or (one.whole == 0):
            return one
        if cast or not self.bf16:
            line = {part: (0, size) for part, size in one.kept.items()}
            grown = one.block * rows
        else:
            two = self._run(recomputed, cast, 2)
            line = {p: (2 * size - two.kept[p], two.kept[p] - size) for p, size in one.kept.items()}
            grown = one.block + (two.block - one.block) * (rows - 1)
        kept = {part: base + slope * rows for part, (base, slope) in line.items()}
        return Traced(kept, grown, {part: flops * rows for part, flops in one.flops.items()})

    def _run(self, recomputed: bool, cast: bool, rows: int) -> Traced:
        key = (recomputed, cast, rows)
        if key not in self._traced:
            self._traced[key] = self._fakes(cast).run([self.row] * rows, recomputed)
        return self._traced[key]

    def _fakes(self, cast: bool) -> FakeModel:
        if cast not in self._made:
            low = {w.name: torch.bfloat16 for w in self.weights if cast or w.bytes == 2}
            self._made[cast] = FakeModel(self.recipe, self.learns, self.bf16, low)
        return self._made[cast]

    @cached_property
    def _made(self) -> dict[bool, FakeModel]:
        return {}

    def logits(self, rows: int) -> float:
        """Of the learned places of a chunk (`compose.loss.CHUNK` logits at most): float32 logits, their log softmax,
        and in bf16 what the head gave: places x vocabulary x (4 + 4 + 2), and the head's bf16 copy."""
        targets = sum(one.targets for one in self.row.both)
        places = min(rows * targets, max(1, CHUNK // self.vocabulary))
        cast = 2 * self.vocabulary * self.width if self.bf16 else 0
        return float(places * self.vocabulary * (8 if not self.bf16 else 10) + cast)

    def gathered(self, way: Way, cut: int, backward: bool) -> float:
        """FSDP's whole weights and gradients of the moment, in c bytes a number, reduced in float32.

        full, hybrid: what lies in no block (embeddings, head, connectors) and two blocks, one in use and one on its
            way; none, grad: all of it, from the forward to the end of the backward pass.
        Behind the backward pass also the gradients that were not sent yet, those of what lies in no block: c + 4.
        (torch.distributed.fsdp.fully_shard: `reshard_after_forward`, `MixedPrecisionPolicy.reduce_dtype`.)
        """
        sizes: dict[int, float] = {}
        for w in self.weights:
            sizes[w.block] = sizes.get(w.block, 0) + w.size / self.cut(w, cut)
        root = sizes.pop(-1, 0.0)
        largest = max(sizes.values(), default=0.0)
        whole = way.parallel.shard in ("none", "grad")
        held = root + (sum(sizes.values()) if whole else 2 * largest)
        late = sum(w.size for w in self.weights if w.learns and w.block < 0) if backward else 0
        return held * self.compute + late * (self.compute + 4)

    def cut(self, weight: Weight, size: int) -> int:
        """How many processes of `tensor` share a weight: the layers that transformers' plan cuts, no others."""
        if size == 1:
            return 1
        module = re.sub(r"\.\d+(?=\.|$)", ".*", weight.name.rpartition(".")[0])
        style = self._cuts(size).get(module, "")
        return size if style.startswith(("colwise", "rowwise")) else 1

    def _cuts(self, size: int) -> Mapping[str, str]:
        if size not in self._plans:
            self._plans[size] = tensor.trained(self.recipe, size)
        return self._plans[size]

    @cached_property
    def _plans(self) -> dict[int, Mapping[str, str]]:
        return {}

    def traffic(self, way: Way, machine: Machine) -> dict[str, float]:
        """Bytes that a device sends in a step, by collective (rings: (k - 1) / k of the whole, twice to all-reduce).

        all_gather: c N (S - 1) / S, of a micro-batch once (grad) or in both passes (full, hybrid); once more for the
            reference of preferences.
        reduce_scatter: 4 n (S - 1) / S of a micro-batch.
        all_reduce: 2 x 4 n / S x (R - 1) / R of a micro-batch.
        tensor: two all-reduces a layer in each pass, one pass more where activations are computed again:
            2 c tokens width (T - 1) / T each (arXiv 1909.08053).
        """
        (replicate, shard, cut), alone = self.mesh(way, machine)
        if alone:
            return {}
        size = sum(w.size / self.cut(w, cut) for w in self.weights)
        learned = sum(w.size / self.cut(w, cut) for w in self.weights if w.learns)
        passes = 2 if way.parallel.shard in ("full", "hybrid") else 1
        passes += self.stage.objective.pairs
        layers = len({w.block for w in self.weights if w.block >= 0 and w.name.startswith("lang")})
        row = self.rows(way, machine) * self.row.room * self.width * self.compute
        each = 2 * row * (cut - 1) / cut * layers * 2
        # In each direction one; the reference of preferences goes forward alone.
        around = (3 if way.recomputed else 2) + self.stage.objective.pairs
        found = {
            "all_gather": passes * self.compute * size * (shard - 1) / shard,
            "reduce_scatter": 4 * learned * (shard - 1) / shard,
            "all_reduce": 8 * learned / shard * (replicate - 1) / replicate,
            "tensor": each * around,
        }
        return {name: value * way.parts for name, value in found.items() if value}

    def flops(self, way: Way) -> float:
        """Of a step on all devices, at the mean length of a row.

        A forward pass is counted by torch (2 N tokens and attention); the backward pass of a part takes as much for
        the gradient of what comes in, where something below or in it learns, and as much again for the share of its
        weights that learn. Computing activations again is one forward more, and what the reference of preferences
        says another. The head's are 2 V d a learned place.
        """
        one = self._run(False, self.bf16, 1)
        rows = self.stage.batch_size
        padded = len(self.row.both) * max(map(len, self.row.both))
        total, below = 0.0, set[str]()
        # Encoders, then connectors, then the language model: whatever a gradient goes through is known by then.
        for part in sorted(one.flops, key=lambda p: (p == "language", not p.endswith(ENCODERS))):
            share, name = self._share(part), part.removesuffix(ENCODERS)
            graph = share > 0 or name in below or (part == "language" and bool(below))
            below |= {name} if graph else set()
            times = 1 + graph + share + (graph and way.recomputed) + self.stage.objective.pairs
            total += one.flops[part] * times * rows * self.tokens / padded
            if part == "language":
                total += 2 * self.vocabulary * self.width * self.learned * rows * times
        return total

    def _share(self, part: str) -> float:
        name = part.removesuffix(ENCODERS)
        of = [w for w in self.weights if w.name.startswith(f"{name}.")]
        encoders = part.endswith(ENCODERS)
        own = [w for w in of if part == "language" or optim.fits(w.name, "encoders") == encoders]
        return sum(w.size for w in own if w.learns) / max(1, sum(w.size for w in own))

    def seconds(self, way: Way, machine: Machine) -> float:
        """Of a step: FLOPs / (devices x peak x efficiency)."""
        return self.flops(way) / (machine.devices * machine.peak * machine.efficiency)


def weights(
    model: MultimodalLM, learns: Collection[str], quantization: str | None = None
) -> list[Weight]:
    """All parameters of a model, each once."""
    inside = {id(p): i for i, block in enumerate(blocks(model)) for p in block.parameters()}
    tables, low = optimizers.tables(model), dtypes(model)
    found = []
    for name, p in model.named_parameters():
        size: float = torch.finfo(low.get(name, p.dtype)).bits / 8
        if quantization and name.startswith("language.") and p.ndim == 2 and id(p) not in tables:
            size = QUANTIZED[quantization] if name not in learns else size
        place = inside.get(id(p), -1)
        found.append(Weight(name, tuple(p.shape), name in learns, size, place, id(p) in tables))
    return found


def state(weight: Weight, optimizer: OptimizerSpec) -> float:
    """Bytes that an optimizer keeps of a weight.

    adamw: two moments, 8 a number. adamw_8bit: 2 a number and two float32 for each 256 (arXiv 2110.02861), of tensors
    below 4096 numbers 8; paged, on the CPU when it has to. adafactor: 4 for each row and column of a matrix
    (arXiv 1804.04235), 4 a number of a vector. muon: one moment of matrices, 4; AdamW for all else.
    """
    matrix = len(weight.shape) >= 2
    if optimizer.name.endswith("8bit"):
        return weight.size * (2 + 8 / 256) if weight.size >= 4096 else 8.0 * weight.size
    if optimizer.name == "adafactor":
        lines = weight.size / weight.shape[-1] + weight.size / weight.shape[-2] if matrix else 0
        return 4.0 * (lines if matrix else weight.size)
    if optimizer.name == "muon" and len(weight.shape) == 2 and not weight.table:
        return 4.0 * weight.size
    return 8.0 * weight.size
