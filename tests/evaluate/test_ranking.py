"""The likeliest of given answers, and batches dealt out to several processes."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.evaluate.layouts import MAKERS
from tests.evaluate.test_benchmarks import Says

from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.errors import OmnimixError
from omnimix.evaluate import answers
from omnimix.evaluate.answers import run
from omnimix.evaluate.benchmark import table
from omnimix.evaluate.ranking import Ranking, likelihoods
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.parallel.process_group import ProcessGroup
from omnimix.types import Media, Sample, Turn


@pytest.fixture(scope="module")
def assistant(tiny_model: MultimodalLM, tiny_processor: Processor) -> Assistant:
    return Assistant(tiny_model, tiny_processor)


def test_as_computed_by_hand(assistant: Assistant) -> None:
    """Every option alone behind the prompt, unpadded, from the logits of the whole row."""
    picture = Media.image(Image.radial_gradient("L").convert("RGB"))
    sample = Sample((Turn("user", (picture, "Which is it?")),))
    texts = ("a red circle", "no", "three blue squares of one size")
    ranking = Ranking(assistant, texts)
    asked = ranking.weave(sample, Options())
    found = likelihoods(assistant, asked.prompt, [ids for _, ids in asked.options])
    by_hand = []
    for text, ids in asked.options:
        assert assistant.processor.weave.tokenizer.decode(ids).strip() == text
        batch = assistant.batch([asked.prompt])
        zeros = torch.zeros(1, len(ids), dtype=torch.long)
        batch["input_ids"] = torch.cat([batch.input_ids, torch.tensor([ids])], 1)
        batch["item_places"] = torch.cat([batch.item_places, zeros.to(batch.item_places.dtype)], 1)
        batch["attention_mask"] = torch.ones_like(batch.input_ids)
        with torch.inference_mode():
            logits = assistant.model(**batch).logits[0, -len(ids) - 1 : -1]
        by_hand.append(float(logits.log_softmax(-1)[range(len(ids)), list(ids)].sum()))
    assert found == pytest.approx(by_hand, rel=1e-4)
    counts = [len(ids) for _, ids in asked.options]
    assert len(set(counts)) == 3
    for rank, numbers in (
        ("sum", by_hand),
        ("mean", [a / b for a, b in zip(by_hand, counts, strict=True)]),
    ):
        (chosen,) = Ranking(assistant, texts, rank).write_many([asked])
        assert chosen.text == texts[max(range(3), key=numbers.__getitem__)]
        assert [one for _, one in chosen.likelihoods] == pytest.approx(numbers, rel=1e-4)  # type: ignore[attr-defined]
    assert by_hand.index(max(by_hand)) == 1  # the shortest, as sums have it


RANKED = ("ai2d", "vsr", "pope", "tallyqa-letters", "mmbench", "mmmu", "mme")


@pytest.mark.parametrize("name", RANKED)
def test_benchmarks_that_are_ranked(assistant: Assistant, name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path / "files")
    out = tmp_path / "answers.jsonl"
    found = run(assistant, name, tmp_path / "files", out, rank="sum", batch_size=2)
    spec = table()[name]
    assert found.pinned["ranked"] == "sum@1"
    for item in found.items:
        likely = item.line["likelihoods"]
        assert item.line["answer"] == max(likely, key=likely.get)
        assert set(likely) == set(spec.options or "ABCDEFGHIJKLMNOP"[: len(item.line["choices"])])
    before = out.read_bytes()
    out.write_bytes(before[: len(before) // 2])
    assert (
        run(assistant, name, tmp_path / "files", out, rank="sum", batch_size=2).to_dict()
        == found.to_dict()
    )
    assert out.read_bytes() == before
    with pytest.raises(OmnimixError, match=r"another run; what differs: .*ranked"):
        run(assistant, name, tmp_path / "files", out, batch_size=2)


def test_what_cannot_be_ranked(assistant: Assistant, tmp_path: Path) -> None:
    MAKERS["gqa"](tmp_path / "gqa")
    with pytest.raises(OmnimixError, match="GQA, testdev balanced has no choices to rank"):
        run(assistant, "gqa", tmp_path / "gqa", rank="sum")
    MAKERS["pope"](tmp_path / "pope")
    with pytest.raises(OmnimixError, match="a server does not say"):
        run(Says([]), "pope", tmp_path / "pope", rank="mean")  # type: ignore[arg-type]


class Thread(ProcessGroup):
    """A rank that is a thread of this process."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier) -> None:
        self.rank, self.size, self.barrier = rank, size, barrier

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        yield
        self.barrier.wait(30)


class Knows(Says):
    """Answers by the question, so that it does not matter who is asked; dies before a question."""

    def __init__(self, dies_at: str = "") -> None:
        super().__init__([])
        self.dies_at = dies_at

    def write_many(self, woven: Any, batch: int = 0, options: Any = None) -> Any:
        names = [one.sample.id for one in woven]
        if self.dies_at in names:
            raise KeyboardInterrupt
        self.answers = ["yes" if len(name) % 2 else f"no {name}" for name in names]
        return super().write_many(woven)


def dealt(
    size: int, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, dies_at: str = ""
) -> list[Any]:
    here, barrier, found = threading.local(), threading.Barrier(size), [None] * size
    monkeypatch.setattr(answers, "join", lambda: here.group)

    def work(rank: int) -> None:
        here.group = Thread(rank, size, barrier)
        with contextlib.suppress(KeyboardInterrupt, threading.BrokenBarrierError):
            try:
                found[rank] = run(Knows(dies_at), "pope", folder, out, batch_size=1)  # type: ignore[arg-type, call-overload]
            except KeyboardInterrupt:
                barrier.abort()
                raise

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return found


def test_several_processes_write_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MAKERS["pope"](tmp_path / "files")
    alone = tmp_path / "alone.jsonl"
    (first,) = dealt(1, tmp_path / "files", alone, monkeypatch)
    for size in (2, 3):
        out = tmp_path / f"{size}.jsonl"
        found = dealt(size, tmp_path / "files", out, monkeypatch)
        assert out.read_bytes() == alone.read_bytes()
        assert [one.to_dict() for one in found] == [first.to_dict()] * size
    # Stopped in the middle, and gone on with by as many, by another number, or by one alone.
    for number, again in enumerate((2, 3, 1)):
        out = tmp_path / f"killed{number}.jsonl"
        dealt(2, tmp_path / "files", out, monkeypatch, dies_at="coco_pope_popular-2")
        left = sorted(tmp_path.glob(f".killed{number}.jsonl.rank*"))
        assert [path.name[-1] for path in left] == ["0", "1"] and left[0].read_bytes()
        left[1].write_bytes(left[1].read_bytes() + b'{"row": 4, "torn')
        dealt(again, tmp_path / "files", out, monkeypatch)
        assert out.read_bytes() == alone.read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    monkeypatch.setattr(answers, "join", lambda: Thread(0, 2, threading.Barrier(1)))
    with pytest.raises(OmnimixError, match="need a file"):
        run(Knows(), "pope", tmp_path / "files")  # type: ignore[arg-type]
    assert json.loads(alone.read_text().splitlines()[0])["row"] == 1
