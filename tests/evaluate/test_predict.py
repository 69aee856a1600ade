"""Answers in a file: gone on with after a stop, never mixed with those of another run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from omnimix.cli.main import app
from omnimix.compose.fingerprint import of_weights
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import OmnimixError
from omnimix.evaluate.predict import predict
from omnimix.evaluate.records import open_records
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options


@pytest.fixture
def records(tmp_path: Path) -> Path:
    for i in range(7):
        Image.new("RGB", (40 + i, 40), (30 * i, 99, 200 - 20 * i)).save(tmp_path / f"{i}.png")
    rows = [
        {"id": f"n{i}", "turns": [{"role": "user", "content": [{"image": f"{i}.png"}, "What?"]}]}
        for i in range(7)
    ]
    rows[4]["turns"][0]["content"][0] = {"image": "gone.png"}  # type: ignore[index]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def assistant(tiny_model: MultimodalLM, tiny_processor: Processor) -> Assistant:
    return Assistant(tiny_model, tiny_processor)


def run(assistant: Assistant, records: Path, out: Path, **words: Any) -> Any:
    words = {"options": Options(max_new_tokens=4), "batch_size": 3, **words}
    return predict(assistant, open_records(records), records, out, **words)


@pytest.mark.parametrize("whole, torn", [(0, b""), (3, b""), (4, b'{"row": 4, "an'), (7, b"")])
def test_a_stopped_run_ends_with_the_same_bytes(
    assistant: Assistant, records: Path, tmp_path: Path, whole: int, torn: bytes
) -> None:
    out = tmp_path / "answers.jsonl"
    made = run(assistant, records, out)
    assert (made.rows, made.failed) == (7, 1) and made.first.startswith("rows.jsonl: line 5: ")
    content = out.read_bytes()
    lines = [json.loads(line) for line in content.splitlines()]
    assert [line["row"] for line in lines] == list(range(1, 8))
    assert "gone.png" in lines[4]["error"] and lines[5]["answer"] and lines[5]["tokens"] == 4
    out.write_bytes(b"".join(content.splitlines(keepends=True)[:whole]) + torn)
    assert run(assistant, records, out) == made
    assert out.read_bytes() == content


def test_answers_of_another_engine_are_not_mixed(
    assistant: Assistant, records: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers.jsonl"
    run(assistant, records, out, limit=3)
    torch_run = json.loads((tmp_path / "answers.jsonl.run.json").read_text())
    assert "engine" not in torch_run
    assistant.decoder.engine = "openvino int8"
    with pytest.raises(OmnimixError, match="what differs: engine"):
        run(assistant, records, out)
    # vLLM takes torch's own copy of the weights, and answers of the same model are still told from others'.
    assistant.decoder.engine, assistant.decoder.given_up = "vllm 16", of_weights(assistant.model)
    run(assistant, records, tmp_path / "other.jsonl", limit=3)
    beside = json.loads((tmp_path / "other.jsonl.run.json").read_text())
    assert (beside["engine"], beside["weights"]) == ("vllm 16", torch_run["weights"])


def test_answers_of_another_run_are_not_mixed(
    assistant: Assistant, records: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers.jsonl"
    run(assistant, records, out, limit=3)
    with pytest.raises(OmnimixError, match="what differs: options"):
        run(assistant, records, out, options=Options(max_new_tokens=5))
    records.write_text(records.read_text().replace("What?", "Where?"))
    with pytest.raises(OmnimixError, match="what differs: data"):
        run(assistant, records, out)
    assert run(assistant, records, out, overwrite=True).rows == 7
    with pytest.raises(OmnimixError, match="no record to ask"):
        run(assistant, records, tmp_path / "none.jsonl", limit=0)
    with pytest.raises(OmnimixError, match="no file can be written there"):
        run(assistant, records, tmp_path / "no" / "answers.jsonl")


def test_the_command(records: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    words = ["predict", "nano", str(records), "--out", str(out), "--max-new-tokens", "3"]
    result = CliRunner().invoke(app, [*words, "--limit", "2"])
    assert result.exit_code == 0 and "2 answers" in result.stdout, result.output
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1 and "6 answers" in result.stdout
    assert "1 of 7 records could not be asked; the first: rows.jsonl: line 5: n4" in " ".join(
        result.stderr.split()
    )
