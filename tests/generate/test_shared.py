"""The engine of several processes: the first decides, and the others do as it does, whatever happens beside."""

from __future__ import annotations

import contextlib
import pickle
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from tests.generate.test_engine import LONG, asked, questions as questions

from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import Sequence as Woven
from omnimix.errors import ParallelError
from omnimix.generate.assistant import Assistant
from omnimix.generate.engine.core import Generation, Limits
from omnimix.generate.engine.shared import Shared
from omnimix.generate.options import Options
from omnimix.parallel.process_group import Ranks

LIMITS = Limits(3, prefill_chunk=7, prefix_memory=2**14, item_memory=2**12)
PATIENCE = 60


class Threads(Ranks):
    """Two ranks that are threads of this process, and say things to each other as processes do: pickled."""

    def __init__(self, rank: int, said: list[Any], barrier: threading.Barrier) -> None:
        super().__init__(rank, 2, None, None)
        self.said = said
        self.barrier = barrier

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        yield

    def gather(self, what: str, value: Any) -> list[Any]:
        self.said[self.rank] = pickle.dumps((what, value))
        self.barrier.wait(PATIENCE)
        found = [pickle.loads(one) for one in self.said]
        self.barrier.wait(PATIENCE)
        assert len({word for word, _ in found}) == 1, "the ranks do different things"
        return [one for _, one in found]

    def tell(self, value: Any) -> Any:
        return self.gather("tell", None if self.rank else value)[0]


@pytest.fixture
def pair(tiny_model: MultimodalLM) -> Iterator[tuple[Shared, Shared]]:
    """Two cores over the same whole model; the second follows in a thread of its own, and ends with the first."""
    said, barrier = [None, None], threading.Barrier(2)
    runner = Assistant(tiny_model, None).decoder.runner  # type: ignore[arg-type]
    first, second = (
        Shared(tiny_model, LIMITS, runner, Threads(rank, said, barrier)) for rank in range(2)
    )

    def follow() -> None:
        try:
            second.follow()
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(1) as beside:
        following = beside.submit(follow)
        try:
            yield first, second
            first.close()
            following.result(PATIENCE)
        finally:
            barrier.abort()
    assert list(second.prefixes._blocks) == list(first.prefixes._blocks)
    assert list(second.items._kept) == list(first.items._kept)
    assert (second.steps, second.tokens) == (first.steps, first.tokens)
    assert second.held == second.waiting == second.running == 0


@pytest.fixture(scope="module")
def assistant(tiny_model: MultimodalLM, tiny_processor: Processor) -> Assistant:
    return Assistant(tiny_model, tiny_processor)


def test_all_take_the_steps_of_the_first(
    pair: tuple[Shared, Shared], assistant: Assistant, questions: list[Any]
) -> None:
    first, chance = pair[0], random.Random(5)
    warm = LONG.but({"temperature": 2.0})  # without a seed: chance is the first process's own
    woven = [assistant.weave(question, LONG) for question in questions[:6]]
    wanted = [one.ids for one in assistant.decoder.write(woven, LONG, assistant.endings(LONG))]
    order = [*range(len(woven))] * 3
    chance.shuffle(order)
    requests = [(i, asked(assistant, woven[i])) for i in order]
    others = [asked(assistant, woven[i], warm) for i in range(4)]
    others[0].deadline = time.monotonic() - 1
    others[1].ended = _broken
    waiting = [*(one for _, one in requests), *others]
    chance.shuffle(waiting)
    left = [one for i, one in requests if chance.random() < 0.2] + [others[2]]
    while waiting or first.waiting or first.running:
        for _ in range(chance.randrange(3)):
            if waiting:
                first.add(waiting.pop())
        first.step()
        if chance.random() < 0.3 and left:
            left.pop().cancel()
    assert "in the time that was given" in str(others[0].error)
    assert isinstance(others[1].error, ZeroDivisionError)
    assert others[3].reason in ("stop", "length")
    whole = 0
    for i, one in requests:
        if one.reason == "cancelled":
            assert one.ids == wanted[i][: len(one.ids)]
        else:
            assert one.ids == wanted[i]
            whole += 1
    assert whole > 8


def _broken(_: list[int]) -> bool:
    raise ZeroDivisionError


@pytest.mark.parametrize("where", [0, 1])
def test_an_item_that_fails_in_one_process_fails_for_its_request_alone(
    where: int,
    pair: tuple[Shared, Shared],
    assistant: Assistant,
    questions: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    woven = [assistant.weave(questions[i], LONG) for i in range(3)]
    requests = [asked(assistant, one) for one in woven]
    [bad] = [key for own in _items(requests[1]).values() for key, _, _ in own][:1]
    items = pair[where].items
    run = items._run

    def broken(name: str, new: Any) -> None:
        if bad in new:
            raise ValueError("no such picture")
        run(name, new)

    monkeypatch.setattr(items, "_run", broken)
    for one in requests:
        pair[0].add(one)
    while pair[0].step():
        pass
    kind, words = (ParallelError, "rank 1 failed: no such picture") if where else (ValueError, "no")
    assert isinstance(requests[1].error, kind) and words in str(requests[1].error)
    for i in (0, 2):
        assert requests[i].ids == _alone(assistant, woven[i])


def _items(one: Generation) -> Any:
    return one.prompt.items  # type: ignore[union-attr]


def _alone(assistant: Assistant, woven: Woven) -> list[int]:
    return assistant.decoder.write([woven], LONG, assistant.endings(LONG))[0].ids


def test_logits_that_are_no_numbers_fail_one_request(
    pair: tuple[Shared, Shared],
    assistant: Assistant,
    questions: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = Options(max_new_tokens=4, stop_strings=())
    requests = [asked(assistant, assistant.weave(questions[i], options), options) for i in range(2)]
    choose = pair[0]._chosen

    def chosen(rows: list[Any]) -> Any:
        spoiled = [
            (one, torch.full_like(row, torch.nan) if one.request is requests[0] else row)
            for one, row in rows
        ]
        return choose(spoiled)

    monkeypatch.setattr(pair[0], "_chosen", chosen)
    for one in requests:
        pair[0].add(one)
    while pair[0].step():
        pass
    assert "not finite" in str(requests[0].error) and len(requests[1].ids) == 4
