"""The plan of a training file: what its stages take of given devices, and the smallest way that fits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence as Many
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from omnimix.compose.items import prepare
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.compose.rounds import weave_apart
from omnimix.compose.sequence import IGNORE, Sequence
from omnimix.data.mixture import MixturePart, drawn
from omnimix.data.packing import PackingSpec
from omnimix.data.sources import Source
from omnimix.errors import OmnimixError, ParallelError, TrainError, reason
from omnimix.media.opening import MediaOpener
from omnimix.parallel.layout import ParallelSpec
from omnimix.train import settings
from omnimix.train.estimate import Estimator, Machine, Memory, Way
from omnimix.train.optim import part_of
from omnimix.train.settings import Stage, Training
from omnimix.types import Media

LOOKED = 64
"""Records of a dataset that are read."""

PICTURE = (640, 480)
"""Of the picture that is assumed where no data is at hand."""


@dataclass(frozen=True)
class StageRows:
    """What a stage reads.

    Attributes:
        longest: the longest row looked at, which memory is reckoned for; of packing a full row.
        tokens, learned: of a row, on the average.
        looked, cut: records that were read, and how many of them `max_length` shortens.
        count: of all datasets; None where they are not at hand or have no end.
        assumed: why nothing was read; the longest row that the stage allows is taken for every row.
    """

    longest: Sequence
    tokens: float
    learned: float
    looked: int = 0
    cut: int = 0
    count: int | None = None
    assumed: str = ""


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
        if stage.max_steps is not None or rows.count is None:
            return stage.max_steps
        packed = stage.packing.tokens / rows.tokens if isinstance(stage.packing, PackingSpec) else 1
        return int((stage.num_train_epochs or 1) * rows.count / packed / stage.batch_size)

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
        found["language"]["tokens"] = len(row)
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
        made: list[tuple[bool, int, float, int, Way]] = []
        for recomputed, size, shard, parts in itertools.product(
            (False, True), sizes, shards, _divisors(self.stage.batch_size)
        ):
            spec = ParallelSpec(shard=shard, tensor=size)
            way = Way(spec, recomputed or self.stage.gradient_checkpointing, parts)
            readers = self.machine.devices // size
            if self.machine.devices % size or self.stage.batch_size // parts < readers:
                continue
            try:
                sent = sum(self.estimator.traffic(way, self.machine).values())
            except ParallelError:  # no such mesh, or layers that are not cut so
                continue
            made.append((recomputed, size, sent, len(made), way))
        yield from (one[-1] for one in sorted(made, key=lambda one: one[:4]))

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
                "longest": len(rows.longest),
                "tokens": rows.tokens,
                "learned": rows.learned,
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
    estimator.mesh(way, machine)
    if stage.batch_size // parts < machine.devices // way.parallel.tensor:
        raise TrainError(
            f"{stage.batch_size // parts} records at a time cannot be shared by "
            f"{machine.devices // way.parallel.tensor} devices",
            where=f"stages.{number}",
            hint="name fewer with --devices, or make batch_size larger or gradient_accumulation_steps smaller",
        )
    return StageEstimate(stage, number, rows, estimator, machine, way)


def rows_of(stage: Stage, folder: Path, recipe: Recipe, recipe_folder: Path) -> StageRows:
    """What a stage reads: a few records of every dataset, or the longest row that it allows."""
    try:
        processor = Processor.from_recipe(recipe, recipe_folder)
        if stage.template is not None:
            processor = processor.with_template(stage.template)
        sources = [words.data.open(folder) for words in stage.mixture]
        found = [
            _looked(source, words, stage, processor)
            for source, words in zip(sources, stage.mixture, strict=True)
        ]
    except OmnimixError as error:
        row = longest(recipe, stage)
        return StageRows(row, len(row), row.targets, assumed=reason(error))
    counts = [source.length for source in sources]
    many = None if None in counts else sum(c for c in counts if c is not None)
    read = [one for sequences, _ in found for one in sequences]
    if not read:
        row = longest(recipe, stage)
        cut = sum(cut for _, cut in found)
        return StageRows(row, len(row), row.targets, 0, cut, many, "no record can be used")
    weights = np.repeat([w.weight for w in stage.mixture], [len(one) for one, _ in found])
    tokens, learned = (
        float(np.average(column, weights=weights))
        for column in zip(*((len(one), one.targets) for one in read), strict=True)
    )
    row = max(read, key=len)
    if isinstance(stage.packing, PackingSpec):
        row, fill = _stretched(row, stage.packing.tokens), stage.packing.tokens / tokens
        tokens, learned = float(stage.packing.tokens), learned * fill
    return StageRows(row, tokens, learned, len(read), sum(cut for _, cut in found), many)


def _looked(
    source: Source, words: MixturePart, stage: Stage, processor: Processor
) -> tuple[list[Sequence], int]:
    """Records spread over a dataset, woven, and how many of them are cut."""
    many = LOOKED if source.length is None else min(source.length, LOOKED)
    step = 1 if source.length is None else source.length / many
    most = source.max_length if stage.max_length is None else stage.max_length
    found, cut = [], 0
    for i in range(many):
        try:
            sample = drawn(source[int(i * step)], 0)
            if words.apart:
                found.append(weave_apart(processor.weave, sample))
                continue
        except OmnimixError:
            continue
        woven = _woven(processor, sample, most, source.cuts_items)
        if woven is not None:
            found.append(woven)
        # Below the limit nothing was cut. What the limit leaves nothing to learn of is cut as well.
        if most is not None and (woven is None or int((woven.owner == 0).sum()) >= most):
            whole = _woven(processor, sample, None, False)
            cut += whole is not None and (woven is None or len(whole) > len(woven))
    return found, cut


def _woven(
    processor: Processor, sample: Any, most: int | None, cuts_items: bool
) -> Sequence | None:
    try:
        return processor.weave(sample, max_length=most, cuts_items=cuts_items)
    except OmnimixError:
        return None


def longest(recipe: Recipe, stage: Stage) -> Sequence:
    """The longest row that a stage allows: one picture where the recipe takes any, and `max_length` text tokens, all
    learned; or as many as the model takes."""
    model = MultimodalLM.on_meta(recipe)
    items = {}
    for name, spec in recipe.modalities.items():
        if spec.media == "image" and isinstance(spec.opens, MediaOpener):
            picture = Media.image(Image.new("RGB", PICTURE))
            items[name] = [prepare(spec, picture, model.tokens_per_tile[name])]
            break
    taken = sum(item.tokens for own in items.values() for item in own)
    context = model.context or 2048
    packed = stage.packing.tokens if isinstance(stage.packing, PackingSpec) else context
    room = min(context, packed, taken + (stage.max_length or context))
    owner = np.zeros(room, dtype=np.int64)
    for k, name in enumerate(recipe.modalities, 1):
        if name in items:
            owner[1 : 1 + taken] = k
    ids = np.zeros(room, dtype=np.int64)
    return Sequence(ids, np.where(owner == 0, 0, IGNORE), owner, items)


def _stretched(row: Sequence, tokens: int) -> Sequence:
    """A packed row: the items of as many such rows as go into it, and text."""
    times = max(1, tokens // len(row))
    parts = [np.tile(a, times) for a in (row.ids, row.labels, row.owner)]
    rest = [np.zeros(max(0, tokens - len(row) * times), dtype=np.int64)] * 3
    ids, labels, owner = (np.concatenate(pair) for pair in zip(parts, rest, strict=True))
    return Sequence(ids, labels, owner, {name: own * times for name, own in row.items.items()})
