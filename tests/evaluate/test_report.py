"""Benchmarks: scores with intervals, nothing lost, and the control."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import OmnimixError, RegistryError
from omnimix.evaluate.report import evaluate, wilson
from omnimix.generate.answers import Answer
from omnimix.generate.assistant import Assistant
from omnimix.types import Box, Media, Sample, check_region
from omnimix_scenes.benchmark import ScenesBenchmark


class Knowing(Assistant):
    """Looks the answer up, by the picture and the words of the question."""

    def __init__(self, model: MultimodalLM, processor: Processor, tasks: Sequence[str], n: int):
        super().__init__(model, processor)
        bench = ScenesBenchmark()
        self.known = {}
        for task in tasks:
            for i in range(n):
                sample = bench.sample(task, i)
                self.known[self.key(sample)] = sample

    @staticmethod
    def key(sample: Sample) -> tuple[Any, ...]:
        pictures = tuple(media.data.tobytes() for media in sample.media("image"))
        return (*map(hash, pictures), sample.turns[0].text())

    def reply_many(self, samples: Any, batch_size: int = 32, **_: Any) -> list[Answer]:
        answers = []
        for sample in samples:
            assert len(sample.turns) == 1, "the answer must not be in the question"
            found = self.known.get(self.key(sample))
            text = "" if found is None else str(found.meta["answer"])
            boxes = () if found is None else found.meta["boxes"]
            answers.append(Answer(text, boxes, 1, True))
        return answers


@pytest.mark.parametrize(
    ("score", "n", "low", "high"), [(0.5, 100, 0.404, 0.596), (1.0, 10, 0.722, 1.0), (0, 0, 0, 1)]
)
def test_intervals_are_wilsons(score: float, n: int, low: float, high: float) -> None:
    assert wilson(score, n) == pytest.approx((low, high), abs=1e-3)


def test_true_answers_score_one_and_swapped_pictures_do_not(
    tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    bench = ScenesBenchmark()
    knowing = Knowing(tiny_model, tiny_processor, bench.tasks, 5)
    seen: list[tuple[str, int, int]] = []
    report = evaluate(knowing, bench, limit=5, progress=lambda *a: seen.append(a), batch_size=2)
    assert {name: found.score for name, found in report.tasks.items()} == dict.fromkeys(
        bench.tasks, 1.0
    )
    assert seen[-1] == (bench.tasks[-1], 5, 5)
    swapped = evaluate(knowing, bench, limit=5, swap_pictures=True, tasks=["attribute", "find"])
    assert all(found.score == 0 for found in swapped.tasks.values())


def test_a_model_is_scored(tiny_model: MultimodalLM, tiny_processor: Processor) -> None:
    bench = ScenesBenchmark()
    bench.max_new_tokens = 4
    report = evaluate(Assistant(tiny_model, tiny_processor), bench, limit=3, tasks=["count"])
    data = json.loads(json.dumps(report.to_dict()))
    assert {"score", "low", "high", "n"} <= data["tasks"]["count"].keys()
    assert data["tasks"]["count"]["n"] == 3


@pytest.mark.parametrize("task", ScenesBenchmark().tasks)
def test_swapped_questions_are_whole(task: str) -> None:
    bench = ScenesBenchmark()
    for i in range(5):
        one, other = bench.sample(task, i), bench.sample(task, i + 1)
        swapped = bench.swapped(one, other)
        pictures = [media.data for media in swapped.media("image")]
        assert pictures == [media.data for media in other.media("image")]
        assert swapped.turns[0].text() == one.turns[0].text()
        for part in swapped.turns[0].content:
            if isinstance(part, Media) and part.kind == "region":
                check_region(part.data, *pictures[part.on or 0].size)


def test_chance_is_the_most_frequent_answer() -> None:
    bench = ScenesBenchmark()
    found = bench.chance([bench.sample("exists", i) for i in range(40)])
    assert found is not None
    assert 0.3 < found < 0.9
    assert bench.chance([bench.sample("find", 0)]) is None


def test_what_cannot_be_asked_is_refused(
    tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    assistant = Assistant(tiny_model, tiny_processor)
    with pytest.raises(RegistryError, match="Did you mean 'count'"):
        evaluate(assistant, ScenesBenchmark(), tasks=["cuont"])
    with pytest.raises(OmnimixError, match="limit"):
        evaluate(assistant, ScenesBenchmark(), limit=0)


def test_points_are_no_boxes() -> None:
    bench = ScenesBenchmark()
    sample = bench.sample("find", 0)
    box = sample.meta["box"]
    assert isinstance(box, Box)
    assert bench.score(sample, Answer("", (box,), 1, True)) == 1.0
    assert bench.score(sample, Answer("", (), 1, True)) == 0.0
