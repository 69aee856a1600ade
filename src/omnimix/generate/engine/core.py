"""Many answers written at once: requests join and leave between steps, and each gets what it would get alone.

A step runs the language model once: one token of every answer that is being written, and, up to a number of tokens,
pieces of prompts that are still to be read. Nothing here knows threads: whoever calls `step` runs the model, and `add`
and `Generation.cancel` may come from anywhere.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from omnimix.compose.model import MultimodalLM
from omnimix.errors import OmnimixError
from omnimix.generate.engine.prefixes import PrefixCache
from omnimix.generate.engine.prompts import ItemCache, NamedPrompt
from omnimix.generate.engine.runners import Apart, Runner, runner
from omnimix.generate.engine.sampling import Likely, Sampler

IDLE_CHUNK = 2048
"""Tokens of prompts in a step that no running answer waits for."""


@dataclass(frozen=True)
class Limits:
    """What an engine may take.

    Attributes:
        max_batch: most answers that are written at once.
        cache_memory: bytes for the keys and values of running answers; None for as many as they need.
        prefill_chunk: tokens of prompts that a step reads at most while answers are being written.
        prefix_memory: bytes for beginnings of prompts that may come again.
        item_memory: bytes for encoded items that may come again.
        deterministic: texts and items pass through the model one by one, so that in low precision too an answer is the
            same in any company; much slower where many are written at once.
    """

    max_batch: int = 32
    cache_memory: int | None = None
    prefill_chunk: int = 256
    prefix_memory: int = 0
    item_memory: int = 0
    deterministic: bool = False

    def __post_init__(self) -> None:
        for word in ("max_batch", "prefill_chunk"):
            if getattr(self, word) < 1:
                raise OmnimixError(f"{word} is {getattr(self, word)}", hint="give at least 1")
        for word in ("cache_memory", "prefix_memory", "item_memory"):
            if (getattr(self, word) or 0) < 0:
                raise OmnimixError(f"{word} is {getattr(self, word)}", hint="give 0 or more bytes")


@dataclass(eq=False)
class Generation:
    """An answer that is asked for, and what has been written of it.

    Attributes:
        prompt: what it begins with: woven, or embeddings `[n, width]`.
        sampler: chooses its tokens.
        most: tokens that it may come to.
        ended: whether its ids so far are a whole answer.
        listen: called in the engine's thread after every token, and once it is over.
        deadline: when it has to be over, by `time.monotonic`.
        ids: written so far.
        likely: of each, where that was asked for.
        reason: why it is over; None while it is not, and where it failed.
        error: what made it fail.
        began: when its first token was there, by `time.monotonic`.
    """

    prompt: NamedPrompt | Tensor
    sampler: Sampler
    most: int
    ended: Callable[[list[int]], bool]
    listen: Callable[[Generation], None] = lambda _: None
    deadline: float | None = None
    ids: list[int] = field(default_factory=list)
    likely: list[Likely] = field(default_factory=list)
    reason: Literal["stop", "length", "cancelled"] | None = None
    error: BaseException | None = None
    began: float | None = None
    _left: bool = False

    def cancel(self) -> None:
        """Nobody waits for it any more; the next step gives back what it holds."""
        self._left = True

    @property
    def over(self) -> bool:
        """Whether nothing more will be written."""
        return self.reason is not None or self.error is not None

    @property
    def room(self) -> int:
        """Tokens that it may come to, its prompt included; the last is written and not read."""
        return len(self.prompt) + self.most - 1


class _Running:
    """A request that has its place: what is kept of it, and what of its prompt is still to be read."""

    def __init__(self, request: Generation, text: Any, unread: Tensor) -> None:
        self.request = request
        self.text = text
        self.unread = unread

    @property
    def writes(self) -> bool:
        return not len(self.unread)


class Core:
    """Writes answers.

    Args:
        model: in evaluation; it is never changed.
        limits: what may be taken.
        run: what runs the language model, in place of torch.
        ranks: whether other processes take the same steps, so that a failed one cannot be taken again.
    """

    def __init__(
        self,
        model: MultimodalLM,
        limits: Limits | None = None,
        run: Runner | None = None,
        ranks: bool = False,
    ) -> None:
        self.model = model
        self.limits = limits or Limits()
        self.runner = run or runner(model)
        if self.limits.deterministic:
            self.runner = Apart(self.runner)
        self.items = ItemCache(model, self.limits.item_memory, self.limits.deterministic)
        self.prefixes = PrefixCache(self.runner, self.limits.prefix_memory)
        self.ranks = ranks
        self.tokens = self.steps = 0
        self._waiting: deque[Generation] = deque()
        self._running: list[_Running] = []
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Requests without a place."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests with a place."""
        return len(self._running)

    @property
    def held(self) -> int:
        """Bytes for keys and values of running answers."""
        return self.runner.token_bytes * sum(one.request.room for one in self._running)

    def add(self, request: Generation) -> None:
        """Let a request wait for its place.

        Raises:
            OmnimixError: it can never have one.
        """
        most, needs = self.limits.cache_memory, request.room * self.runner.token_bytes
        if most is not None and needs > most:
            raise OmnimixError(
                f"{request.room} tokens take {needs} bytes of cache, and {most} is all there is",
                hint="ask for a shorter answer, or give the engine more cache memory",
            )
        with self._lock:
            self._waiting.append(request)

    def step(self) -> bool:
        """One step of all answers; whether there is anything left to do."""
        with torch.inference_mode():
            self._leave()
            self._join()
            if self._running:
                self._advance()
                self.steps += 1
        return bool(self._running or self._waiting)

    def run(self, requests: Sequence[Generation]) -> None:
        """Write some answers to their end.

        Raises:
            BaseException: what made one fail; the others are given up.
        """
        for request in requests:
            self.add(request)
        try:
            while any(not one.over for one in requests):
                self.step()
                for one in requests:
                    if one.error is not None:
                        raise one.error
        finally:
            for one in requests:
                one.cancel()
            with torch.inference_mode():
                self._leave()

    def fail(self, error: BaseException) -> None:
        """Give up all requests."""
        with self._lock:
            left = [*self._waiting, *(one.request for one in self._running)]
            self._waiting.clear()
        for request in left:
            self._fail(request, error)

    def _leave(self) -> None:
        """Requests that nobody waits for, or that came too late, go."""
        now = time.monotonic()
        with self._lock:
            waiting = list(self._waiting)
        for request in [*waiting, *(one.request for one in self._running)]:
            if request.over:
                continue
            if request._left:
                request.reason = "cancelled"
                request.listen(request)
            elif request.deadline is not None and now > request.deadline:
                request.error = OmnimixError(
                    "the answer was not written in the time that was given",
                    hint="ask for a shorter answer, or ask again when fewer others do",
                )
                request.listen(request)
        with self._lock:
            self._waiting = deque(one for one in self._waiting if not one.over)
        self._running = [one for one in self._running if not one.request.over]

    def _join(self) -> None:
        """Requests get their places, in the order in which they came, as long as there are any."""
        joining: list[Generation] = []
        held, most = self.held, self.limits.cache_memory
        with self._lock:
            while self._waiting and self.running + len(joining) < self.limits.max_batch:
                held += self._waiting[0].room * self.runner.token_bytes
                if most is not None and held > most:
                    break
                joining.append(self._waiting.popleft())
                if self._running and len(joining) == 4:
                    break  # more would keep running answers waiting for their encoders
        if joining:
            self._open(joining)

    def _open(self, joining: Sequence[Generation]) -> None:
        try:
            woven = [one.prompt for one in joining if isinstance(one.prompt, NamedPrompt)]
            embedded = iter(self.items.embeddings(woven))
            for one in joining:
                given = one.prompt
                begins = next(embedded) if isinstance(given, NamedPrompt) else given
                self._running.append(self._begun(one, begins))
        except Exception as error:
            if self.ranks:
                raise
            opened = [one.request for one in self._running]
            left = [one for one in joining if one not in opened]
            if len(left) == 1:
                self._fail(left[0], error)
                return
            for one in left:
                self._open([one])

    def _begun(self, request: Generation, embeddings: Tensor) -> _Running:
        given, text, known = request.prompt, self.runner.open(request.room), 0
        if isinstance(given, NamedPrompt) and given.names is not None and self.limits.prefix_memory:
            known = self.prefixes.begin(text, given.names)
        return _Running(request, text, embeddings[known:])

    def _fail(self, request: Generation, error: BaseException) -> None:
        request.error = error
        self._running = [one for one in self._running if one.request is not request]
        request.listen(request)

    def _advance(self) -> None:
        self._write(*self._plan())

    def _plan(self) -> tuple[list[_Running], list[Tensor]]:
        """Who takes part in this step, and the embeddings of their new tokens."""
        writing = [one for one in self._running if one.writes]
        reading = [one for one in self._running if not one.writes]
        last = [one.request.ids[-1] for one in writing]
        table = self.model.get_input_embeddings()
        ids = torch.tensor(last, device=self.model.device)
        new = list(table(ids)[:, None]) if writing else []
        left = self.limits.prefill_chunk if writing else max(IDLE_CHUNK, self.limits.prefill_chunk)
        for one in reading:
            count = len(one.unread) if self.runner.whole else min(len(one.unread), left)
            if left <= 0:
                break
            writing.append(one)
            new.append(one.unread[:count])
            left -= count
        return writing, new

    def _write(self, who: list[_Running], new: list[Tensor]) -> None:
        try:
            logits = self.runner.run([one.text for one in who], new)
        except Exception as error:
            if self.ranks:
                raise
            if len(who) == 1:
                self._fail(who[0].request, error)
                return
            # What one of them brings shall not hurt the others.
            for one, each in zip(who, new, strict=True):
                self._write([one], [each])
            return
        for one, each in zip(who, new, strict=True):
            if not one.writes:
                one.unread = one.unread[len(each) :]
                if one.writes:
                    self._keep(one)
        chosen = [(one, row) for one, row in zip(who, logits, strict=True) if one.writes]
        self._choose(chosen)

    def _keep(self, one: _Running) -> None:
        """Keep what was read, the prompt and what is written so far, for those that begin so."""
        given = one.request.prompt
        if not self.limits.prefix_memory or not isinstance(given, NamedPrompt):
            return
        if given.names is not None:
            # The last token is written and not read.
            written = np.zeros((max(len(one.request.ids) - 1, 0), 3), dtype=np.int64)
            written[:, 0] = one.request.ids[: len(written)]
            self.prefixes.keep(one.text, np.concatenate([given.names, written]))

    def _choose(self, rows: list[tuple[_Running, Tensor]]) -> None:
        if not rows:
            return
        logits = torch.stack([row for _, row in rows])
        best = logits.argmax(-1).tolist()
        # The greatest is not finite where any is NaN or infinite; what is ruled out is minus infinity.
        finite = logits.amax(-1).isfinite().tolist()
        for (one, row), token, right in zip(rows, best, finite, strict=True):
            request = one.request
            likely: Likely | None = None
            if not right:
                self._fail(request, astray(self.model))
                continue
            try:
                if not request.sampler.plain:
                    token, likely = request.sampler.choose(row)
                self._took(one, token, likely)
            except Exception as error:
                if self.ranks:
                    raise
                self._fail(request, error)

    def _took(self, one: _Running, token: int, likely: Likely | None) -> None:
        request = one.request
        request.ids.append(token)
        if likely is not None:
            request.likely.append(likely)
        request.sampler.note(token)
        request.began = request.began or time.monotonic()
        self.tokens += 1
        if request.ended(request.ids):
            request.reason = "stop"
        elif len(request.ids) >= request.most:
            request.reason = "length"
        if request.over:
            self._keep(one)
            self._running.remove(one)
        request.listen(request)


def astray(model: MultimodalLM) -> OmnimixError:
    """What is said of logits that are no numbers, of which the likeliest token would be whatever stands first."""
    named = model.named_parameters()
    floating = ((name, p) for name, p in named if p.is_floating_point())
    broken = next((name for name, p in floating if not bool(p.isfinite().all())), None)
    return OmnimixError(
        f"the weights of {broken} hold values that are not finite"
        if broken
        else "the model's numbers are not finite",
        where="answer",
        hint="fetch the weights again, or take a checkpoint from before the run went astray"
        if broken
        else "load the model with dtype=torch.float32: its type may be too small for them",
    )
