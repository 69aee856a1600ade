"""The plan of a training file: what its stages take of given devices, and the smallest way that fits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence as Many
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from omnimix.compose.items import prepare
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.compose.rounds import weave_apart
from omnimix.compose.sequence import IGNORE, Sequence
from omnimix.data.mixture import MixturePart, drawn, woven_pair
from omnimix.data.packing import PackingSpec
from omnimix.data.sources import Source
from omnimix.errors import OmnimixError, ParallelError, TrainError, reason
from omnimix.media.opening import MediaOpener
from omnimix.parallel.layout import ParallelSpec
from omnimix.train import optim, settings
from omnimix.train.estimate import Estimator, Machine, Memory, Way
from omnimix.train.optim import part_of
from omnimix.train.plan import micro_batch
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
        tokens, learned: of a row, on the average; of preferences of both answers.
        records: of a row, on the average: more than one where rows have a token budget.
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
    records: float = 1.0


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
        arranged = stage.group_by_length or isinstance(stage.packing, PackingSpec)
        # Rounds of their own each end in a whole step; what is arranged goes on over their borders.
        once, times = (stage.num_train_epochs, 1) if arranged else (1, stage.num_train_epochs)
        taken = once * rows.count / rows.records / stage.batch_size
        made = times * (math.floor(taken) if stage.drop_last else math.ceil(taken))
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
        found["language"]["tokens"] = sum(map(len, row.both))
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
                "longest": sum(map(len, rows.longest.both)),
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
        for column in zip(
            *((_tokens(one), sum(each.targets for each in one.both)) for one in read), strict=True
        )
    )
    row = max(read, key=_tokens)
    fill = 1.0
    if isinstance(stage.packing, PackingSpec):
        items = float(np.average([_items(one) for one in read], weights=weights))
        fill = stage.packing.tokens / tokens
        if stage.packing.items and items:
            fill = min(fill, stage.packing.items / items)
        row, fill = _stretched(row, stage.packing), max(fill, 1.0)
    cut = sum(cut for _, cut in found)
    return StageRows(row, tokens * fill, learned * fill, len(read), cut, many, records=fill)


def _tokens(row: Sequence) -> int:
    return sum(map(len, row.both))


def _items(row: Sequence) -> int:
    return sum(len(items) for one in row.both for items in one.items.values())


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
            stage.objective.takes(sample)
            if words.apart:
                found.append(weave_apart(processor.weave, sample))
                continue
        except OmnimixError:
            continue
        woven = _woven(processor, sample, most, source.cuts_items)
        if woven is not None:
            found.append(woven)
        # Below the limit nothing was cut. What the limit leaves nothing to learn of is cut as well.
        if most is not None and (woven is None or _text(woven) >= most):
            whole = _woven(processor, sample, None, False)
            cut += whole is not None and (woven is None or _tokens(whole) > _tokens(woven))
    return found, cut


def _text(row: Sequence) -> int:
    """Text tokens of the longer conversation."""
    return max(int((one.owner == 0).sum()) for one in row.both)


def _woven(
    processor: Processor, sample: Any, most: int | None, cuts_items: bool
) -> Sequence | None:
    try:
        weave = partial(processor.weave, max_length=most, cuts_items=cuts_items)
        return woven_pair(weave, sample)
    except OmnimixError:
        return None


def longest(recipe: Recipe, stage: Stage) -> Sequence:
    """The longest row that a stage allows: one picture where the recipe takes any, and `max_length` text tokens, all
    learned; or as many as the model takes. Of preferences both answers are so long."""
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
    packed //= 1 + (stage.objective.pairs and isinstance(stage.packing, PackingSpec))
    room = min(context, packed, taken + (stage.max_length or context))
    owner = np.zeros(room, dtype=np.int64)
    for k, name in enumerate(recipe.modalities, 1):
        if name in items:
            owner[1 : 1 + taken] = k
    ids = np.zeros(room, dtype=np.int64)
    row = Sequence(ids, np.where(owner == 0, 0, IGNORE), owner, items)
    return replace(row, rejected=row) if stage.objective.pairs else row


def _stretched(row: Sequence, packing: PackingSpec) -> Sequence:
    """A packed row: the items of as many such rows as go into it, and text; half of it rejected, where that is."""
    times = max(1, packing.tokens // _tokens(row))
    if packing.items and _items(row):
        times = min(times, max(1, packing.items // _items(row)))
    if row.rejected is None:
        return _repeated(row, times, packing.tokens)
    other = packing.tokens * len(row.rejected) // _tokens(row)
    rejected = _repeated(row.rejected, times, other)
    return replace(_repeated(row, times, packing.tokens - other), rejected=rejected)


def _repeated(row: Sequence, times: int, tokens: int) -> Sequence:
    """So many such rows, and text up to so many tokens."""
    parts = [np.tile(a, times) for a in (row.ids, row.labels, row.owner)]
    rest = [np.zeros(max(0, tokens - len(row) * times), dtype=np.int64)] * 3
    ids, labels, owner = (np.concatenate(pair) for pair in zip(parts, rest, strict=True))
    return Sequence(ids, labels, owner, {name: own * times for name, own in row.items.items()})
