"""The engine's protocol: what is written piece by piece is what is answered as a whole."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import OmnimixError
from omnimix.generate.answers import Answer, Closing, Placed
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.serve.engine import OneAtATime, Piece
from omnimix.types import Box, Media, Sample, Turn
from omnimix_scenes import Scenes

OPTIONS = Options(max_new_tokens=24, temperature=2.0, seed=3)
SCENE = Scenes(7, "heldout").question("list", 0).media("image")[0]


@pytest.fixture(scope="module")
def assistant(tiny_model: MultimodalLM, tiny_processor: Processor) -> Assistant:
    return Assistant(tiny_model, tiny_processor)


def asked(*parts: str | Media) -> Sample:
    return Sample((Turn("user", parts),))


async def _pieces(engine: OneAtATime, sample: Sample, most: int | None = None) -> list[Piece]:
    found = []
    async with aclosing(engine.stream(sample, OPTIONS)) as pieces:
        async for piece in pieces:
            found.append(piece)
            if len(found) == most:
                break
    return found


def test_pieces_are_the_answer(assistant: Assistant) -> None:
    async def run() -> None:
        engine = OneAtATime(assistant, "tiny")
        question = asked(SCENE, "What is it?")
        pieces = await _pieces(engine, question)
        answer = await engine.generate(question, OPTIONS)
        await engine.close()
        assert len(pieces) > 2 and "".join(piece.text for piece in pieces) == answer.text
        assert [piece.answer for piece in pieces] == [*[None] * (len(pieces) - 1), answer]
        assert answer == assistant.reply(question, OPTIONS)

    asyncio.run(run())


def test_who_leaves_ends_the_writing(assistant: Assistant) -> None:
    async def run() -> None:
        engine = OneAtATime(assistant, "tiny")
        await _pieces(engine, asked("Say much."), most=1)
        assert engine.health() == {"waiting": 0, "answered": 0}
        assert await engine.generate(asked("Say much."), OPTIONS)
        await engine.close()

    asyncio.run(run())


def test_an_error_reaches_who_asked(assistant: Assistant) -> None:
    async def run() -> None:
        engine = OneAtATime(assistant, "tiny")
        with pytest.raises(OmnimixError):
            await engine.generate(asked(Media.image(b"no picture"), "What?"), OPTIONS)
        assert await engine.generate(asked("And now?"), OPTIONS)
        await engine.close()

    asyncio.run(run())


def answer(text: str, *placed: Placed) -> Answer:
    return Answer(text, tuple(one.region for one in placed), 1, True, placed=placed)


def test_regions_are_handed_out_when_text_stands_behind_them() -> None:
    closing = Closing()
    box = Placed(0, Box(0, 0, 1, 1), 0, 5, 0)
    named = Placed(0, Box(0, 0, 1, 1, label="a star"), 0, 5, 0)
    assert closing.of(answer("[box]", box)) == ()
    assert closing.of(answer("[box] is", box)) == (box,)
    assert closing.of(answer("[box] is a", box)) == ()
    assert closing.of(answer("[box] is a star", named)) == (named,)
    late = Placed(1, Box(2, 2, 3, 3), 16, 21, 0)
    assert closing.of(answer("[box] is a star [box]", named, late)) == ()
    assert closing.of(answer("[box] is a star [box]", named, late), done=True) == (late,)
