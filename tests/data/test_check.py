"""The check names every planted fault by its row, and finds nothing where there is none."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from omnimix.cli.main import app
from omnimix.compose import recipe as recipes
from omnimix.compose.processor import Processor
from omnimix.data.check import Checker, survey
from omnimix.data.check.page import histogram, page, tiles_of
from omnimix.data.check.style import style_faults
from omnimix.data.rows import RowsSpec
from omnimix.errors import RegionError
from omnimix.regions import Box, check_given
from tests.compose.senses import recipe_of_senses, write_words
from tests.conftest import TINY
from tests.data import planted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    planted.write_media(folder)
    write_words(folder)
    return folder


@pytest.fixture(scope="module")
def processor(folder: Path) -> Processor:
    return Processor.from_recipe(recipe_of_senses(), folder)


def checked(path: Path, processor: Processor, workers: int = 0) -> Any:
    source = RowsSpec(path=path.name).open(path.parent)
    return survey(Checker(source, processor), path.name, workers=workers)


@pytest.mark.parametrize(
    ("fine", "bad"),
    [(planted.FINE, planted.TALKS), (planted.FINE_BOXES, planted.BOXES)],
    ids=["talks", "boxes"],
)
def test_planted_faults_are_named_by_row(
    fine: Any, bad: Any, folder: Path, processor: Processor
) -> None:
    rows = [*fine, *(row for row, _ in bad.values())]
    found = checked(planted.write(folder / "rows.jsonl", rows), processor, workers=2)
    assert found.rows == len(rows)
    said = {row.index: [fault.said for fault in row.faults] for row in found.failed}
    for index, (name, (_, wanted)) in enumerate(bad.items(), len(fine)):
        assert any(re.search(wanted, one) for one in said.pop(index, [])), name
    assert said == {}
    assert all(row.where.endswith(f"line {row.index + 1}") for row in found.failed)


def test_nothing_is_found_on_the_clean_twin(folder: Path, processor: Processor) -> None:
    for name, rows in (("talks", planted.FINE), ("boxes", planted.FINE_BOXES)):
        found = checked(planted.write(folder / f"{name}.jsonl", rows), processor)
        assert (found.failed, found.notes, found.style, found.fine) == ([], {}, [], True)
        assert len(found.tokens) == len(rows) and min(found.learned) > 0


def test_members_of_a_shard(folder: Path, processor: Processor) -> None:
    bad = checked(planted.write_shard(folder / "bad.tar", True), processor)
    assert [(row.where, row.faults[0].code) for row in bad.failed] == [
        ("bad.tar: sample ../2", "row")
    ]
    assert checked(planted.write_shard(folder / "fine.tar", False), processor).fine


def test_tokens_of_the_style_that_the_tokenizer_lacks(processor: Processor) -> None:
    template = processor.recipe.template
    form = template.user.model_copy(update={"before": "<|im_start|>user\n"})
    lacking = template.model_copy(update={"user": form, "name": "mine"})
    (said,) = style_faults(lacking, processor.weave.tokenizer)
    assert "'mine' writes <|im_start|>" in said
    form = template.user.model_copy(update={"before": "</s>"})
    known = template.model_copy(update={"user": form})
    assert list(style_faults(known, processor.weave.tokenizer)) == []


@pytest.mark.parametrize(
    ("box", "size", "fine"),
    [
        ((0, 0, 1, 1), (30, 20), False),
        ((0.2, 0.1, 0.9, 1.0), (2, 2), False),
        ((0, 0, 1, 1), (1, 1), True),
        ((0, 0, 1.5, 1), (30, 20), True),
    ],
)
def test_a_box_of_shares_is_asked_about(box: Any, size: Any, fine: bool) -> None:
    if fine:
        check_given(Box(*box), *size)
    else:
        with pytest.raises(RegionError, match="are these shares of the picture"):
            check_given(Box(*box), *size)


# --- the command ---


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for i in range(4):
        Image.new("RGB", (30, 20), (40 * i, 9, 9)).save(tmp_path / f"{i}.png")
    words = recipes.with_base({"base": "nano", "name": "small"}, "small")
    recipe = recipes.parse(words, "small", TINY)
    (tmp_path / "small.yaml").write_text(recipes.dump(recipe))
    (tmp_path / "t.train.yaml").write_text(
        json.dumps(
            {
                "name": "t",
                "recipe": "small.yaml",
                "output_dir": "run",
                "stages": [
                    {"mixture": [{"data": {"kind": "rows", "path": "rows.json"}}], "max_steps": 1}
                ],
            }
        )
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["check", *words, "--workers", "0"])


ROWS = [
    planted.talk(image="0.png", id="a"),
    planted.talk("<image><b>?", answer="</span><script>alert(1)</script>", image="1.png", id="b"),
    planted.talk(image="gone.png", id="<img src=x onerror=alert(2)>"),
    planted.talk(answer="x\0y", image="2.png", id="c"),
    planted.talk(image="3.png", id="a"),
]


class _Page(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.words.append(dict(attrs))


def test_report_page_and_cleaned_copy(work: Path) -> None:
    (work / "rows.json").write_text(json.dumps(ROWS))
    done = run("t.train.yaml", "--fix")
    assert done.exit_code == 1, done.output
    report = json.loads((work / "check/report.json").read_text())["datasets"][0]
    assert [(f["row"], f["code"]) for f in report["faults"]] == [
        (3, "item"),
        (4, "text"),
        (5, "duplicate-id"),
    ]
    assert report["rows"] == 5 and report["failed"] == 3 and report["tokens"]["most"] > 0
    text = (work / "check/report.html").read_text()
    shown = _Page(text)
    assert {"svg", "figure", "span", "img"} <= set(shown.tags)
    assert not {"script", "b>", "link"} & set(shown.tags)
    # Nothing of a row becomes markup, and nothing is fetched.
    assert not any(key.startswith("on") for words in shown.words for key in words)
    assert all(
        str(words["src"]).startswith("data:image/jpeg") for words in shown.words if "src" in words
    )
    assert "&lt;script&gt;" in text and 'class="learned"' in text and "\u2039image: " in text

    clean = [json.loads(line) for line in (work / "rows.clean.jsonl").read_text().split("\n")[:-1]]
    assert [row["id"] for row in clean] == ["a", "b", "c", "a-5"]
    assert clean[2]["conversations"][1]["value"] == "xy"
    changes = [
        json.loads(x) for x in (work / "rows.clean.changes.jsonl").read_text().split("\n")[:-1]
    ]
    assert [change["change"] for change in changes] == [
        "left out",
        "NUL bytes taken out",
        "the id is a-5 now",
    ]
    assert "gone.png" in changes[0]["reason"]
    again = run("small.yaml", "rows.clean.jsonl")
    assert again.exit_code == 0, again.output


def test_allowed_faults_fail_nothing(work: Path) -> None:
    (work / "rows.json").write_text(json.dumps([ROWS[0], ROWS[4]]))
    assert run("small.yaml", "rows.json").exit_code == 1
    assert run("small.yaml", "rows.json", "--allow", "duplicate-id").exit_code == 0


def test_a_dataset_that_needs_no_words(work: Path) -> None:
    done = run("small.yaml", "scenes", "--rows", "3")
    assert done.exit_code == 0, done.output


def test_a_cleaned_copy_of_bytes(folder: Path, processor: Processor, tmp_path: Path) -> None:
    from omnimix.data.check.mend import mend

    source = RowsSpec(path=planted.write_shard(folder / "bad.tar", True).name).open(folder)
    check = Checker(source, processor)
    file, changes = mend(check, survey(check, "bad").failed, tmp_path / "clean")
    assert file.suffix == ".parquet" and len(changes) == 1
    again = RowsSpec(path=str(file)).open(tmp_path)
    assert again.length == 1 and again[0].media()[0].data[:4] == b"\x89PNG"


def test_histogram_and_tiles(processor: Processor, folder: Path) -> None:
    assert histogram([], None).count("rect") == 0
    drawn = histogram([1, 1, 5, 9], 10)
    assert drawn.count("<rect") == 3 and "context 10" in drawn
    assert "context" not in histogram([1, 2], 1000)
    far = histogram([*range(1, 41), 4000], None)  # one that is far out does not hide the others
    assert far.count("<rect") > 10 and "156 and more, at most 4000 tokens" in far
    row = planted.talk("<image>a<audio>", image="11.png", audio="sound.wav")
    source = RowsSpec(path=planted.write(folder / "one.jsonl", [row]).name).open(folder)
    check = Checker(source, processor)
    woven = check.woven(source[0])
    (seen,), (heard,) = (
        woven.items["image"],
        next(v for k, v in woven.items.items() if k != "image"),
    )
    assert len(list(tiles_of(seen))) == seen.tiles and list(tiles_of(heard)) == []
    assert np.asarray(next(iter(tiles_of(seen)))).std() > 0
    assert "\u2039image" in page([(survey(check, "one"), check)])
