"""VQA accuracy with its normalisation and ten-answer rule (arXiv 1505.00468, its authors' evaluation, v2.0)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from omnimix.evaluate.measure import Reference, Worded
from omnimix.generate.answers import Answer

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")  # the look-behind is written as the authors wrote it
_COMMA = re.compile(r"\d,\d")
_MOST_PERIODS = 32  # their script hands `re.UNICODE`, which is 32, to `sub` as the count
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
_ARTICLES = ("a", "an", "the")
_CONTRACTIONS = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's
isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've
shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd
there're there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've
when's where'd where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all
you'd you'll you're you've couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've
somebody'd've someone'd've something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've
'ow's'at you'd've
"""


@cache
def contractions() -> dict[str, str]:
    """How words that lack one apostrophe are written, and one odd row of the original."""
    found = {"somebody'd": "somebodyd"}
    for word in _CONTRACTIONS.split():
        for at in (i for i, letter in enumerate(word) if letter == "'"):
            found[word[:at] + word[at + 1 :]] = word
    return found


def without_punctuation(text: str) -> str:
    """Punctuation becomes a blank, or nothing where a blank or a number's comma is about."""
    done = text
    for mark in _PUNCTUATION:
        near = f"{mark} " in text or f" {mark}" in text or _COMMA.search(text) is not None
        done = done.replace(mark, "" if near else " ")
    return _PERIOD.sub("", done, _MOST_PERIODS)


def plain_words(text: str) -> str:
    """Lower case, digits for numbers up to ten, no articles, contractions with their apostrophe."""
    words = (_DIGITS.get(word, word) for word in text.lower().split())
    return " ".join(contractions().get(word, word) for word in words if word not in _ARTICLES)


def accuracy(answer: str, truths: Sequence[str], cleaned: bool = True) -> float:
    """The mean over the people's answers of min(1, how many of the *others* say the same / 3).

    The model's answer is always normalised. Of the people's answers the authors' script takes out the punctuation,
    and that only where people disagree.

    Args:
        truths: what people answered, ten in the published sets. A single one is compared normalised: the
            others, of which there are none, could never agree.
        cleaned: False leaves the people's answers as they are.
    """
    given, people = _plain(answer.replace("\n", " ").replace("\t", " ").strip()), list(truths)
    if len(people) == 1:
        return float(given == _plain(people[0]))
    if cleaned and len(set(people)) > 1:
        people = [without_punctuation(truth) for truth in people]
    agreeing = sum(truth == given for truth in people)
    # A person who said the same does not count for himself; identical records are told apart.
    shares = (min(1.0, (agreeing - (truth == given)) / 3) for truth in people)
    return sum(shares) / len(people)


def _plain(text: str) -> str:
    return plain_words(without_punctuation(text))


class Vqa(Worded):
    """VQA accuracy: ten answers of people in the record's `meta: {references: [...]}`."""

    max_new_tokens, version, cleaned = 16, 2, True

    def one(self, prediction: Answer, reference: Reference) -> float:
        return accuracy(prediction.text, reference.texts, self.cleaned)


class VizWiz(Vqa):
    """VQA accuracy as VizWiz's authors compute it: the people's answers are compared as they were written."""

    version, cleaned = 1, False
