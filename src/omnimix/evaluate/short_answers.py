"""Answers of a word or a number."""

from __future__ import annotations

from typing import Literal


def relaxed(target: str, answer: str, most: float = 0.05) -> bool:
    """ChartQA's measure: a number may be off by a share of the true one, a text must be the same.

    A percentage is a fraction; a target of zero is compared as text. Case does not count.

    Args:
        most: share of the target.
    """
    true, found = _number(target), _number(answer)
    if true and found is not None:
        return abs(found - true) / abs(true) <= most
    return answer.lower() == target.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def yes_no(answer: str) -> Literal["yes", "no", "other"]:
    """What an answer in lower case says in its first four characters."""
    start = answer[:4]
    if "yes" in start:
        return "yes"
    return "no" if "no" in start else "other"
