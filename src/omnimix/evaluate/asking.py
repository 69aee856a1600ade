"""Ask a model the questions of a data set, a batch at a time; a record that cannot be asked stops nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from omnimix.compose.sequence import Sequence as Woven
from omnimix.data.sources import Source
from omnimix.errors import OmnimixError
from omnimix.generate.answers import Answer
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.types import Sample


@dataclass(frozen=True)
class Reply:
    """What came of one record.

    Attributes:
        row: its number in the data set, from 0.
        sample: the record, its own answer included; None where it could not be read.
        answer: the model's; None where the record could not be asked.
        size: width and height of the question's last picture in pixels, in which regions of the answer lie;
            (0, 0) where there is none.
        error: why it could not be asked; empty where it was.
    """

    row: int
    sample: Sample | None
    answer: Answer | None
    size: tuple[int, int] = (0, 0)
    error: str = ""


def question_of(sample: Sample) -> Sample:
    """What is asked of a record: its turns without an answer that ends it."""
    if sample.turns and sample.turns[-1].role == "assistant":
        return replace(sample, turns=sample.turns[:-1])
    return sample


def ask(
    assistant: Assistant,
    source: Source,
    rows: range,
    options: Options,
    batch_size: int = 32,
) -> Iterator[list[Reply]]:
    """The replies to some records, a batch of records at a time and in their order.

    Args:
        rows: which records; their batches begin at `rows.start`, so that the same rows in the same batches
            give the same answers, whether asked in one go or in several.
        options: how the answers are written.
        batch_size: most answers that are written together.
    """
    for start in range(rows.start, rows.stop, batch_size):
        read = [
            _read(assistant, source, row, options)
            for row in range(start, min(start + batch_size, rows.stop))
        ]
        woven = [one for _, one in read if one is not None]
        answers = iter(assistant.write_many(woven, batch_size, options))
        yield [
            reply
            if one is None
            else replace(
                reply,
                answer=next(answers),
                size=one.pictures[-1].size if one.pictures else (0, 0),
            )
            for reply, one in read
        ]


def _read(
    assistant: Assistant, source: Source, row: int, options: Options
) -> tuple[Reply, Woven | None]:
    """A record that is ready to be asked, or why it is not."""
    sample: Sample | None = None
    try:
        sample = source[row]
        return Reply(row, sample, None), assistant.weave(question_of(sample), options)
    except OmnimixError as error:
        return Reply(row, sample, None, error=error.sentence()), None
