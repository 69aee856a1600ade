"""The next token of one answer: what its options make of the model's numbers, and chance of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from omnimix.errors import OmnimixError
from omnimix.generate.options import Options


@dataclass(frozen=True)
class Likely:
    """How likely a written token was to the model itself, before anything that the options say.

    Attributes:
        logprob: natural logarithm of its share.
        top: ids of the likeliest tokens with theirs, the likeliest first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one answer. Steps stand in the order in which transformers has them.

    Args:
        options: how the answer is written.
        prompt: its ids, those in holes left out.
        ends: tokens that end it.
        vocabulary: how many tokens the model tells apart.
        seed: of its own chance, in place of the options'.

    Attributes:
        ends: tokens that end it.
        prompt: its ids; None where no option asks for them.

    Raises:
        OmnimixError: a bias for a token that the model does not have.
    """

    def __init__(
        self,
        options: Options,
        prompt: Int[Tensor, "n"],
        ends: Sequence[int],
        vocabulary: int,
        seed: int | None = None,
    ) -> None:
        self.options = options
        self.seed = options.seed if seed is None else seed
        self.ends = list(ends)
        self.prompt = prompt if options.repetition_penalty != 1 else None
        self._counts: dict[int, int] = {}
        self._generator: torch.Generator | None = None
        self._written = 0
        bias = options.logit_bias or {}
        for token in bias:
            if token >= vocabulary:
                raise OmnimixError(
                    f"logit_bias names token {token}, and the model has {vocabulary}",
                    hint="give ids of the model's own tokenizer",
                )
        self._bias = (torch.tensor(list(bias)), torch.tensor(list(bias.values()))) if bias else None
        self._warp = LogitsProcessorList()
        if options.temperature > 0:
            if options.temperature != 1:
                self._warp.append(TemperatureLogitsWarper(float(options.temperature)))
            if options.top_k:
                self._warp.append(TopKLogitsWarper(min(options.top_k, vocabulary)))
            if options.top_p < 1:
                self._warp.append(TopPLogitsWarper(options.top_p))

    @property
    def plain(self) -> bool:
        """Whether the next token is the likeliest, whatever was written."""
        said = self.options
        asked = said.temperature > 0 or said.logprobs is not None or self._bias is not None
        penalised = self.prompt is not None or said.presence_penalty or said.frequency_penalty
        return not (asked or penalised or self._written < said.min_new_tokens)

    def note(self, token: int) -> None:
        """A token was written."""
        self._written += 1
        self._counts[token] = self._counts.get(token, 0) + 1

    def choose(self, logits: Float[Tensor, "v"]) -> tuple[int, Likely | None]:
        """The next token, and how likely it was where that was asked for."""
        scores = self._changed(logits.float().clone())[None]
        if self.options.temperature > 0:
            shares = self._warp(None, scores).softmax(-1)
            token = int(torch.multinomial(shares, 1, generator=self._chance(logits.device)))
        else:
            token = int(scores.argmax())
        return token, self._likely(logits, token)

    def _changed(self, scores: Tensor) -> Tensor:
        said, device = self.options, scores.device
        if self.prompt is not None:
            seen = torch.cat([self.prompt.to(device), torch.tensor([*self._counts], device=device)])
            seen = seen.long().unique()
            own = scores[seen]
            penalty = said.repetition_penalty
            scores[seen] = torch.where(own < 0, own * penalty, own / penalty)
        if self._counts and (said.presence_penalty or said.frequency_penalty):
            ids = torch.tensor([*self._counts], device=device)
            often = torch.tensor([*self._counts.values()], device=device)
            scores[ids] -= said.presence_penalty + said.frequency_penalty * often
        if self._bias is not None:
            scores[self._bias[0].to(device)] += self._bias[1].to(device)
        if self._written < said.min_new_tokens:
            scores[self.ends] = -torch.inf
        return scores

    def _chance(self, device: torch.device) -> torch.Generator | None:
        if self._generator is None and self.seed is not None:
            self._generator = torch.Generator(device).manual_seed(self.seed)
        return self._generator

    def _likely(self, logits: Tensor, token: int) -> Likely | None:
        count = self.options.logprobs
        if count is None:
            return None
        logs = logits.float().log_softmax(-1)
        best = logs.topk(count)
        top = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return Likely(float(logs[token]), tuple(top))
