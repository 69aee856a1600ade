"""The benchmark on the synthetic world: questions about pictures that no training run has seen."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from omnimix.errors import RegistryError
from omnimix.generate.answers import Answer
from omnimix.registry import did_you_mean
from omnimix.types import Box, Mask, Media, Part, Point, Polygon, Region, Sample, Stroke, Turn
from omnimix_scenes import TASKS, Scenes, score

SEED = 1000
"""Of the held-out pictures; scores are comparable only for the same seed."""


class ScenesBenchmark:
    """Held-out scenes, every question about a picture of its own.

    Args:
        seed: of the pictures.
    """

    name = "scenes"
    max_new_tokens = 96

    def __init__(self, seed: int = SEED) -> None:
        self.seed = seed
        self.scenes = Scenes(seed=seed, split="heldout")
        self.tasks: tuple[str, ...] = tuple(TASKS)

    def check(self, tasks: Sequence[str]) -> None:
        """Refuse a task that does not exist."""
        for task in tasks:
            if task not in self.tasks:
                raise RegistryError(
                    f"unknown task {task!r} of the benchmark {self.name!r}",
                    hint=did_you_mean(task, self.tasks),
                )

    def sample(self, task: str, index: int) -> Sample:
        """A question with its true answer as the last turn."""
        return self.scenes.question(task, index)

    def question(self, sample: Sample) -> Sample:
        """The same without the answer."""
        return replace(sample, turns=sample.turns[:-1])

    def score(self, sample: Sample, answer: Answer) -> float:
        """How right an answer is, 0 to 1."""
        boxes = [box for box in answer.boxes if isinstance(box, Box)]
        return score(sample, answer.text, boxes)

    def chance(self, samples: Sequence[Sample]) -> float | None:
        """The score of always giving the most frequent answer to questions of a kind.

        None where answers are boxes or descriptions.
        """
        answers: dict[str, Counter[str]] = defaultdict(Counter)
        for sample in samples:
            if sample.meta["task"] in ("find", "list", "describe"):
                return None
            answers[sample.meta["kind"]][sample.meta["answer"]] += 1
        right = sum(found.most_common(1)[0][1] for found in answers.values())
        return right / len(samples) if samples else None

    def swapped(self, sample: Sample, other: Sample) -> Sample:
        """The question over the pictures of another one, as a control.

        Regions keep their relative place, so that they lie on the new picture.
        """
        old, new = sample.media("image"), other.media("image")
        scales = [
            (theirs.data.width / own.data.width, theirs.data.height / own.data.height)
            for own, theirs in zip(old, new, strict=True)
        ]
        pictures = dict(zip(map(id, old), new, strict=True))
        turns = []
        for turn in sample.turns:
            parts = [_swapped(part, pictures, scales) for part in turn.content]
            turns.append(Turn(turn.role, tuple(parts)))
        return replace(sample, turns=tuple(turns))


def _swapped(part: Part, pictures: dict[int, Media], scales: Sequence[tuple[float, float]]) -> Part:
    if not isinstance(part, Media):
        return part
    if part.kind == "image":
        return pictures[id(part)]
    return replace(part, data=_scaled(part.data, *scales[part.on or 0]))


def _scaled(region: Region, x: float, y: float) -> Any:
    if isinstance(region, Point):
        return Point(region.x * x, region.y * y)
    if isinstance(region, Box):
        return Box(region.x1 * x, region.y1 * y, region.x2 * x, region.y2 * y)
    assert not isinstance(region, Mask), "scenes mark no masks"
    points = tuple((a * x, b * y) for a, b in region.points)
    return Polygon(points) if isinstance(region, Polygon) else Stroke(points, region.width)
