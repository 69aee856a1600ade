"""Tokens out: how an answer is written, and the one place where the model writes it."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from transformers import LogitsProcessor

from omnimix.compose.batch import Batch
from omnimix.compose.model import MultimodalLM
from omnimix.errors import OmnimixError
from omnimix.generate.options import Options
from omnimix.generate.stopping import Endings
from omnimix.parallel.process_group import ProcessGroup

__all__ = ["Decoder", "Finite", "Options", "fingerprint"]

Tokens: TypeAlias = "queue.SimpleQueue[int | BaseException | None]"


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
