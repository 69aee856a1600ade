"""A file of records scored: what is asked, what counts as right, what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence as Many
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from omnimix.cli.main import app
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.sequence import Sequence
from omnimix.errors import OmnimixError, SampleError
from omnimix.evaluate.asking import Swapped
from omnimix.evaluate.measure import Reference, reference_of
from omnimix.evaluate.records import open_records, score_records
from omnimix.generate.answers import Answer
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.registry import MEASURES
from omnimix.types import Box, Media, Sample, Turn


class Fixed(Assistant):
    """Gives the answers it is made with and keeps what it was asked."""

    def __init__(self, model: MultimodalLM, processor: Processor, answers: Many[Answer]):
        super().__init__(model, processor)
        self.answers = list(answers)
        self.asked: list[Sample] = []

    def weave(self, conversation: Any, options: Options) -> Sequence:
        self.asked.append(conversation)
        return super().weave(conversation, options)

    def write_many(self, woven: Any, batch_size: int = 32, options: Any = None) -> list[Answer]:
        return [self.answers.pop(0) for _ in woven]


def said(text: str, *boxes: Box) -> Answer:
    return Answer(text, boxes, 1, True)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    Image.new("RGB", (80, 40), "red").save(tmp_path / "red.png")
    rows = [
        {
            "id": str(i),
            "turns": [
                {"role": "user", "content": [{"image": "red.png"}, "Which colour?"]},
                {"role": "assistant", "content": [answer]},
            ],
            "meta": {"references": [answer, "scarlet"]} if i == 1 else {},
        }
        for i, answer in enumerate(["red", "crimson", {"box": [0, 0, 40, 40]}])
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_answers_are_compared_with_the_last_turns(
    records: Path, tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    lines = records.read_text().splitlines()
    records.write_text("\n".join([*lines[:2], lines[0]]))
    fixed = Fixed(tiny_model, tiny_processor, [said("Red"), said("scarlet"), said("")])
    seen: list[tuple[int, int]] = []
    source = open_records(records)
    scored = score_records(
        fixed, source, MEASURES.load("exact")(), "exact", None, 2, lambda *at: seen.append(at)
    )
    assert all(sample.turns[-1].role == "user" for sample in fixed.asked)
    assert scored.score.each == (1, 1, 0) and seen == [(2, 3), (3, 3)]
    data = scored.to_dict()
    assert data["n"] == 3 and data["low"] < data["score"] == 0.6667 < data["high"]
    assert data["empty"] == 1
    two = Fixed(tiny_model, tiny_processor, [said("red"), said("red")])
    assert score_records(two, source, MEASURES.load("cider")(), "cider", 2).score.ceiling is None


def test_boxes_lie_in_the_pixels_of_the_picture(
    records: Path, tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    lines = records.read_text().splitlines()
    records.write_text("\n".join([lines[2]] * 2))
    answers = [said("", Box(0, 0, 40, 39)), said("[0.0, 0.25, 0.5, 0.75]")]
    scored = score_records(
        Fixed(tiny_model, tiny_processor, answers),
        open_records(records),
        MEASURES.load("referring")(),
        "referring",
    )
    assert scored.score.each == (1, 1)


def test_pictures_of_other_records_as_a_control(records: Path) -> None:
    Image.new("RGB", (80, 40), "blue").save(records.parent / "blue.png")
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    rows.append(json.loads(json.dumps(rows[0]).replace("red.png", "blue.png")))
    rows.append({**rows[0], "turns": [{"role": "user", "content": ["Why?"]}]})
    records.write_text("\n".join(map(json.dumps, rows)))
    swapped = Swapped(open_records(records), 5)
    shown = [swapped[i].media("image")[0].label for i in (0, 1, 3)]
    assert shown == ["blue.png", "blue.png", "red.png"]  # never a record's own picture
    assert swapped[0].turns[1].text() == "red"
    for index, said in ((2, "its regions"), (4, "no picture to swap")):
        with pytest.raises(SampleError, match=said):
            swapped[index]
    with pytest.raises(SampleError, match="none of the next 100 records"):
        Swapped(open_records(records), 2)[0]


def test_records_in_the_form_of_llava(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Is it?"}, {"from": "gpt", "value": " yes "}]
    (tmp_path / "a.json").write_text(json.dumps([{"id": "7", "conversations": turns}]))
    sample = open_records(tmp_path / "a.json")[0]
    assert reference_of(sample) == Reference(("yes",), name="7")


def test_what_cannot_be_scored_is_refused(
    records: Path, tiny_model: MultimodalLM, tiny_processor: Processor, tmp_path: Path
) -> None:
    with pytest.raises(SampleError, match="there is no such file"):
        open_records(tmp_path / "nothing.jsonl")
    with pytest.raises(SampleError, match="ends without an answer"):
        reference_of(Sample((Turn("user", (Media.image("a.png"), "Well?")),), "7"))
    fixed = Fixed(tiny_model, tiny_processor, [])
    with pytest.raises(OmnimixError, match="no record to ask"):
        score_records(fixed, open_records(records), MEASURES.load("exact")(), "exact", 0)


def test_records_that_cannot_be_asked_are_named_and_stop_nothing(
    records: Path, tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    rows[0]["turns"][0]["content"][0]["image"] = "gone.png"
    rows.append({"id": "4", "turns": rows[1]["turns"][:1]})
    records.write_text("\n".join(map(json.dumps, rows)))
    fixed = Fixed(tiny_model, tiny_processor, [said("scarlet"), said(""), said("red")])
    source = open_records(records)
    scored = score_records(fixed, source, MEASURES.load("exact")(), "exact", batch_size=3)
    assert scored.n == 1 and scored.score.each == (1,) and scored.empty == 0
    missing, boxed, endless = scored.failed
    assert boxed.startswith("rows.jsonl: line 3: ") and "no text" in boxed
    assert missing.startswith("rows.jsonl: line 1: ") and "gone.png" in missing
    assert endless.startswith("rows.jsonl: line 4: ") and "ends without an answer" in endless
    none = Fixed(tiny_model, tiny_processor, [said("")] * 2)
    with pytest.raises(OmnimixError, match="none of 1 records can be scored; the first: rows"):
        score_records(none, source, MEASURES.load("exact")(), "exact", limit=1)


def test_an_unbounded_measure_has_an_interval(
    records: Path, tiny_model: MultimodalLM, tiny_processor: Processor
) -> None:
    lines = records.read_text().splitlines()
    records.write_text("\n".join([*lines[:2], lines[0]]))
    fixed = Fixed(tiny_model, tiny_processor, [said("red"), said("crimson red"), said("a")])
    scored = score_records(fixed, open_records(records), MEASURES.load("cider")(), "cider")
    bounds = scored.interval()
    assert bounds is not None and bounds[0] < scored.score.value < bounds[1]


def test_the_command(records: Path) -> None:
    run = CliRunner().invoke
    lines = records.read_text().splitlines()
    records.write_text("\n".join(lines[:2]))
    asked = ["evaluate", "nano", "--data", str(records), "--metric", "exact", "--limit", "1"]
    result = run(app, [*asked, "--json"])
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["measure"] == "exact" and data["model"] == "nano" and data["n"] == 1
    shown = run(app, asked)
    assert shown.exit_code == 0 and "nano by exact" in shown.stdout
    named = run(app, ["evaluate", "--list"])
    assert named.exit_code == 0 and "Levenshtein" in named.stdout and "scenes" in named.stdout
    for wrong, sentence in [
        ([*asked[:4], "--metric", "exakt"], "Did you mean 'exact'"),
        ([*asked, "--tasks", "count"], "--tasks does not go with --data"),
        (asked[:4], "For instance --metric exact"),
        (["evaluate", "nano", str(records)], "--metric exact"),
        (["evaluate", "nano", "scenes", "--metric", "exact"], "a benchmark brings its own"),
        (["evaluate", "nano"], "nothing says what the model is asked"),
    ]:
        result = run(app, wrong)
        assert result.exit_code == 2 and sentence in " ".join(result.stderr.split()), result.output
    records.write_text("\n".join(lines[:1]).replace("red.png", "gone.png") + "\n" + lines[1])
    result = run(app, [*asked[:-1], "2"])
    assert result.exit_code == 1 and "1 records are not in the score" in result.stderr
