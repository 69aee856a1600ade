"""Tokens out: how an answer is written, and the one place where the model writes it."""

from __future__ import annotations

import contextlib
import hashlib
import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from transformers import GenerationConfig, LogitsProcessor

from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.errors import OmnimixError
from omnimix.generate.stopping import Endings
from omnimix.parallel.process_group import ProcessGroup
from omnimix.registry import did_you_mean

Tokens: TypeAlias = "queue.SimpleQueue[int | BaseException | None]"


@dataclass(frozen=True)
class Options:
    """How an answer is written.

    Attributes:
        max_new_tokens: the most tokens of an answer; they are kept free in the context.
        temperature: 0 takes the likeliest token every time.
        top_p: with a temperature, only the likeliest tokens that together reach this share.
        min_new_tokens: the fewest tokens of an answer; it does not end before.
        seed: of the sampling; the same seed and batch give the same answer.
        stop_strings: strings that end the answer and are cut from it; None takes the template's.
        pointing: how drawn regions reach the model: `tokens` of their own, coordinates in `text`, `marks` on
            the picture; None takes what the recipe can do best.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    min_new_tokens: int = 0
    seed: int | None = None
    stop_strings: tuple[str, ...] | None = None
    pointing: str | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise OmnimixError(
                f"max_new_tokens is {self.max_new_tokens}", hint="an answer needs at least 1"
            )
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise OmnimixError(
                f"min_new_tokens is {self.min_new_tokens} and max_new_tokens {self.max_new_tokens}",
                hint="give at least 0, and at most max_new_tokens",
            )
        if not 0 <= self.temperature < math.inf:
            raise OmnimixError(
                f"the temperature is {self.temperature:g}", hint="give 0 (greedy) or more"
            )
        if not 0 < self.top_p <= 1:
            raise OmnimixError(f"top_p is {self.top_p:g}", hint="give a share above 0, at most 1")

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
            words |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        if self.min_new_tokens:
            words["min_new_tokens"] = self.min_new_tokens
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            pad_token_id=pad,
            eos_token_id=list(ends) or None,
            **words,
        )


@dataclass(frozen=True)
class Decoder:
    """Writes tokens behind prompts; every answer of every face comes from here.

    Attributes:
        pad: the token that fills rows which ended before others.
        process_group: the processes that share the model.
    """

    model: MultimodalLM
    pad: int
    process_group: ProcessGroup

    def write(
        self, batch: Batch, options: Options, endings: Endings, streamer: Any = None
    ) -> list[list[int]]:
        """The new ids of every row, those behind its ending included (`Endings.lengths` cuts them)."""
        seed = options.seed
        if self.process_group.size > 1:
            # Ranks that were asked differently would wait for each other for ever in the first layer.
            self.process_group.same("input", fingerprint(batch))
            if options.temperature > 0:
                seed = self.process_group.seed(seed)
            if streamer is not None:
                # A caller may end the writing on one rank; the others must not wait for its next token.
                endings.asked = self.process_group.any
        device = batch.input_ids.device
        with self.process_group.together(), _seeded(seed, device), torch.inference_mode():
            ids = self.model.generate(
                **batch.inputs(),
                generation_config=options.config(sorted(endings.ends), self.pad),
                stopping_criteria=[endings],
                logits_processor=[Finite(self.model)],
                streamer=streamer,
            )
        written: list[list[int]] = ids[:, endings.prompt :].tolist()
        return written

    def tokens(self, batch: Batch, options: Options, endings: Endings) -> Iterator[int]:
        """Token after token of a batch of one; closing the iterator ends the writing."""
        return _in_a_thread(partial(self.write, batch, options, endings), endings)


def _in_a_thread(write: Callable[[Put], object], endings: Endings) -> Iterator[int]:
    """Token after token of a batch of one, written in a thread; closing the iterator ends it.

    Args:
        write: writes into the streamer that it is given.
        endings: told when nobody listens any more.
    """
    written: Tokens = queue.SimpleQueue()

    def run() -> None:
        try:
            write(Put(written))
            written.put(None)
        except BaseException as error:  # handed to the caller's thread
            written.put(error)

    writer = threading.Thread(target=run, daemon=True)
    writer.start()
    try:
        while (token := written.get()) is not None:
            if isinstance(token, BaseException):
                raise token
            yield token
    finally:
        endings.cancelled = True
        writer.join()


class Finite(LogitsProcessor):  # type: ignore[misc]
    """Refuses logits that are no numbers, of which the likeliest token would be whatever stands first."""

    def __init__(self, model: MultimodalLM) -> None:
        self.model = model

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # The greatest is not finite where any is NaN or infinite; what is ruled out is minus infinity.
        if bool(scores.amax().isfinite()):
            return scores
        named = self.model.named_parameters()
        floating = ((name, p) for name, p in named if p.is_floating_point())
        broken = next((name for name, p in floating if not bool(p.isfinite().all())), None)
        raise OmnimixError(
            f"the weights of {broken} hold values that are not finite"
            if broken
            else "the model's numbers are not finite",
            where="answer",
            hint="fetch the weights again, or take a checkpoint from before the run went astray"
            if broken
            else "load the model with dtype=torch.float32: its type may be too small for them",
        )


class Put:
    """A streamer of transformers: the prompt comes first, then token after token."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self.prompt_seen:
            for token in value.flatten().tolist():
                self.tokens.put(int(token))
        self.prompt_seen = True

    def end(self) -> None:
        """Nothing is left to do; the writer's thread says when it is through."""


def fingerprint(batch: Batch) -> str:
    """What a batch holds, in short: equal on ranks that were asked the same."""
    digest = hashlib.sha256(str(batch.input_ids.tolist()).encode())
    for name in sorted(batch["items"]):
        for tensor in batch["items"][name].tensors():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextlib.contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Chance from a seed, and the caller's own chance untouched; without a seed nothing changes."""
    if seed is None:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
