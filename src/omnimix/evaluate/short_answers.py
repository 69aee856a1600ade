"""Answers of a word or a number."""

from __future__ import annotations

from typing import Literal

from omnimix.evaluate.measure import Reference, Worded
from omnimix.generate.answers import Answer


def relaxed(target: str, answer: str, most: float = 0.05) -> bool:
    """ChartQA's measure (arXiv 2203.10244): a number may be off by a share, a text must be the same.

    A percentage is a fraction; a target of zero is compared as text. Case does not count.

    Args:
        most: share of the target.
    """
    true, given = _number(target), _number(answer)
    if true and given is not None:
        return abs(given - true) / abs(true) <= most
    return answer.lower() == target.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def yes_no(answer: str) -> Literal["yes", "no", "other"]:
    """What an answer says in its first four characters; case does not count."""
    start = answer[:4].lower()
    if "yes" in start:
        return "yes"
    return "no" if "no" in start else "other"


class Exact(Worded):
    """The share of answers that are one of the references, case and white space around them aside."""

    def one(self, prediction: Answer, reference: Reference) -> float:
        given = prediction.text.strip().lower()
        return float(given in [text.strip().lower() for text in reference.texts])


class Relaxed(Worded):
    """The share of answers that `relaxed` takes for right."""

    def one(self, prediction: Answer, reference: Reference) -> float:
        return float(any(relaxed(text, prediction.text) for text in reference.texts))


class YesNo(Worded):
    """The share of answers that say yes or no where the reference does (POPE, MME); "other" is wrong."""

    def one(self, prediction: Answer, reference: Reference) -> float:
        said = yes_no(prediction.text)
        return float(said != "other" and said in map(yes_no, reference.texts))


def anls(answer: str, target: str, least: float = 0.5) -> float:
    """Normalised Levenshtein similarity of one pair (arXiv 1905.13648), 0 where it is below `least`.

    Case does not count, nor does how wide white space is; the longer text's length counts as it is written.
    """
    given, true = (" ".join(text.lower().split()) for text in (answer, target))
    longest = max(len(answer), len(target))
    similar = 1 - _distance(given, true) / longest if longest else 1.0
    return similar if similar >= least else 0.0


def _distance(a: str, b: str) -> int:
    """How many letters have to be put in, taken out or changed."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
    return row[-1]


class Anls(Worded):
    """Average normalised Levenshtein similarity (DocVQA, InfoVQA): the nearest reference counts."""

    version = 2

    def one(self, prediction: Answer, reference: Reference) -> float:
        return max((anls(prediction.text, text) for text in reference.texts), default=0.0)
