"""The comparison of servers runs through, of equal answers; what is missing is said. No time is asserted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.serve_work import Work, shaped

from benchmarks import serve, serve_sides

TINY = ("--shape", "tiny", "--rounds", "1", "--clients", "1", "3", "--tokens", "4")
SIDES = ("--sides", "generate", "torch", "OpenVINO 16", "llama.cpp f16", "server", "thread")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMNIMIX_CACHE", "")  # given back behind the test
        yield shaped("tiny", tmp_path_factory.mktemp("work"), 3, 4)


def test_all_ways_of_serving_write_the_same(given: Work) -> None:
    alone = [serve_sides.by_generate(given, 3).ids, serve_sides.by_engine(given, 3).ids]
    wanted = alone[0]
    assert len({tuple(ids) for ids in wanted}) > 1
    assert alone == [wanted, wanted]
    assert serve_sides.by_generate(given, 3, together=True).ids == wanted
    served = serve_sides.by_server(given, 3)
    assert [x.strip() for x in served.texts] == [given.text(ids).strip() for ids in wanted]
    assert len(served.firsts) == 3 and max(served.firsts) <= served.seconds


def test_prompts_as_embeddings_are_the_same_prompts(given: Work) -> None:
    asked = given.asked(given.embedded(3))
    assert serve_sides.by_engine(given, 3, asked=asked).ids == serve_sides.by_engine(given, 3).ids


def test_a_request_that_a_server_refuses_is_told(given: Work) -> None:
    with serve_sides.live(given.assistant, 4) as base, pytest.raises(RuntimeError, match="400"):
        serve_sides.by_clients(f"{base}/v1/chat/completions", [{"messages": []}])


def test_the_whole_runs_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMNIMIX_CACHE", "")
    monkeypatch.setattr(serve, "missing", lambda package: package == "llama_cpp")
    told = {"clients": 1, "ids": [[5, 6]], "seconds": 2.0, "firsts": [1.0], "peak": 7}
    other = tmp_path / "python"
    other.write_text(f"#!/bin/sh\necho starting\necho '{json.dumps(told)}'\n")
    other.chmod(0o755)
    out = tmp_path / "results"
    words = [*TINY, *SIDES, "--no-memory", "--profile", "--vllm", str(other), "--out", str(out)]
    assert serve.main(words) == 0
    assert "round 1,  3 at once" in capsys.readouterr().out
    held = json.loads((out / "serve.json").read_text())
    lines = {one["name"]: one for one in held["lines"]}
    for name in ("torch over generate one at a time", "OpenVINO 16 over generate one at a time"):
        assert lines[f"1 client: {name}"]["equal"] == "1 of 1"
    assert lines["3 clients: OpenVINO 16 over torch"]["equal"] == "3 of 3"
    overhead = lines["1 client: time of the server (torch) over its engine's"]
    assert (overhead["equal"], overhead["goal"]) == ("1 of 1", "< 1.05")
    assert lines["1 client: vLLM-CPU over torch"]["equal"] == "0 of 1"
    assert held["memory"] == {"vLLM-CPU": 7}
    assert held["left_out"] == {"llama.cpp f16": "pip install 'omnimix[llama-cpp]'"}
    text = (out / "serve.md").read_text()
    assert all(one in text for one in (*lines, "| torch | ", "llama.cpp f16 was left out"))
    profiled = (out / "serve-profile.md").read_text()
    assert "products of matrices" in profiled and "times one at a time" in profiled
    rows = [line.split("|")[1:-1] for line in profiled.splitlines() if line.startswith("|")]
    parts = {
        (row[0].strip(), row[1].strip()): [float(one) for one in row[2:]]
        for row in rows
        if len(row) == 9 and row[1].strip().isdigit()
    }
    assert set(parts) == {(name, n) for name in ("torch", "OpenVINO 16") for n in "13"}
    assert all(abs(row[0] - sum(row[1:5])) < 0.03 for row in parts.values())


@pytest.mark.parametrize(
    ("goal", "median", "reached"),
    [(">= 6", 6.0, "yes"), (">= 6", 5.9, "no"), ("< 1.05", 1.04, "yes"), ("< 1.05", 1.05, "no"), ("", 1.0, "")],
)  # fmt: skip
def test_goals(goal: str, median: float, reached: str) -> None:
    assert serve.line("x", [median], goal).reached == reached


def test_memory_is_of_a_process_of_its_own(tmp_path: Path, given: Work) -> None:
    bench = serve.Bench(given, serve.parsed([*TINY, "--sides", "torch"]), tmp_path)
    words = ["serve", *TINY, "--folder", str(tmp_path), "--peak"]
    bench._peak_of("torch", [*words, "torch"])
    bench._peak_of("OpenVINO 17", [*words, "OpenVINO 17", "--device", "none"])
    assert bench.memory.keys() == {"torch"} and bench.memory["torch"] > 100
    assert bench.left_out["memory of OpenVINO 17"].endswith("it ended with 2") and bench.failed


def test_a_side_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setenv("OMNIMIX_CACHE", "")
    monkeypatch.setattr(serve, "by_generate", broken)
    words = [*TINY, "--sides", "generate", "torch", "--no-memory", "--out", str(tmp_path)]
    assert serve.main(words) == 1
    held = json.loads((tmp_path / "serve.json").read_text())
    assert held["left_out"]["generate"] == "RuntimeError: no memory"
    assert {one["name"] for one in held["runs"]} == {"torch"}
