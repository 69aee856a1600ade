"""Captions against references: CIDEr (Vedantam et al. 2015) in the form of the COCO caption code.

METEOR and SPICE need their authors' Java programs: `omnimix.evaluate.official_captions`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TypeAlias

from omnimix.evaluate.measure import Measure, Reference, Score, worded
from omnimix.generate.answers import Answer

ORDERS = 4
"""N-grams of one to so many words."""

SIGMA = 6.0
"""Of the penalty for another length."""

BEST = 10.0
"""Of a caption that is its only reference."""

Grams: TypeAlias = Counter[tuple[str, ...]]

_WORD = re.compile(r"n't|'\w+|\w+(?:[-.,]\w+)*")
_CONTRACTION = re.compile(r"(?i)(n't|'(?:s|re|ve|ll|d|m))\b")


def words(caption: str) -> list[str]:
    """Words in lower case without punctuation, much as the Penn Treebank splits them.

    The published numbers use Stanford's tokenizer, a Java program; rare things (abbreviations, units) may
    be split in another way there.
    """
    spaced = _CONTRACTION.sub(r" \1", caption.lower())
    return _WORD.findall(spaced)


def cider(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> tuple[float, dict[str, float]]:
    """CIDEr of all captions and of each, from 0 to 10 and more.

    N-grams weigh by how few items have them, so that a single item scores 0.

    Args:
        captions: the caption of each item.
        references: of each item at least one; tokenized here as the captions are.
    """
    known = {item: [_grams(words(text)) for text in references[item]] for item in captions}
    having = Counter(gram for grams in known.values() for gram in set().union(*grams))
    scores = {
        item: fmean(
            _similar(_grams(words(caption)), truth, having, len(known)) for truth in known[item]
        )
        for item, caption in captions.items()
    }
    return (fmean(scores.values()) if scores else 0.0), scores


def _grams(tokens: Sequence[str]) -> Grams:
    return Counter(
        tuple(tokens[start : start + order])
        for order in range(1, ORDERS + 1)
        for start in range(len(tokens) - order + 1)
    )


def _similar(ours: Grams, truth: Grams, having: Counter[tuple[str, ...]], items: int) -> float:
    def weighed(grams: Grams, order: int) -> dict[tuple[str, ...], float]:
        return {
            gram: count * (math.log(items) - math.log(max(1, having[gram])))
            for gram, count in grams.items()
            if len(gram) == order
        }

    def length(grams: Grams) -> int:
        # The COCO code takes the number of pairs of words for the length.
        return sum(count for gram, count in grams.items() if len(gram) == 2)

    apart = length(ours) - length(truth)
    found = []
    for order in range(1, ORDERS + 1):
        a, b = weighed(ours, order), weighed(truth, order)
        norms = math.hypot(*a.values()) * math.hypot(*b.values())
        shared = sum(min(value, b.get(gram, 0.0)) * b.get(gram, 0.0) for gram, value in a.items())
        found.append(shared / norms if norms else shared)
    return BEST * fmean(found) * math.exp(-(apart**2) / (2 * SIGMA**2))


class Cider(Measure):
    """CIDEr of all captions; it needs several records, since rare words weigh by how few records have them."""

    def check(self, reference: Reference) -> None:
        worded(reference)

    def score(self, predictions: Sequence[Answer], references: Sequence[Reference]) -> Score:
        given = {str(i): answer.text for i, answer in enumerate(predictions)}
        truths = {str(i): reference.texts for i, reference in enumerate(references)}
        value, each = cider(given, truths)
        return Score(value, tuple(each[item] for item in given), ceiling=None)
