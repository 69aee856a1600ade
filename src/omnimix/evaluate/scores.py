"""Measures of single benchmarks, each by its authors' rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from statistics import fmean

from omnimix.evaluate.grounding import Referring
from omnimix.evaluate.measure import Each, Reference, Score, Worded, grouped
from omnimix.evaluate.short_answers import yes_no
from omnimix.evaluate.vqa import plain_words, without_punctuation
from omnimix.generate.answers import Answer

COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
"""MME's tasks that are not perception (arXiv 2306.13394)."""


class TextVqa(Worded):
    """VQA accuracy as TextVQA's authors compute it (M4C): both sides are normalised always, not only in dispute."""

    max_new_tokens = 16

    def one(self, prediction: Answer, reference: Reference) -> float:
        given, people = normal(prediction.text), [normal(text) for text in reference.texts]
        agreeing = people.count(given)
        # Each person is compared with the others.
        shares = (min(1.0, (agreeing - (person == given)) / 3) for person in people)
        return fmean(shares) if agreeing else 0.0


def normal(text: str) -> str:
    """As M4C's answer processor, whose first step is lower case without commas, question marks and `'s` apart."""
    said = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    said = said.strip().replace("\n", " ").replace("\t", " ").strip()
    return plain_words(without_punctuation(said))


class Contains(Worded):
    """OCRBench (arXiv 2305.07895): one of the references stands in the answer, case and line ends aside.

    Formulas (the group HME100k) are compared without blanks and with their case.
    """

    def one(self, prediction: Answer, reference: Reference) -> float:
        said = prediction.text.strip().replace("\n", " ")
        formula = reference.group == "HME100k"

        def plain(text: str) -> str:
            text = text.strip().replace("\n", " ")
            return text.replace(" ", "") if formula else text.lower()

        return float(any(plain(text) in plain(said) for text in reference.texts if text))


class Referring25(Referring):
    """The share of answers whose first box overlaps the true one by a quarter (OCID-Ref, arXiv 2103.07679)."""

    enough = 0.25


class Circular(Worded):
    """MMBench (arXiv 2307.06281): a question counts where it is right in every order of its choices that is asked.

    The orders are rows whose numbers are the same below a million.
    """

    def one(self, prediction: Answer, reference: Reference) -> float:
        return float(prediction.text in reference.texts)

    def score(self, predictions: Sequence[Answer], references: Sequence[Reference]) -> Score:
        each = super().score(predictions, references).each
        worst: dict[str, tuple[float, Reference]] = {}
        for right, one in zip(each, references, strict=True):
            name = str(int(one.name) % 10**6) if one.name.isdigit() else one.name
            worst[name] = (min(right, worst[name][0] if name in worst else 1.0), one)
        rights = [right for right, _ in worst.values()]
        groups = grouped(rights, [one for _, one in worst.values()])
        plain = fmean(each) if each else 0.0
        return Score(
            fmean(rights) if rights else 0.0, each, groups, numbers=(("each order", plain),)
        )


class Pope(Worded):
    """POPE (arXiv 2305.10355): accuracy of yes and no, with precision, recall, F1 and the share of yes.

    An answer that has no "no" among its words is a yes, as in the authors' script.
    """

    def one(self, prediction: Answer, reference: Reference) -> float:
        return float(said_no(prediction.text) == said_no(reference.texts[0]))

    def score(self, predictions: Sequence[Answer], references: Sequence[Reference]) -> Score:
        found = super().score(predictions, references)
        groups: dict[str, list[tuple[bool, bool]]] = {"": []}
        for prediction, reference in zip(predictions, references, strict=True):
            pair = (not said_no(prediction.text), not said_no(reference.texts[0]))
            groups[""].append(pair)
            if reference.group:
                groups.setdefault(reference.group, []).append(pair)
        numbers = [
            (f"{group} {name}".strip(), value)
            for group, pairs in groups.items()
            for name, value in _yes(pairs).items()
        ]
        return Score(found.value, found.each, found.groups, numbers=tuple(numbers))


def said_no(text: str) -> bool:
    """As POPE's script reads an answer: the first sentence, without commas, holds `no` or `not`."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return any(word in ("No", "no", "not") for word in words)


def _yes(pairs: Sequence[tuple[bool, bool]]) -> dict[str, float]:
    hits = sum(said and true for said, true in pairs)
    said, true = sum(one for one, _ in pairs), sum(one for _, one in pairs)
    precision, recall = hits / said if said else 0.0, hits / true if true else 0.0
    both = precision + recall
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / both if both else 0.0,
        "yes ratio": said / len(pairs),
    }


class Mme(Worded):
    """MME (arXiv 2306.13394): for each task the share of right answers and that of pictures with all right, in percent.

    The value is the sum over the tasks of perception; `cognition` and the total stand beside it.
    """

    def one(self, prediction: Answer, reference: Reference) -> float:
        said = yes_no(prediction.text)
        return float(said != "other" and said == reference.texts[0].strip().lower())

    def score(self, predictions: Sequence[Answer], references: Sequence[Reference]) -> Score:
        each = super().score(predictions, references).each
        tasks: dict[str, dict[str, list[float]]] = {}
        for right, one in zip(each, references, strict=True):
            tasks.setdefault(one.group, {}).setdefault(one.picture, []).append(right)
        groups = {
            task: 100 * fmean(chain(*pictures.values())) + 100 * fmean(map(min, pictures.values()))
            for task, pictures in sorted(tasks.items())
        }
        cognition = sum(score for task, score in groups.items() if task in COGNITION)
        total = sum(groups.values())
        numbers = (("cognition", cognition), ("total", total))
        return Score(total - cognition, each, tuple(groups.items()), None, numbers)


class Numbers(Each):
    """The share of answers that are the number that is right."""

    def one(self, prediction: Answer, reference: Reference) -> float:
        said = re.sub(r"\.0+$", "", prediction.text)
        return float(bool(said) and said in reference.texts)


class MathVista(Worded):
    """MathVista (arXiv 2310.02255) without its extraction by a language model: the choice, or the number as precise.

    A reference without a point is an integer; one with a point is compared at as many places behind it.
    """

    def one(self, prediction: Answer, reference: Reference) -> float:
        true, said = reference.texts[0], prediction.text.strip()
        try:
            places = len(true.partition(".")[2])
            return float(round(float(said), places) == round(float(true), places))
        except ValueError:
            return float(bool(said) and said.lower() == true.lower())
