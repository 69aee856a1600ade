"""A model behind `omnimix serve`, asked over a real connection, gets the scores that it gets directly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.evaluate.layouts import MAKERS
from tests.serve.live import live

from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import OmnimixError
from omnimix.evaluate.answers import run
from omnimix.evaluate.server import Server, asked_for
from omnimix.generate.answers import Answer
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.serve.app import Settings, create_app
from omnimix.serve.batched import Batched
from omnimix.serve.items import ItemReader
from omnimix.types import Sample, Turn

FEW = Options(max_new_tokens=8)


@pytest.fixture(scope="module")
def assistant(tiny_model: MultimodalLM, tiny_processor: Processor) -> Assistant:
    return Assistant(tiny_model, tiny_processor)


@pytest.fixture(scope="module")
def server(assistant: Assistant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = Settings(ItemReader(tmp_path_factory.mktemp("root")), FEW)
    with live(create_app(Batched(assistant, "tiny"), settings)) as address:
        yield Server(f"{address}/v1", "tiny")


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_scores_as_directly(
    name: str, assistant: Assistant, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)  # Java takes seconds to start
    MAKERS[name](tmp_path / "files")
    direct = run(assistant, name, tmp_path / "files", options=FEW).to_dict()
    served = run(server, name, tmp_path / "files", options=FEW).to_dict()  # type: ignore[arg-type]
    kept = ("score", "n", "empty", "unread", "groups", "numbers", "low", "high", "failed")
    assert {k: served.get(k) for k in kept} == {k: direct.get(k) for k in kept}, served["failures"]
    assert served["n"] and served["pinned"]["server"] and "weights" in direct["pinned"]


def test_an_option_reaches_the_server_or_is_refused(assistant: Assistant, server: Server) -> None:
    sample = Sample((Turn("user", ("How many are there?",)),), "one")

    def both(options: Options) -> list[str]:
        found = []
        for one in (assistant, server):
            (answer,) = one.write_many([one.weave(sample, options)], 1, options)  # type: ignore[attr-defined]
            assert isinstance(answer, Answer)
            found.append(answer.text)
        return found

    direct, served = both(FEW)
    assert direct == served
    words: list[dict[str, Any]] = [
        {"logit_bias": {17: 100.0}},
        {"logit_bias": {17: 40.0}, "presence_penalty": 2.0, "frequency_penalty": 2.0},
        {"stop_strings": (direct[1:3],)},
        {"temperature": 1.0, "top_p": 0.5, "seed": 3},
    ]
    for each in words:
        other, served = both(replace(FEW, **each))
        assert other == served != direct, each
    assert asked_for(replace(FEW, presence_penalty=1.5, top_p=0.5)) == {
        **{"max_tokens": 8, "temperature": 0.0, "presence_penalty": 1.5}
    }
    for each in ({"top_k": 5}, {"repetition_penalty": 1.2}, {"min_new_tokens": 2}, {"logprobs": 1}):
        with pytest.raises(OmnimixError, match=f"no word for {next(iter(each))}"):
            server.write_many([], 1, replace(FEW, **each))
