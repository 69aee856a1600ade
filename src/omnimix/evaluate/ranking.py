"""Choose among given answers by how likely a model finds each, in the place of an assistant that writes.

All options of a question stand behind one prompt, whose items are encoded once, as rows of one forward pass; a question
is a pass by itself, so that what it gets depends on no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from omnimix.compose.sequence import IGNORE, Sequence as Woven
from omnimix.errors import SampleError
from omnimix.evaluate.predict import identity
from omnimix.generate.answers import Answer
from omnimix.generate.assistant import Assistant
from omnimix.generate.decoding import Options
from omnimix.types import Sample, Turn

VERSION = 1
"""Goes up when the same model would choose otherwise."""

Rank: TypeAlias = Literal["sum", "mean"]
"""The logarithm of an option's likelihood, of all its tokens together or of one on average."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class RankedAnswer(Answer):
    """The likeliest option.

    Attributes:
        likelihoods: the options, each with the number that they are ranked by.
    """

    likelihoods: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class RankedQuestion:
    """A question as the model reads it, and its options with their tokens."""

    prompt: Woven
    options: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def pictures(self) -> Any:
        return self.prompt.pictures


@dataclass(frozen=True)
class Ranking:
    """Ranks instead of writing.

    Attributes:
        options: of questions that bring no choices; else the letters of the choices are ranked.
        rank: `sum` or `mean` over the tokens of an option.
    """

    assistant: Assistant
    options: tuple[str, ...]
    rank: Rank = "sum"

    def identity(self) -> dict[str, Any]:
        """Whose answers they are, and how they are chosen."""
        return {**identity(self.assistant), "ranked": f"{self.rank}@{VERSION}"}

    def weave(self, sample: Sample, options: Options) -> RankedQuestion:
        """A question and what it may be answered with.

        Raises:
            OmnimixError: it cannot be asked, has no options, or one that the model's template does not write as it is.
        """
        texts = tuple(LETTERS[: len(sample.meta.get("choices", ()))]) or self.options
        if not texts:
            raise SampleError("there are no choices to rank", where=sample.id)
        prompt = self.assistant.weave(sample, options)
        return RankedQuestion(
            prompt, tuple((text, self._tokens(sample, text, options)) for text in texts)
        )

    def _tokens(self, sample: Sample, text: str, options: Options) -> tuple[int, ...]:
        """The tokens of an answer as it is learned, without what ends it."""
        processor = self.assistant.processor
        whole = replace(sample, turns=(*sample.turns, Turn("assistant", (text,))))
        woven = processor.weave(whole, pointing=options.pointing)
        learned = np.flatnonzero(woven.labels != IGNORE)
        start = learned[np.flatnonzero(np.diff(learned, prepend=-2) > 1)[-1]]
        ids = [int(one) for one in woven.ids[start:]]
        for count in range(1, len(ids) + 1):
            if processor.weave.tokenizer.decode(ids[:count]).strip() == text.strip():
                return tuple(ids[:count])
        raise SampleError(f"the model's template does not write {text!r} as it is", where=sample.id)

    def write_many(
        self, asked: Sequence[RankedQuestion], batch_size: int = 1, options: Options | None = None
    ) -> list[Answer]:
        """The likeliest option of each question; the first of those that are alike."""
        return [self._answer(one) for one in asked]

    def _answer(self, asked: RankedQuestion) -> Answer:
        sums = likelihoods(self.assistant, asked.prompt, [ids for _, ids in asked.options])
        shares = [
            one if self.rank == "sum" else one / len(ids)
            for one, (_, ids) in zip(sums, asked.options, strict=True)
        ]
        best = int(np.argmax(shares))
        text, ids = asked.options[best]
        likely = tuple(
            (name, round(share, 6)) for (name, _), share in zip(asked.options, shares, strict=True)
        )
        return RankedAnswer(text, (), len(ids), True, ids, likelihoods=likely)


def likelihoods(
    assistant: Assistant, prompt: Woven, options: Sequence[Sequence[int]]
) -> list[float]:
    """The natural logarithm of how likely each option stands behind a prompt, summed over its tokens."""
    batch = assistant.batch([prompt])
    most, count = max(map(len, options)), len(options)
    tail = torch.full((count, most), IGNORE, device=batch.input_ids.device)
    for row, ids in zip(tail, options, strict=True):
        row[: len(ids)] = torch.tensor(ids, device=tail.device)
    written = tail != IGNORE

    def behind(name: str, more: Tensor) -> Tensor:
        return torch.cat([batch[name].expand(count, -1), more.to(batch[name].dtype)], dim=1)

    words = batch.inputs() | {
        "input_ids": behind("input_ids", tail.masked_fill(~written, 0)),
        "attention_mask": torch.cat(
            [torch.ones_like(batch.input_ids).expand(count, -1), written.long()], 1
        ),
        "labels": torch.cat(
            [torch.full_like(batch.input_ids, IGNORE).expand(count, -1), tail], dim=1
        ),
        "token_losses": True,
    }
    if "item_places" in words:
        words["item_places"] = behind("item_places", torch.zeros_like(tail))
    with assistant.process_group.together(), torch.inference_mode():
        losses = assistant.model(**words).loss.double()
    return [-float(part.sum()) for part in losses.split([len(ids) for ids in options])]
