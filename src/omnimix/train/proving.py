"""Is going on exact? The batches around a checkpoint are read again and held to those that the run read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omnimix.checkpoints import runs
from omnimix.compose import features
from omnimix.compose.processor import Processor
from omnimix.data.mixture import loader
from omnimix.errors import TrainError
from omnimix.train import checkpoint, settings
from omnimix.train.plan import StagePlan, plan
from omnimix.train.proof import KEPT, combined
from omnimix.train.settings import Training


class _Replay:
    """The batches of a stage, read from its checkpoint's words."""

    def __init__(self, training: Training, folder: Path, number: int) -> None:
        recipe, recipe_folder = training.model(folder)
        self.processor = Processor.from_recipe(recipe, recipe_folder)
        features.keys(self.processor, training.stages[number].kept())
        self.training, self.folder, self.number = training, folder, number
        self.parts = training.stages[number].gradient_accumulation_steps

    def plan(self, step: int, state: dict[str, Any], rank: int = 0, world: int = 1) -> StagePlan:
        return plan(
            self.training, self.number, step, self.folder, self.processor, (rank, world), state
        )

    def sums(
        self, step: int, state: dict[str, Any], workers: int, world: int = 1
    ) -> Iterator[list[str]]:
        """The hashes of each step from one on, its ranks' put together."""
        plans = [self.plan(step, state, rank, world) for rank in range(world)]
        read = [loader(one.batches, workers) for one in plans]
        for _ in range(step, plans[0].steps):
            found = [[next(rank)[0] for _ in range(self.parts)] for rank in read]
            yield combined([[0 if b is None else b.digest for b in rank] for rank in found])


def prove(
    path: str | Path,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    tell: Callable[[str], None] = print,
) -> bool:
    """Whether the batches around the newest checkpoint of a run are the same when they are read again.

    Those before it are held to the hashes that it keeps. Those behind it are read twice: by going on from where
    they were read before it, and from the checkpoint's own state by two ranks with another number of workers.

    Args:
        path, overrides, out: as of the run.
        tell: hears what was found, a line a step.

    Raises:
        TrainError: there is no checkpoint, or none that keeps hashes.
    """
    training, folder = settings.load(path, overrides)
    place = Path(out) if out is not None else folder / training.output_dir
    done = runs.checkpoints(place)
    if not done:
        raise TrainError("there is no checkpoint to go on from", where=str(place))
    state = checkpoint.state_of(done[-1])
    data, step, number = state.get("data", {}), state["step"], state["stage"]
    if not data.get("sums"):
        raise TrainError(
            "the checkpoint keeps no hashes of batches", where=str(done[-1]), hint="train a step"
        )
    replay = _Replay(training, folder, number)
    workers = min(2, 2 if training.num_workers is None else training.num_workers)
    first = data["first"]
    straight = replay.sums(first["step"], first["state"], workers)
    tell(f"{done[-1].name}: {len(data['sums'])} steps before it, up to {KEPT} behind it")
    for before in range(first["step"], step):
        if not _equal(before, next(straight), data["sums"].get(str(before)), "the run", tell):
            return False
    stage = training.stages[number]
    world = 2 if stage.batch_size // replay.parts > 1 else 1
    other = 0 if workers else 2
    again = replay.sums(step, data["state"], other, world)
    with_ = f"{world} ranks and {other} workers"
    for behind, (one, two) in enumerate(zip(straight, again, strict=True), step):
        if not _equal(behind, one, two, with_, tell):
            return False
        if behind + 1 == step + KEPT:
            break
    tell("equal: the run goes on from there with the batches of one that was not interrupted")
    return True


def _equal(
    step: int, one: list[str], two: list[str] | None, other: str, tell: Callable[[str], None]
) -> bool:
    if one == two:
        tell(f"step {step + 1}: equal ({one[0][:12]}), read again and by {other}")
        return True
    tell(
        f"step {step + 1} differs: {one[0][:12]} when it is read again, "
        f"{(two or ['nothing'])[0][:12]} by {other}"
    )
    return False
