"""Ask a model the questions of a data set, a batch at a time; a record that cannot be asked stops nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from omnimix.compose.sequence import Sequence as Woven
from omnimix.data.sources import Source
from omnimix.errors import OmnimixError, SampleError
from omnimix.generate.answers import Answer
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.types import Media, Sample


@dataclass(frozen=True)
class Reply:
    """What came of one record.

    Attributes:
        row: its index in the data set; people are told its place in the file.
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


FAR = 100
"""Records among which one with other pictures is looked for."""


class Swapped(Source):
    """Every record with the pictures of the next one that has as many, as a control: what is still right was
    guessed from the words.

    Args:
        source: records, of which the first `total` are asked.
    """

    def __init__(self, source: Source, total: int) -> None:
        self.inner = source
        self.length = total

    def __getitem__(self, index: int) -> Sample:
        sample = self.inner[index]
        own = sample.media("image")
        if not own:
            raise SampleError("the record has no picture to swap", where=sample.id)
        if sample.media("region"):
            raise SampleError("its regions would not lie on another picture", where=sample.id)
        assert self.length is not None
        for after in range(1, min(self.length, FAR)):
            other = (index + after) % self.length
            try:
                theirs = self.inner[other].media("image")
            except OmnimixError:
                continue  # is named when its own turn comes
            if len(theirs) == len(own) and _data(theirs) != _data(own):
                return _with_pictures(sample, dict(zip(map(id, own), theirs, strict=True)))
        raise SampleError(
            f"none of the next {FAR} records has {len(own)} pictures, and other ones",
            where=sample.id,
        )

    def where(self, index: int) -> str:
        return self.inner.where(index)


def _data(media: Sequence[Media]) -> list[str]:
    return [str(one.data) for one in media]


def _with_pictures(sample: Sample, pictures: Mapping[int, Media]) -> Sample:
    turns = (
        replace(turn, content=tuple(pictures.get(id(part), part) for part in turn.content))
        for turn in sample.turns
    )
    return replace(sample, turns=tuple(turns))


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
            reply if one is None else _answered(reply, one, next(answers), source)
            for reply, one in read
        ]


def _answered(reply: Reply, one: Woven, answer: Answer | OmnimixError, source: Source) -> Reply:
    """A reply with its answer; a server may refuse a single one."""
    size = one.pictures[-1].size if one.pictures else (0, 0)
    if isinstance(answer, OmnimixError):
        return replace(reply, size=size, error=source.placed(reply.row, answer.sentence()))
    return replace(reply, answer=answer, size=size)


def _read(
    assistant: Assistant, source: Source, row: int, options: Options
) -> tuple[Reply, Woven | None]:
    """A record that is ready to be asked, or why it is not."""
    sample: Sample | None = None
    try:
        sample = source[row]
        return Reply(row, sample, None), assistant.weave(question_of(sample), options)
    except OmnimixError as error:
        return Reply(row, sample, None, error=source.placed(row, error.sentence())), None
