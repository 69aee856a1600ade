"""What a measure is: answers of a model and what would have been right, summed up as one number."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from omnimix.errors import SampleError
from omnimix.generate.answers import Answer
from omnimix.types import Box, Media, Sample


@dataclass(frozen=True)
class Reference:
    """What is right for one question.

    Attributes:
        texts: any of them is right.
        boxes: in pixels of the picture.
        size: width and height of that picture; (0, 0) where there is none.
        group: the part of the data set that the question belongs to; empty where there are none.
        name: of the record, for messages.
        choices: what there was to choose from.
        picture: names the picture; records of one picture do not vary by themselves.
    """

    texts: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    size: tuple[int, int] = (0, 0)
    group: str = ""
    name: str = ""
    choices: tuple[str, ...] = ()
    picture: str = ""


@dataclass(frozen=True)
class Score:
    """One number for all answers.

    Attributes:
        value: of all of them.
        each: for every answer; empty where the measure gives no such numbers.
        groups: the same number for each group of the data set.
        ceiling: the value of answers that are all right; None where it is not bounded.
        numbers: further ones that belong beside the value, by name.
        notes: what is missing among them, and why.
    """

    value: float
    each: tuple[float, ...] = ()
    groups: tuple[tuple[str, float], ...] = ()
    ceiling: float | None = 1.0
    numbers: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()


class Measure(abc.ABC):
    """A row of the table `measures`."""

    max_new_tokens: ClassVar[int] = 64
    """How long an answer it needs."""

    version: ClassVar[int] = 1
    """Goes up when the same answers would be scored otherwise."""

    def check(self, reference: Reference) -> None:  # noqa: B027 (most can compare with anything)
        """Refuse what this measure can make nothing of.

        Raises:
            SampleError: with what the record lacks.
        """

    @abc.abstractmethod
    def score(self, predictions: Sequence[Answer], references: Sequence[Reference]) -> Score:
        """How right the answers are, the k-th against the k-th reference.

        Raises:
            SampleError: a reference that this measure can make nothing of.
        """

    def references(
        self, samples: Sequence[Sample], sizes: Sequence[tuple[int, int]]
    ) -> list[Reference]:
        """What is right for records, each a finished conversation.

        Args:
            sizes: of each question's last picture in pixels, (0, 0) where there is none.

        Raises:
            SampleError: a record that this measure can make nothing of.
        """
        found = [reference_of(*pair) for pair in zip(samples, sizes, strict=True)]
        for reference in found:
            self.check(reference)
        return found


class Each(Measure):
    """A measure that is the mean over the answers."""

    @abc.abstractmethod
    def one(self, prediction: Answer, reference: Reference) -> float:
        """How right one answer is, 0 to 1."""

    def score(self, predictions: Sequence[Answer], references: Sequence[Reference]) -> Score:
        pairs = zip(predictions, references, strict=True)
        each = tuple(self.one(answer, reference) for answer, reference in pairs)
        return Score(fmean(each) if each else 0.0, each, grouped(each, references))


def grouped(
    each: Sequence[float], references: Sequence[Reference]
) -> tuple[tuple[str, float], ...]:
    """The mean of every group that records name."""
    found: dict[str, list[float]] = {}
    for score, reference in zip(each, references, strict=True):
        if reference.group:
            found.setdefault(reference.group, []).append(score)
    return tuple((name, fmean(scores)) for name, scores in sorted(found.items()))


def worded(reference: Reference) -> None:
    """The check of a measure that compares texts.

    Raises:
        SampleError: no text is right; an empty answer would be as good as any.
    """
    if not any(reference.texts):
        raise SampleError(
            "what is right has no text",
            where=reference.name,
            hint="score boxes with iou or referring, and texts where the last turn has some",
        )


class Worded(Each):
    """A measure of answers to records whose answer is a text."""

    def check(self, reference: Reference) -> None:
        worded(reference)


def reference_of(sample: Sample, size: tuple[int, int] = (0, 0)) -> Reference:
    """What a record says is right: its last turn, and `references` and `group` of its `meta`.

    Raises:
        SampleError: its last turn is no answer.
    """
    if not sample.turns or sample.turns[-1].role != "assistant":
        raise SampleError(
            "the record ends without an answer, so that nothing says what is right",
            where=sample.id,
            hint="let the last turn be the assistant's",
        )
    answer = sample.turns[-1]
    stated = sample.meta.get("references")
    texts = (answer.text().strip(),) if stated is None else tuple(map(str, stated))
    boxes = tuple(
        part.data
        for part in answer.content
        if isinstance(part, Media) and isinstance(part.data, Box)
    )
    return Reference(
        texts,
        boxes,
        size,
        str(sample.meta.get("group", "")),
        sample.id,
        tuple(map(str, sample.meta.get("choices", ()))),
        str(sample.meta.get("picture", "")),
    )
