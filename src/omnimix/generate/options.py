"""How an answer is written: what may be asked of it, and which values can be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Annotated, Any, get_type_hints

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from transformers import GenerationConfig

from omnimix.config import first_error
from omnimix.errors import OmnimixError
from omnimix.generate.stopping import Stops
from omnimix.registry import did_you_mean


def _small(value: float) -> bool:
    return abs(value) <= 2


def _strings(value: Any) -> Any:
    """A bare string is one string, not its letters."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "temperature": (lambda value: 0 <= value < math.inf, "give 0 (greedy) or more"),
    "top_p": (lambda value: 0 < value <= 1, "give a share above 0, at most 1"),
    "top_k": (lambda value: value >= 0, "give 0 (all) or more"),
    "repetition_penalty": (
        lambda value: 0 < value < math.inf,
        "give more than 0; 1 changes nothing",
    ),
    "presence_penalty": (_small, "give at least -2, at most 2; 0 changes nothing"),
    "frequency_penalty": (_small, "give at least -2, at most 2; 0 changes nothing"),
    "logprobs": (lambda value: 0 <= value <= 20, "give 0 to 20"),
    "seed": (lambda value: 0 <= value < 2**63, "give 0 or more, below 2**63"),
}


@dataclass(frozen=True)
class Options:
    """How an answer is written.

    Attributes:
        max_new_tokens: the most tokens of an answer; they are kept free in the context.
        temperature: 0 takes the likeliest token every time.
        top_p: with a temperature, only the likeliest tokens that together reach this share.
        min_new_tokens: the fewest tokens of an answer; it does not end before, and stop strings in them are text.
        seed: of the sampling; the same seed gives the same answer, whatever else is asked beside it.
        stop_strings: one string or several that end the answer and are cut from it, beside those of the template.
        pointing: how drawn regions reach the model: `tokens` of their own, coordinates in `text`, `marks` on
            the picture; None takes what the recipe can do best.
        top_k: with a temperature, only so many of the likeliest tokens; 0 for all.
        repetition_penalty: divides the numbers of tokens that the prompt or the answer holds already, as transformers
            does; 1 leaves them.
        presence_penalty: taken from the number of every token that the answer holds already, as OpenAI's interface
            does.
        frequency_penalty: the same as often as the token stands there.
        logit_bias: what is added to the numbers of single tokens, by id.
        logprobs: how likely the written tokens were, with so many of the likeliest at each place; None for nothing.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    min_new_tokens: int = 0
    seed: int | None = None
    stop_strings: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...] | None, BeforeValidator(_strings)
    ] = None
    pointing: str | None = None
    top_k: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        self._typed()
        if self.max_new_tokens < 1:
            raise OmnimixError(
                f"max_new_tokens is {self.max_new_tokens}", hint="an answer needs at least 1"
            )
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise OmnimixError(
                f"min_new_tokens is {self.min_new_tokens} and max_new_tokens {self.max_new_tokens}",
                hint="give at least 0, and at most max_new_tokens",
            )
        for word, (fits, hint) in _RANGES.items():
            value = getattr(self, word)
            if value is not None and not fits(value):
                raise OmnimixError(f"{word} is {value}", hint=hint)
        for token, bias in (self.logit_bias or {}).items():
            if token < 0 or not abs(bias) <= 100:
                raise OmnimixError(
                    f"logit_bias of token {token} is {bias:g}",
                    hint="give ids of tokens, and at least -100, at most 100",
                )

    def _typed(self) -> None:
        given = {
            word: value.item() if isinstance(value, np.generic) else value
            for word, value in vars(self).items()
        }
        try:
            checked = _types().model_validate(given)
        except ValidationError as error:
            path, message = first_error(error)
            word = str(path[0])
            raise OmnimixError(f"{word} is {given[word]!r:.100}", hint=message) from None
        for word, value in checked:
            object.__setattr__(self, word, value)

    def stops(self, own: Sequence[str]) -> Stops:
        """All strings that end an answer.

        Args:
            own: those of the template, without which a model would write the next turn as well.
        """
        strings = tuple(dict.fromkeys((*own, *(self.stop_strings or ()))))
        return Stops(strings, self.min_new_tokens)

    def but(self, words: Mapping[str, Any]) -> Options:
        """The same with some words said otherwise.

        Raises:
            OmnimixError: a word that is none of these, or a value that cannot be.
        """
        known = [field.name for field in fields(self)]
        for word in words:
            if word not in known:
                raise OmnimixError(
                    f"an answer is not written with {word!r}", hint=did_you_mean(word, known)
                )
        return replace(self, **words)

    def config(self, ends: Sequence[int], pad: int) -> GenerationConfig:
        """The same in the words of transformers."""
        words: dict[str, Any] = {"do_sample": self.temperature > 0}
        if self.temperature > 0:
            words |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        if self.repetition_penalty != 1:
            words["repetition_penalty"] = self.repetition_penalty
        if self.min_new_tokens:
            words["min_new_tokens"] = self.min_new_tokens
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            pad_token_id=pad,
            eos_token_id=list(ends) or None,
            **words,
        )


@cache
def _types() -> type[BaseModel]:
    """The types of the options; a value that is only nearly of its type is none."""
    hints = get_type_hints(Options, include_extras=True)
    words: dict[str, Any] = {word: (kind, ...) for word, kind in hints.items()}
    return create_model("options", __config__=ConfigDict(strict=True), **words)
