"""The server's engine: many answers at once, each what the assistant alone would answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import OmnimixError
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.generate.engine.core import Limits
from omnimix.serve.batched import Batched
from omnimix.serve.engine import Piece
from omnimix.types import Media, Sample, Turn
from omnimix_scenes import Scenes

OPTIONS = Options(max_new_tokens=16, temperature=2.0, seed=3, logprobs=1)
SCENES = Scenes(7, "heldout")


@pytest.fixture(scope="module")
def assistant(tiny_model: MultimodalLM, tiny_processor: Processor) -> Assistant:
    return Assistant(tiny_model, tiny_processor)


def asked(*parts: str | Media) -> Sample:
    return Sample((Turn("user", parts),))


QUESTIONS = [
    asked(SCENES.question("list", i % 3).media("image")[0], f"What? {i}") for i in range(6)
]


@asynccontextmanager
async def running(assistant: Assistant, most: Limits | None = None) -> AsyncIterator[Batched]:
    engine = Batched(assistant, "tiny", most)
    try:
        yield engine
    finally:
        await engine.close()


async def _pieces(engine: Batched, sample: Sample, most: int | None = None) -> list[Piece]:
    found: list[Piece] = []
    async with aclosing(engine.stream(sample, OPTIONS)) as pieces:
        async for piece in pieces:
            found.append(piece)
            if len(found) == most:
                break
    return found


def test_many_at_once_are_answered_as_alone(assistant: Assistant) -> None:
    async def run() -> None:
        async with running(assistant, Limits(4, prefill_chunk=16, prefix_memory=2**24)) as engine:
            streams = await asyncio.gather(*(_pieces(engine, one) for one in QUESTIONS))
            health = engine.health()
        for question, pieces in zip(QUESTIONS, streams, strict=True):
            wanted = assistant.reply(question, OPTIONS)
            answer = pieces[-1].answer
            assert answer is not None and answer.ids == wanted.ids and answer.text == wanted.text
            assert "".join(piece.text for piece in pieces) == wanted.text
            told = [one for piece in pieces for one in piece.logprobs]
            assert [one.token for one in told] == [one.token for one in wanted.logprobs]
            assert all(piece.answer is None for piece in pieces[:-1])
        assert health["answered"] == len(QUESTIONS) and not health["running"]
        assert health["steps"] < sum(len(one[-1].answer.ids) for one in streams if one[-1].answer)

    asyncio.run(run())


def test_who_leaves_and_what_is_broken_hurt_nobody(assistant: Assistant) -> None:
    async def run() -> None:
        async with running(assistant) as engine:
            broken = engine.generate(asked(Media.image(b"no picture"), "What?"), OPTIONS)
            found = await asyncio.gather(
                _pieces(engine, QUESTIONS[0], most=1),
                broken,
                engine.generate(QUESTIONS[1], OPTIONS),
                return_exceptions=True,
            )
            assert isinstance(found[1], OmnimixError)
            assert getattr(found[2], "ids", None) == assistant.reply(QUESTIONS[1], OPTIONS).ids
        assert engine.health()["running"] == engine.health()["queued"] == 0

    asyncio.run(run())


def test_closing_lets_answers_end_and_takes_no_more(assistant: Assistant) -> None:
    async def run() -> None:
        engine = Batched(assistant, "tiny")
        answers = [asyncio.ensure_future(engine.generate(one, OPTIONS)) for one in QUESTIONS[:3]]
        await asyncio.sleep(0)
        await engine.close()
        assert all(answer.tokens for answer in await asyncio.gather(*answers))
        with pytest.raises(OmnimixError, match="being closed"):
            await engine.generate(QUESTIONS[0], OPTIONS)

    asyncio.run(run())


def test_an_answer_that_can_never_fit_is_refused(assistant: Assistant) -> None:
    async def run() -> None:
        async with running(assistant, Limits(cache_memory=1000)) as engine:
            with pytest.raises(OmnimixError, match="1000 is all there is"):
                await engine.generate(QUESTIONS[0], OPTIONS)

    asyncio.run(run())


def test_an_engine_that_broke_says_so(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with running(assistant) as engine:
            monkeypatch.setattr(engine._core, "_plan", lambda: 1 / 0)
            monkeypatch.setattr(engine._thread, "_invoke_excepthook", lambda _: None)
            for words in ("division", "broke down .division"):
                with pytest.raises((OmnimixError, ZeroDivisionError), match=words):
                    await engine.generate(QUESTIONS[0], OPTIONS)

    asyncio.run(run())
