"""Answers in a file: gone on with, scored again, compared, asked of a server, judged."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from tests.evaluate.layouts import MAKERS
from tests.evaluate.test_benchmarks import BOX, Says
from typer.testing import CliRunner

from omnimix.cli.main import app
from omnimix.errors import OmnimixError
from omnimix.evaluate.answers import clustered, run, score
from omnimix.evaluate.compare import compare, mcnemar, z_table
from omnimix.evaluate.written import write_items

RIGHT = ["yes", "no"] * 3
WRONG = ["no", "no"] * 3


def answered(name: str, folder: Path, out: Path, answers: list[str], **words: Any) -> Any:
    if not folder.exists():
        MAKERS[name](folder)
    return run(Says(answers), name, folder, out, batch_size=2, **words)  # type: ignore[arg-type]


@pytest.mark.parametrize("kept", [0, 1, 3, 5])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path, kept: int) -> None:
    out = tmp_path / "answers.jsonl"
    whole = answered("pope", tmp_path / "files", out, list(RIGHT))
    content = out.read_bytes()
    out.write_bytes(b"".join(content.splitlines(keepends=True)[:kept]) + b'{"row": 9, "a')
    left = RIGHT[kept // 2 * 2 :]
    again = answered("pope", tmp_path / "files", out, list(left))
    assert out.read_bytes() == content and again.to_dict() == whole.to_dict()


def test_stored_answers_are_scored_without_model_or_files(tmp_path: Path) -> None:
    out, folder = tmp_path / "answers.jsonl", tmp_path / "files"
    first = answered("vizwiz", folder, out, ["basil", ""])
    for path in folder.rglob("*.*"):
        path.unlink()
    again = score(out)
    assert again.to_dict() == first.to_dict() and again.to_dict()["empty"] == 1
    assert again.pinned["benchmark"] == "vizwiz" and again.pinned["measure"] == "vizwiz@1"
    assert score(out, metric="exact").measure == "exact"
    with out.open("a") as file:
        file.write('{"row": 4, "id": 7, "answer": 3}\n{"to\n')
    worse = score(out)
    assert len(worse.failed) == len(first.failed) + 2 and worse.score.value == first.score.value
    (tmp_path / "answers.jsonl.run.json").unlink()
    with pytest.raises(OmnimixError, match="of which benchmark"):
        score(out)


def test_items_as_lines_and_parquet(tmp_path: Path) -> None:
    found = answered("refcoco", tmp_path / "files", tmp_path / "answers.jsonl", [BOX, ""])
    write_items(found, tmp_path / "items.jsonl")
    write_items(found, tmp_path / "items.parquet")
    rows = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert [row["score"] for row in rows] == [1, 0] and rows[0]["boxes"] == [
        {"box": [0, 0, 40, 30]}
    ]
    table = pyarrow.parquet.read_table(tmp_path / "items.parquet")
    assert table.column("score").to_pylist() == [1, 0]
    assert json.loads(table.schema.metadata[b"omnimix"])["parser"] == "unit_box@1"
    pinned = (rows[0]["prompt"], rows[0]["parser"], rows[0]["measure"])
    assert pinned == (found.pinned["prompt"], "unit_box@1", "referring@1")
    assert table.column("measure").to_pylist() == ["referring@1"] * 2


def test_nothing_that_can_be_scored_is_no_score(tmp_path: Path) -> None:
    MAKERS["gqa"](tmp_path / "files")
    (tmp_path / "files/images/n1.jpg").write_bytes(b"no picture")
    (tmp_path / "files/images/n1.jpg").unlink()
    with pytest.raises(
        OmnimixError, match=r"none of 3 answers can be scored; the first: .*n1.jpg is not there"
    ):
        answered("gqa", tmp_path / "files", tmp_path / "a.jsonl", [])
    with pytest.raises(OmnimixError, match="there is no file"):
        answered("vqav2", tmp_path / "files", tmp_path / "b.jsonl", [])
    made = answered("pope", tmp_path / "pope", tmp_path / "c.jsonl", [""] * 6)
    assert made.to_dict()["empty"] == 6 and made.to_dict()["unread"] == 0


def test_pictures_are_drawn_whole() -> None:
    each, alone, together = (
        [1.0, 1, 0, 0] * 10,
        [str(i) for i in range(40)],
        [str(i // 2) for i in range(40)],
    )
    (a, b), (c, d) = clustered(each, alone), clustered(each, together)
    # Two questions of a picture that are right together say as much as one.
    assert d - c > 1.2 * (b - a) and clustered(each, together) == (c, d)


def test_two_models_compared(tmp_path: Path) -> None:
    a = answered("pope", tmp_path / "files", tmp_path / "a.jsonl", list(WRONG))
    b = answered("pope", tmp_path / "files", tmp_path / "b.jsonl", list(RIGHT))
    found = compare(a, b)
    assert (found.n, found.a, found.b, found.better, found.worse) == (6, 0.5, 1.0, 3, 0)
    assert found.p == 0.25 and found.rows[0][0].line["id"] == "coco_pope_adversarial-1"
    with pytest.raises(OmnimixError, match="cannot be compared"):
        compare(a, answered("gqa", tmp_path / "gqa", tmp_path / "c.jsonl", ["yes", "right"]))
    # Of 10 changed questions 9 got better: 2 * (1 + 10) / 1024; and the normal curve takes over smoothly.
    assert mcnemar(9, 1) == pytest.approx(22 / 1024) and mcnemar(0, 0) == 1
    assert mcnemar(530, 471) == pytest.approx(mcnemar(530, 470), rel=0.1)
    means, each = z_table({"a": {"x": 1, "y": 5}, "b": {"x": 3, "y": 5, "z": 9}})
    assert means == {"a": -0.5, "b": 0.5} and each["b"] == {"x": 1.0, "y": 0.0}


def test_the_page_of_changed_rows_needs_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    answered("refcoco", folder, tmp_path / "a.jsonl", [BOX, BOX])
    answered("refcoco", folder, tmp_path / "b.jsonl", [BOX, "[0.5, 0.5, 1, 1]<script>"])
    page = tmp_path / "page.html"
    words = ["compare", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "--page", str(page)]
    done = CliRunner().invoke(app, [*words, "--folder", str(folder)])
    assert done.exit_code == 0 and "worse on 1" in done.output, done.output
    text = page.read_text()
    assert "<script>" not in text and "http://" not in text.replace(
        "http://www.w3.org/2000/svg", ""
    )
    assert (
        text.count("<article>") == 1
        and text.count("<rect") == 3
        and "data:image/jpeg;base64," in text
    )


Replies = Callable[[dict[str, Any]], tuple[int, Any]]


@pytest.fixture
def served() -> Iterator[Callable[[Replies], str]]:
    """A server that answers as it is told."""
    servers: list[ThreadingHTTPServer] = []

    def start(replies: Replies) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                code, said = replies(body)
                data = json.dumps(said).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def chat(text: str, **more: Any) -> tuple[int, Any]:
    message = {"role": "assistant", "content": text, **more}
    return 200, {
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": {"completion_tokens": 2},
    }


def test_a_server_in_place_of_a_model(tmp_path: Path, served: Callable[[Replies], str]) -> None:
    seen: list[dict[str, Any]] = []

    def replies(body: dict[str, Any]) -> tuple[int, Any]:
        seen.append(body)
        if "grey" in str(body["messages"]):
            return 400, {"error": {"message": "too grey"}}
        return chat(
            "there",
            regions=[
                {
                    "index": 0,
                    "kind": "box",
                    "box": [0, 0, 40, 30],
                    "start": 0,
                    "end": 5,
                    "picture": 0,
                }
            ],
        )

    MAKERS["refcoco"](tmp_path / "files")
    words = [
        "evaluate",
        "my-model",
        "refcoco",
        "--folder",
        str(tmp_path / "files"),
        "--server",
        served(replies),
        "--json",
    ]
    done = CliRunner().invoke(app, words)
    report = json.loads(done.stdout.splitlines()[0])
    assert done.exit_code == 1 and (report["score"], report["n"], report["failed"]) == (1, 1, 1)
    assert "too grey" in report["failures"][0]
    first = next(body for body in seen if "left" in str(body["messages"]))
    text, picture = first["messages"][0]["content"][1], first["messages"][0]["content"][0]
    assert first["model"] == "my-model" and first["temperature"] == 0 and "left cat" in text["text"]
    assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,")
    away = CliRunner().invoke(
        app, [*words[:-3], "--server", served(lambda body: (404, {})), "--json"]
    )
    assert away.exit_code == 2 and "the server cannot be asked" in away.stderr


def test_a_judge_is_stored_and_never_a_zero(
    tmp_path: Path, served: Callable[[Replies], str]
) -> None:
    files, out = tmp_path / "files", tmp_path / "answers.jsonl"
    answered("mm-vet", files, out, ["-1 and -5", "x"])
    alone = CliRunner().invoke(app, ["score", str(out), "--json"])
    report = json.loads(alone.stdout.splitlines()[0])
    assert alone.exit_code == 1 and report["score"] is None
    assert report["skipped"].startswith("2 of 2 answers are not judged: no judge is named")
    asked: list[str] = []

    def replies(body: dict[str, Any]) -> tuple[int, Any]:
        asked.append(
            body["messages"][0]["content"][0]["text"]
            if isinstance(body["messages"][0]["content"], list)
            else body["messages"][0]["content"]
        )
        return chat("0.5" if "{curly}" in asked[-1] else "I would say 1.0")

    judge = ["--judge", served(replies), "--judge-model", "j"]
    report = json.loads(CliRunner().invoke(app, ["score", str(out), "--json", *judge]).stdout)
    assert report["score"] == 0.75 and report["measure"] == "judge" and len(asked) == 2
    kept = [
        json.loads(line)
        for line in (tmp_path / "answers.jsonl.judge.jsonl").read_text().splitlines()
    ]
    assert {one["reply"] for one in kept} == {"0.5", "I would say 1.0"} and kept[0]["model"] == "j"
    # Replies that are there are not asked for again, with or without a judge.
    assert (
        json.loads(CliRunner().invoke(app, ["score", str(out), "--json"]).stdout)["score"] == 0.75
    )
    assert len(asked) == 2


def test_a_judge_with_a_prompt_of_a_file(tmp_path: Path, served: Callable[[Replies], str]) -> None:
    out, asked = tmp_path / "answers.jsonl", list[str]()
    answered("mm-vet", tmp_path / "files", out, ["-1 and -5", "{reference}"])

    def replies(body: dict[str, Any]) -> tuple[int, Any]:
        content = body["messages"][0]["content"]
        asked.append(content if isinstance(content, str) else content[0]["text"])
        return chat("0.7")

    place = tmp_path / "prompt.txt"
    place.write_text("Q | {question} | {reference} | {answer} | {untouched}\n")
    words = ["score", str(out), "--json", "--judge", served(replies), "--judge-model", "j"]
    words += ["--judge-prompt", str(place)]
    report = json.loads(CliRunner().invoke(app, words).stdout)
    whole = hashlib.sha256(place.read_bytes()).hexdigest()
    assert report["score"] == pytest.approx(0.7) and report["pinned"]["judge_prompt"] == whole
    assert report["pinned"]["measure"] == f"judge@{whole[:12]}"
    assert (tmp_path / f"answers.jsonl.judge-{whole[:12]}.txt").read_bytes() == place.read_bytes()
    # What an answer says is no place, nor are other curly brackets.
    assert any(one.endswith(" | {reference} | {untouched}\n") for one in asked)
    assert all(one.startswith("Q | ") for one in asked) and len(asked) == 2
    again = CliRunner().invoke(app, words[:3])
    assert (
        json.loads(again.stdout.splitlines()[0])["score"] is None
    )  # by our prompt it is not judged
    place.write_text("{question} {answer}")
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2 and "has no {reference}" in refused.stderr
    table = [
        "evaluate",
        "nano",
        "2403.20271",
        "--folder",
        str(tmp_path),
        "--answers",
        str(tmp_path / "t"),
    ]
    refused = CliRunner().invoke(app, [*table, "--judge-prompt", str(place)])
    assert refused.exit_code == 2 and "--judge-prompt does not go with" in refused.stderr
    answered("pope", tmp_path / "pope", tmp_path / "pope.jsonl", ["yes"] * 9)
    refused = CliRunner().invoke(app, ["score", str(tmp_path / "pope.jsonl"), *words[3:]])
    assert refused.exit_code == 2 and "no judge scores POPE" in refused.stderr


def test_marks_of_a_pair(tmp_path: Path, served: Callable[[Replies], str]) -> None:
    out = tmp_path / "answers.jsonl"
    answered("mdvp-bench", tmp_path / "files", out, ["A cat.", "A dog."])
    judge = [
        "--judge",
        served(lambda body: chat("8 6" if "dog" in str(body) else "who knows")),
        "--judge-model",
        "j",
    ]
    done = CliRunner().invoke(app, ["score", str(out), "--json", *judge])
    report = json.loads(done.stdout.splitlines()[0])
    assert done.exit_code == 1 and report["score"] == 75 and report["n"] == 1
    assert "reply cannot be read" in report["failures"][0]


def test_the_command_with_the_shipped_words(tmp_path: Path) -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["evaluate", "--list"])
    assert "RefCOCO" in listed.output and "CC BY 4.0" in listed.output
    for words, told in (
        (["pope"], "nothing says where its official files lie"),
        (["pope", "--folder", str(tmp_path / "no")], "there is no such folder"),
        (["pop", "--folder", str(tmp_path)], "Did you mean 'pope'?"),
        (
            ["--benchmark", "pope", "--folder", str(tmp_path), "--metric", "exact"],
            "--metric does not go",
        ),
        (["mm-vet", "--folder", str(tmp_path)], "there is no file mm-vet.json"),
    ):
        done = runner.invoke(app, ["evaluate", "nano", *words])
        assert done.exit_code == 2 and told in done.stderr, done.output


def test_answers_that_are_not_there_are_called_so(tmp_path: Path) -> None:
    with pytest.raises(OmnimixError, match="no such file of answers"):
        score(tmp_path / "none.jsonl")
