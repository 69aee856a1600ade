"""A paper's table by one command, and models ranked by their mean z-score."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.evaluate.layouts import MAKERS
from typer.testing import CliRunner

from omnimix.cli.main import app
from omnimix.evaluate.benchmark import table as benchmarks
from omnimix.evaluate.papers import run_paper, table
from omnimix.generate.assistant import load

PAPER = "2402.07865"


def test_tables_name_what_there_is() -> None:
    for paper in table().values():
        assert set(paper.rows) <= set(benchmarks()) and set(paper.z) <= set(paper.rows)
        for name, row in paper.rows.items():
            spec = benchmarks()[name]
            assert row.prompt in spec.prompts
            assert row.rank is None or spec.options or spec.choices or spec.offered


def test_the_page_names_every_benchmark_and_table() -> None:
    text = (Path(__file__).parents[2] / "docs/evaluate.md").read_text()
    assert [name for name in benchmarks() if f"| `{name}` | [" not in text] == []
    assert [name for name in table() if name not in text] == []


def test_one_command_gives_the_table(tiny_folder: Path, tmp_path: Path) -> None:
    files, out = tmp_path / "files", tmp_path / "first"
    rows = table()[PAPER].rows
    for name, row in rows.items():
        if name != "gqa":
            MAKERS[name](files / (row.folder or name))
    words = ["evaluate", str(tiny_folder), PAPER, "--folder", str(files), "--answers", str(out)]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "table.json")])
    report = json.loads((tmp_path / "table.json").read_text())
    # What cannot be asked, or not in all of its rows, is named and stops nothing.
    assert (
        done.exit_code == 1
        and "gqa: not asked" in done.stderr
        and list(report["missing"]) == ["gqa"]
    )
    assert "vqav2: 2 rows are not in the score" in done.stderr
    assert list(report["benchmarks"]) == [name for name in rows if name != "gqa"]
    assert all(name in done.stdout for name in rows if name != "gqa")
    assert report["benchmarks"]["vsr"]["pinned"]["ranked"] == "sum@1"
    assert "ranked" not in report["benchmarks"]["vqav2"]["pinned"]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "vsr.jsonl").write_bytes(before["vsr.jsonl"][:-9])
    found, missing = run_paper(load(str(tiny_folder)), PAPER, files, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert (
        list(missing) == ["gqa"]
        and {k: v.to_dict() for k, v in found.items()} == report["benchmarks"]
    )
    told = {
        "a table's answers lie in a folder": words[:-2],
        "--rank does not go with a paper's table": [*words, "--rank", "sum"],
        "nothing says where its official files lie": words[:3],
    }
    for said, wrong in told.items():
        refused = CliRunner().invoke(app, wrong)
        assert refused.exit_code == 2 and said in refused.stderr, refused.stderr


@pytest.mark.parametrize("paper", [name for name in table() if name != PAPER])
def test_every_table_asks_all_of_its_rows(
    paper: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Miniature files of every row: what cannot be asked or needs a judge is named, and a second run asks nothing."""
    monkeypatch.setattr(shutil, "which", lambda name: None)  # Java takes seconds to start
    files, out, found = tmp_path / "files", tmp_path / "answers", tmp_path / "table.json"
    rows = table()[paper].rows
    for name, row in rows.items():
        MAKERS[name](files / (row.folder or name))
    words = ["evaluate", str(tiny_folder), paper, "--folder", str(files), "--answers", str(out)]
    words += ["--limit", "1", "--out", str(found)]
    done = CliRunner().invoke(app, words)
    report = json.loads(found.read_text())
    # The tiny model's whole context is as long as those answers.
    long = [name for name in rows if benchmarks()[name].max_new_tokens == 1024]
    assert list(report["missing"]) == long and all(
        f"{one}: not asked" in done.stderr for one in long
    )
    asked = [name for name in rows if name not in long]
    assert list(report["benchmarks"]) == asked and all(f"{name} " in done.stdout for name in asked)
    judged = [name for name in asked if benchmarks()[name].judge is not None]
    assert [name for name in asked if "skipped" in report["benchmarks"][name]] == judged
    assert all(f"{name}: no score: " in done.stderr for name in judged)
    failed = [name for name in asked if report["benchmarks"][name]["failed"]]
    assert done.exit_code == bool(failed or long or judged)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    again = CliRunner().invoke(app, words)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert json.loads(found.read_text()) == report and again.exit_code == done.exit_code


def test_models_ranked_over_benchmarks(tmp_path: Path) -> None:
    """z = (score - mean over the models) / their standard deviation, and the mean over the benchmarks."""
    right = {"pope": (6, 3, 0), "gqa": (2, 0, 1), "vizwiz": (2, 2, 2)}
    folders = [tmp_path / name for name in ("good", "odd", "bad")]
    for k, folder in enumerate(folders):
        folder.mkdir()
        for name, counts in right.items():
            if (name, k) == ("vizwiz", 2):
                continue
            lines = [
                {
                    "row": i + 1,
                    "id": str(i),
                    "answer": "yes" if i < counts[k] else "no",
                    "question": "?",
                    "picture": str(i),
                    "size": [9, 9],
                    "group": "",
                    "references": ["yes"],
                    "choices": [],
                    "boxes": [],
                }
                for i in range(6)
            ]
            (folder / f"{name}.jsonl").write_text(
                "".join(json.dumps(line) + "\n" for line in lines)
            )
            (folder / f"{name}.jsonl.run.json").write_text(json.dumps({"benchmark": name}))
    words = ["compare", *map(str, folders), "--z-table"]
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    spread = (2 / 3) ** 0.5  # of 2, 1, 0 and of 6, 3, 0 in thirds
    by_hand = [(1 + 1) / spread / 2, (0 - 1) / spread / 2, (-1 + 0) / spread / 2]
    assert [*found["z"].values()] == pytest.approx(by_hand)
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0 and "mean z" in shown.stdout and "vizwiz" in shown.stderr
    one = json.loads(CliRunner().invoke(app, [*words, "--json", "--only", "gqa"]).stdout)
    assert [*one["z"].values()] == pytest.approx([1 / spread, -1 / spread, 0])
    paper = json.loads(CliRunner().invoke(app, [*words, "--json", "--only", PAPER]).stdout)
    assert paper["z"] == one["z"]  # POPE is none of the eight that the paper takes the mean of
