"""What a model says about marked regions: their labels and their texts (golden/specs/sphinx_v.md section 6).

Golden: sphinx_v/metrics. The vectors of the semantic similarity come from a sentence encoder that the
caller brings (the published numbers use all-MiniLM-L6-v2); none is part of omnimix.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from omnimix.evaluate import similar
from omnimix.evaluate.captions import Cider
from omnimix.evaluate.measure import Measure, Reference, Score, worded
from omnimix.evaluate.official_captions import CocoCaptions
from omnimix.generate.answers import Answer

_SPLIT = ": "
_READ = re.compile(r"Region \d+: (?:.*?\((.*?)\)|(.*?))\n")
BLANK = "BLANK"
"""Stands for a region of which nothing is said."""


def labels(text: str) -> list[str]:
    """The label of each line `Region k: label`; what stands behind a second colon is lost."""
    return [line.split(_SPLIT)[1] for line in text.strip().split("\n") if _SPLIT in line]


def true_label(label: str) -> str:
    """A true label as it is compared: underscores and colons are spaces."""
    return label.replace("_", " ").replace(":", " ")


def word_overlap(label: str, other: str) -> float:
    """Words that two labels share, as a share of all their words; case does not count, punctuation does."""
    ours, theirs = set(label.lower().split()), set(other.lower().split())
    return len(ours & theirs) / len(ours | theirs) if ours | theirs else 0.0


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of two vectors; 0 where one of them is zero."""
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else 0.0


def classification(
    rows: Sequence[tuple[str, str]],
    alike: Callable[[str, str], float] = word_overlap,
) -> float:
    """How well regions are named: the mean similarity over the regions that were named.

    A region that is missing from a prediction costs nothing, as in the published script; a surplus one, on
    which that script crashes, is left out.

    Args:
        rows: of each picture the prediction and the truth, lines `Region k: label`.
        alike: of a predicted and a true label; `word_overlap` gives the semantic IoU, the `cosine` of
            their vectors the semantic similarity.
    """
    found = [
        alike(ours, true_label(theirs))
        for prediction, truth in rows
        for ours, theirs in zip(labels(prediction), labels(truth), strict=False)
    ]
    return fmean(found) if found else 0.0


def texts(answer: str) -> list[str]:
    """The text that an answer gives for each region, in its order.

    That is what a line `Region k: ... (text)` has in brackets, else all of `Region k: text`; nothing gives
    `BLANK`. A line without its end is not seen.
    """
    return [inside or line or BLANK for inside, line in _READ.findall(answer)]


def reading(rows: Sequence[tuple[str, str]]) -> float:
    """Regional text reading: the share of regions whose text is the true one, case aside.

    A region without an answer is wrong (the published script stops there); surplus answers are left out.

    Args:
        rows: of each picture the answer, and the truth with lines `Region k: text`.
    """
    right = total = 0
    for answer, truth in rows:
        true = labels(truth)
        total += len(true)
        right += sum(
            ours.lower() == theirs.lower()
            for ours, theirs in zip(texts(answer), true, strict=False)
        )
    return right / total if total else 0.0


class RegionLabels(Measure):
    """How well marked regions are named: the words that a label and the true one share (`classification`).

    Where there is a sentence encoder (`omnimix.evaluate.similar`), the similarity of their meanings stands beside it.
    """

    max_new_tokens = 256

    def score(self, predictions: Sequence[Answer], references: Sequence[Reference]) -> Score:
        rows = _rows(predictions, references)
        if not os.environ.get(similar.FOLDER):
            return Score(classification(rows))
        place = similar.folder()

        def alike(ours: str, theirs: str) -> float:
            return cosine(*similar.vectors([ours, theirs], place).tolist())

        numbers = (("sentence similarity", classification(rows, alike)),)
        return Score(classification(rows), numbers=numbers)


class RegionTexts(Measure):
    """The share of marked regions whose text is read right (`reading`)."""

    max_new_tokens = 256

    def score(self, predictions: Sequence[Answer], references: Sequence[Reference]) -> Score:
        return Score(reading(_rows(predictions, references)))


class RegionCaptions(Measure):
    """Captions of the first marked region as the COCO caption code scores them; CIDEr alone without that package."""

    max_new_tokens = 256

    def check(self, reference: Reference) -> None:
        worded(reference)

    def score(self, predictions: Sequence[Answer], references: Sequence[Reference]) -> Score:
        code = CocoCaptions if importlib.util.find_spec("pycocoevalcap") else Cider
        first = [replace(one, text=_first(one.text)) for one in predictions]
        true = [replace(one, texts=tuple(map(_first, one.texts))) for one in references]
        return code().score(first, true)


def _first(text: str) -> str:
    """What is said of the first region; the whole where no region is named."""
    found = labels(text)
    return found[0] if found else text.strip()


def _rows(predictions: Sequence[Answer], references: Sequence[Reference]) -> list[tuple[str, str]]:
    """Answers with their truths; the published scripts leave out a last line without its end."""
    return [
        (f"{answer.text}\n", reference.texts[0] if reference.texts else "")
        for answer, reference in zip(predictions, references, strict=True)
    ]
