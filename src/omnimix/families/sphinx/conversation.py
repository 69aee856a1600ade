"""Between a call in the reference's words and the model: questions as samples, and where an answer ends.

The rules stand in golden/specs/sphinx.md section 6 and golden/specs/sphinx_v.md section 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from omnimix.compose.sequence import IGNORE, Sequence as Woven
from omnimix.errors import SampleError
from omnimix.families.sphinx.marked_records import region_of
from omnimix.generate.stopping import Endings, Stops
from omnimix.language.tokenizer import Tokenizer
from omnimix.prompts.questions import as_media
from omnimix.types import Box, Mask, Media, Part, Point, Polygon, Region, Sample, Stroke, Turn

Qas: TypeAlias = Sequence[Sequence[str | None]]
"""Questions with their answers; the last answer is None."""

Mark: TypeAlias = Region | Sequence[float]
"""A region, or `[x, y]` or `[x, y, w, h]` in pixels of the picture."""

Marks: TypeAlias = Sequence[Mark]


def asked(qas: Qas, media: Sequence[Media] = (), name: str = "question") -> Sample:
    """Questions and answers as a conversation; what is shown stands in the first question.

    Raises:
        SampleError: no question, an answer that is missing before the last, or a last one that is there.
    """
    if not qas:
        raise SampleError("there is no question", where=name, hint="give [[question, None]]")
    turns: list[Turn] = []
    for number, (question, answer) in enumerate(qas, start=1):
        last = number == len(qas)
        if question is None or (answer is None) is not last:
            raise SampleError(
                f"pair {number} of {len(qas)} has {'an' if answer is not None else 'no'} answer",
                where=name,
                hint="every pair has a question and an answer, the last one None for its answer",
            )
        shown_first: Sequence[Part] = () if turns else media
        turns.append(Turn("user", (*shown_first, question)))
        if answer is not None:
            turns.append(Turn("assistant", (answer,)))
    return Sample(tuple(turns), name)


def picture(image: Any) -> tuple[Media, ...]:
    """A picture in any form, or none; items that are shown are passed on.

    Raises:
        SampleError: a tensor: what the reference's transform made of a picture.
    """
    if image is None:
        return ()
    if isinstance(image, tuple) and all(isinstance(one, Media) for one in image):
        return image
    if hasattr(image, "requires_grad"):
        raise SampleError(
            f"the picture is a tensor of the shape {list(image.shape)}",
            hint="give the picture itself (path, Pillow picture, array): it is padded, resized and "
            "normalised here",
        )
    return (as_media(image),)


def marked(vps: Marks | None, image: Any = None, name: str = "question") -> tuple[Media, ...]:
    """A picture and the marks on it; nothing that is given is changed.

    Raises:
        SampleError: an empty list of marks, marks without a picture, or one that is none.
    """
    if vps is None:
        if image is not None:
            warnings.warn(
                "SPHINX-V looks at a picture only together with marks; without any it reads text alone",
                stacklevel=3,
            )
        return ()
    if len(vps) == 0:
        raise SampleError(
            "the list of marks is empty",
            where=name,
            hint="give points [x, y] or boxes [x, y, w, h], or None for text alone",
        )
    if image is None:
        raise SampleError(
            f"{len(vps)} marks lie on no picture", where=name, hint="give the picture with them"
        )
    regions = [
        Media.region(mark)
        if isinstance(mark, Point | Box | Polygon | Stroke | Mask)
        else Media.region(region_of(mark, f"{name}: mark {number}"))
        for number, mark in enumerate(vps, start=1)
    ]
    return (*picture(image), *regions)


def several(texts: Sequence[Any]) -> Sequence[Any]:
    """A list of texts as it is.

    Raises:
        SampleError: a single text, which would be read as a list of letters.
    """
    if isinstance(texts, str):
        raise SampleError("a list of prompts is wanted, not one text", hint="give [prompt]")
    return texts


def pictures(images: Sequence[Any] | None, texts: Sequence[Any]) -> list[Sequence[Media]]:
    """What each prompt shows.

    Raises:
        SampleError: not one picture for each prompt.
    """
    given = [None] * len(several(texts)) if images is None else images
    if len(given) != len(several(texts)):
        raise SampleError(
            f"{len(given)} pictures for {len(texts)} prompts", hint="give one for each, or None"
        )
    return [picture(image) for image in given]


def all_marked(
    sparse_vps: Sequence[Marks | None] | None, images: Sequence[Any] | None, texts: Sequence[Any]
) -> list[tuple[Media, ...]]:
    """What each prompt shows: marks and their picture.

    Raises:
        SampleError: not one list of marks and one picture for each prompt.
    """
    nothing: list[Any] = [None] * len(several(texts))
    vps = nothing if sparse_vps is None else sparse_vps
    given = nothing if images is None else images
    if not len(vps) == len(given) == len(texts):
        raise SampleError(
            f"{len(vps)} lists of marks and {len(given)} pictures for {len(texts)} prompts",
            hint="give one of each for each prompt, or None",
        )
    return [marked(marks, image) for marks, image in zip(vps, given, strict=True)]


def with_text(woven: Woven, ids: Sequence[int]) -> Woven:
    """The same items with another text; they stand behind its first token, whatever that is."""
    if not len(ids):
        raise SampleError("the prompt has no token", where=woven.id, hint="ask something")
    items = woven.owner != 0
    text = np.asarray(ids, dtype=woven.ids.dtype)
    nothing = np.zeros(len(text), dtype=woven.owner.dtype)

    def behind_the_first(own: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        return np.concatenate([own[:1], theirs[items], own[1:]])

    whole = behind_the_first(text, woven.ids)
    owner = behind_the_first(nothing, woven.owner)
    return replace(woven, ids=whole, labels=np.full_like(whole, IGNORE), owner=owner)


# --- where an answer ends ---


class TokenEndings(Endings):
    """Ends an answer where its last tokens equal one of some sequences; text is not looked at."""

    def __init__(self, tokenizer: Tokenizer, sequences: Sequence[Sequence[int]]) -> None:
        super().__init__(tokenizer, Stops(), [ids[0] for ids in sequences if len(ids) == 1])
        self.sequences = [list(ids) for ids in sequences]

    def __call__(self, ids: Sequence[int]) -> bool:
        return any(list(ids[-len(one) :]) == one for one in self.sequences)

    def without(self, ids: list[int]) -> list[int]:
        """The tokens before the ending."""
        for sequence in self.sequences:
            if ids[-len(sequence) :] == sequence:
                return ids[: -len(sequence)]
        return ids


def stop_sequences(tokenizer: Tokenizer, signals: Iterable[str]) -> list[list[int]]:
    """What ends an answer: the end token, and each signal as it is tokenized at the beginning of a text
    (SentencePiece puts a space in front there) and inside one."""
    sequences = [] if tokenizer.eos is None else [[tokenizer.eos]]
    for signal in signals:
        before = tokenizer.encode("@")[0]
        inside = tokenizer.encode("@" + signal)[0][len(before) :]
        sequences += [tokenizer.encode(signal)[0], inside]
    return sequences
