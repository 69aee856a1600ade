"""Answers of a word or a number."""

from __future__ import annotations

from typing import Literal

from omnimix.evaluate.measure import Each, Reference
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


class Exact(Each):
    """The share of answers that are one of the references, case and white space around them aside."""

    def one(self, prediction: Answer, reference: Reference) -> float:
        given = prediction.text.strip().lower()
        return float(given in [text.strip().lower() for text in reference.texts])


class Relaxed(Each):
    """The share of answers that `relaxed` takes for right."""

    def one(self, prediction: Answer, reference: Reference) -> float:
        return float(any(relaxed(text, prediction.text) for text in reference.texts))


class YesNo(Each):
    """The share of answers that say yes or no where the reference does (POPE, MME); "other" is wrong."""

    def one(self, prediction: Answer, reference: Reference) -> float:
        said = yes_no(prediction.text)
        return float(said != "other" and said in map(yes_no, reference.texts))
