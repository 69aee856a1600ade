"""The plan of a training file: what its stages take of given devices, and the smallest way that fits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence as Many
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omnimix.compose.features import it_learns
from omnimix.compose.recipe import Recipe
from omnimix.data.packing import PackingSpec
from omnimix.errors import ParallelError, TrainError
from omnimix.parallel.layout import ParallelSpec
from omnimix.train import optim, settings
from omnimix.train.estimate import Estimator, Machine, Memory, Way
from omnimix.train.optim import part_of
from omnimix.train.plan import micro_batch
from omnimix.train.planned_rows import StageRows, rows_of
from omnimix.train.settings import Stage, Training


@dataclass(frozen=True)
class StageEstimate:
    """A stage on a machine."""

    stage: Stage
    number: int
    rows: StageRows
    estimator: Estimator
    machine: Machine
    way: Way

    @property
    def memory(self) -> Memory:
        return self.estimator.memory(self.way, self.machine)

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.machine.memory

    @property
    def steps(self) -> int | None:
        """Optimizer steps; None where the number of rows is not known."""
        stage, rows = self.stage, self.rows
        if rows.count is None or stage.num_train_epochs is None:
            return stage.max_steps
        epochs, parts = stage.num_train_epochs, stage.gradient_accumulation_steps
        if stage.group_by_length or isinstance(stage.packing, PackingSpec):
            # What is arranged goes on over the borders of rounds.
            taken = round(epochs * rows.count / rows.records / stage.batch_size, 6)
            made = math.floor(taken) if stage.drop_last else math.ceil(taken)
        else:
            # A round ends in whole steps of micro-batches, the last of which may be short.
            many = -(-rows.count // micro_batch(stage, self.number))
            made = epochs * (many // parts if stage.drop_last else -(-many // parts))
        return made if stage.max_steps is None else min(made, stage.max_steps)

    @property
    def hours(self) -> float | None:
        steps = self.steps
        return None if steps is None else steps * self.seconds / 3600

    @property
    def seconds(self) -> float:
        return self.estimator.seconds(self.way, self.machine)

    def parts(self) -> dict[str, dict[str, float]]:
        """Of each part: numbers that learn, numbers that are frozen, tokens of the longest row."""
        found: dict[str, dict[str, float]] = {}
        for weight in self.estimator.weights:
            part = found.setdefault(part_of(weight.name), {"learned": 0, "frozen": 0})
            part["learned" if weight.learns else "frozen"] += weight.size
        row = self.rows.longest
        for name, items in row.items.items():
            found[f"{name} connector"]["tokens"] = sum(item.tokens for item in items)
        found["language"]["tokens"] = row.room
        return found

    def nearest(self) -> Way | None:
        """The way that fits with the least computed again, then the least cut, then the least sent; None: no way."""
        for way in self._ways():
            if self.estimator.memory(way, self.machine).total <= self.machine.memory:
                return way
        return None

    def _ways(self) -> Iterator[Way]:
        """All ways, cheapest first."""
        sizes = [t for t in (1, 2, 4, 8) if t <= self.machine.devices // self.machine.nodes]
        shards: list[Any] = [
            "none",
            "grad",
            *(["hybrid"] if self.machine.nodes > 1 else []),
            "full",
        ]
        made: list[tuple[bool, bool, int, float, int, Way]] = []
        offloads: tuple[Literal["cpu"] | None, ...] = (None, "cpu")
        for offload, recomputed, size, shard, parts in itertools.product(
            offloads, (False, True), sizes, shards, _divisors(self.stage.batch_size)
        ):
            spec = ParallelSpec(shard=shard, tensor=size, offload=offload)
            way = Way(spec, recomputed or self.stage.gradient_checkpointing, parts)
            readers = self.machine.devices // size
            if self.machine.devices % size or self.stage.batch_size // parts < readers:
                continue
            try:
                _check_way(self.estimator, way, self.machine)
                sent = sum(self.estimator.traffic(way, self.machine).values())
            except (ParallelError, TrainError):  # no such mesh, layers or optimizer not cut so
                continue
            made.append((offload is not None, recomputed, size, sent, len(made), way))
        yield from (one[-1] for one in sorted(made, key=lambda one: one[:5]))

    def to_dict(self) -> dict[str, Any]:
        """All numbers as plain data."""
        rows, machine, way = self.rows, self.machine, self.way
        return {
            "stage": self.stage.name,
            "parts": self.parts(),
            "rows": {
                "count": rows.count,
                "looked_at": rows.looked,
                "cut": rows.cut,
                "longest": rows.longest.room,
                "tokens": rows.tokens,
                "learned": rows.learned,
                "records": rows.records,
                "assumed": rows.assumed,
            },
            "way": {
                "parallel": way.parallel.dump(defaults=True),
                "gradient_checkpointing": way.recomputed,
                "gradient_accumulation_steps": way.parts,
                "rows_per_device": self.estimator.rows(way, machine),
            },
            "memory": {**vars(self.memory), "total": self.memory.total},
            "sent_bytes_per_step": self.estimator.traffic(way, machine),
            "flops_per_step": self.estimator.flops(way),
            "seconds_per_step": self.seconds,
            "steps": self.steps,
            "hours": self.hours,
            "fits": self.fits,
        }


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def plan_file(
    path: str | Path, overrides: Many[str], machine: Machine, bf16: bool = True
) -> list[StageEstimate]:
    """The stages of a training file on a machine, as the file says them.

    Raises:
        RecipeError, TrainError: a file that cannot be used.
        ParallelError: words that make no mesh of the devices.
    """
    training, folder = settings.load(path, overrides)
    recipe, recipe_folder = training.model(folder)
    return [
        _stage(training, number, folder, recipe, recipe_folder, machine, bf16)
        for number in range(len(training.stages))
    ]


def _stage(
    training: Training,
    number: int,
    folder: Path,
    recipe: Recipe,
    recipe_folder: Path,
    machine: Machine,
    bf16: bool,
) -> StageEstimate:
    stage = training.stages[number]
    rows = rows_of(stage, folder, recipe, recipe_folder)
    estimator = Estimator(
        recipe, stage, rows.longest, rows.tokens, rows.learned, training.quantization, bf16
    )
    parts = stage.gradient_accumulation_steps
    way = Way(training.parallel, stage.gradient_checkpointing, parts)
    try:
        _check_way(estimator, way, machine)
    except TrainError as error:
        raise error.at(f"stages.{number}") from None
    if micro_batch(stage, number) < machine.devices // way.parallel.tensor:
        raise TrainError(
            f"{stage.batch_size // parts} records at a time cannot be shared by "
            f"{machine.devices // way.parallel.tensor} devices",
            where=f"stages.{number}",
            hint="name fewer with --devices, or make batch_size larger or gradient_accumulation_steps smaller",
        )
    if (kept := stage.kept()) is not None:
        names = kept.modalities or tuple(recipe.modalities)
        for weight in sorted(n for n in estimator.learns if ".encoders." in n):
            name, _, own = weight.partition(".")
            if name in names:
                raise it_learns(name, own, f"stages.{number}.feature_cache")
    made = StageEstimate(stage, number, rows, estimator, machine, way)
    if made.steps == 0:
        raise TrainError(
            f"{rows.count} records make no whole step of {stage.batch_size}",
            where=f"stages.{number}.batch_size",
            hint="make batch_size smaller",
        )
    return made


def _check_way(estimator: Estimator, way: Way, machine: Machine) -> None:
    """Refuse what a training run refuses.

    Raises:
        ParallelError: no such mesh.
        TrainError: an optimizer or quantized weights that cannot be cut.
    """
    (_, shard, cut), _ = estimator.mesh(way, machine)
    if shard > 1 or cut > 1:
        optim.check_cut(estimator.stage.optimizer)
    if estimator.quantization and way.parallel != ParallelSpec():
        raise TrainError("quantized weights stay whole in every process")
