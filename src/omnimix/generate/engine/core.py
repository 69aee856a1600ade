"""Many answers written at once: requests join and leave between steps, and each gets what it would get alone.

A step runs the language model once: one token of every answer that is being written, and, up to a number of tokens,
pieces of prompts that are still to be read. Nothing here knows threads: whoever calls `step` runs the model, and `add`
and `Generation.cancel` may come from anywhere.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from omnimix.compose.model import MultimodalLM
from omnimix.errors import OmnimixError
from omnimix.generate.engine.generation import Chosen, Generation, Reason
from omnimix.generate.engine.prefixes import PrefixCache
from omnimix.generate.engine.prompts import ItemCache, NamedPrompt
from omnimix.generate.engine.runners import Apart, Runner, runner
from omnimix.generate.engine.sampling import Likely
from omnimix.parallel.process_group import ProcessGroup

__all__ = ["Core", "Generation", "Limits"]

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
        group: processes that take the same steps, so that a failed one cannot be taken again.

    Attributes:
        patience: seconds without work after which it wants a step all the same; None for ever.
    """

    patience: float | None = None

    def __init__(
        self,
        model: MultimodalLM,
        limits: Limits | None = None,
        run: Runner | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        self.model = model
        self.limits = limits or Limits()
        self.runner = run or runner(model)
        if self.limits.deterministic:
            self.runner = Apart(self.runner)
        self.group = group or ProcessGroup()
        apart = self.limits.deterministic
        self.items = ItemCache(model, self.limits.item_memory, apart, self.group)
        self.prefixes = PrefixCache(self.runner, self.limits.prefix_memory)
        self.tokens = self.steps = 0
        self._new: list[Generation] = []
        self._waiting: deque[Generation] = deque()
        self._running: list[_Running] = []
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Requests without a place."""
        return len(self._new) + len(self._waiting)

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
            self._new.append(request)

    def step(self) -> bool:
        """One step of all answers; whether there is anything left to do."""
        with torch.inference_mode():
            self._settle(*self._news())
            self._join()
            if self._running:
                self._advance()
                self.steps += 1
        return bool(self.running or self.waiting)

    def close(self) -> None:
        """No step will follow."""

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
                self._settle(*self._news())

    def fail(self, error: BaseException) -> None:
        """Give up all requests."""
        with self._lock:
            left, self._new = self._held(self._new), []
            self._waiting.clear()
        for request in left:
            self._fail(request, error)

    def _held(self, new: Sequence[Generation]) -> list[Generation]:
        return [*self._waiting, *new, *(one.request for one in self._running)]

    def _news(self) -> tuple[list[Generation], list[tuple[int, bool]]]:
        """Requests that came, and the places in `_held` of those that go, with whether they are late."""
        with self._lock:
            came, self._new = self._new, []
        now, gone = time.monotonic(), []
        for place, request in enumerate(self._held(came)):
            late = request.deadline is not None and now > request.deadline
            if request._left or late:
                gone.append((place, not request._left))
        return came, gone

    def _settle(self, came: Sequence[Generation], gone: Sequence[tuple[int, bool]]) -> None:
        """Let requests in that came, and out that nobody waits for or that came too late."""
        self._waiting.extend(came)
        held = self._held(())
        for place, late in gone:
            if late:
                held[place].error = OmnimixError(
                    "the answer was not written in the time that was given",
                    hint="ask for a shorter answer, or ask again when fewer others do",
                )
            else:
                held[place].reason = "cancelled"
            held[place].listen(held[place])
        self._waiting = deque(one for one in self._waiting if not one.over)
        self._running = [one for one in self._running if not one.request.over]

    def _join(self) -> None:
        """Requests get their places, in the order in which they came, as long as there are any."""
        joining: list[Generation] = []
        held, most = self.held, self.limits.cache_memory
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
            if self.group.size > 1 and error is not self.group.known:
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
            if self.group.size > 1:
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
        for (one, _), chosen in zip(rows, self._chosen(rows), strict=True):
            try:
                if isinstance(chosen, Exception):
                    raise chosen
                self._took(one, *chosen)
            except Exception as error:
                if self.group.size > 1 and error is not chosen:
                    raise
                self._fail(one.request, error)

    def _chosen(self, rows: list[tuple[_Running, Tensor]]) -> list[Chosen | Exception]:
        """What each row goes on with, or what made it fail."""
        best, finite = likeliest([row for _, row in rows])
        found: list[Chosen | Exception] = []
        for (one, row), token, right in zip(rows, best, finite, strict=True):
            try:
                found.append(one.request.choice(row, token) if right else astray(self.model))
            except Exception as error:
                found.append(error)
        return found

    def _took(
        self, one: _Running, token: int, likely: Likely | None, reason: Reason | None
    ) -> None:
        request = one.request
        request.ids.append(token)
        if likely is not None:
            request.likely.append(likely)
        request.sampler.note(token)
        request.began = request.began or time.monotonic()
        self.tokens += 1
        request.reason = reason
        if request.over:
            self._keep(one)
            self._running.remove(one)
        request.listen(request)


def likeliest(rows: Sequence[Float[Tensor, "v"]]) -> tuple[list[int], list[bool]]:
    """The likeliest token of each row, and whether its logit is finite.

    It is not where any is NaN or infinite; what is ruled out is minus infinity.
    """
    if all(row.device.type == "cpu" and row.dtype == torch.float32 for row in rows):
        # By numpy, in this thread: torch would wake its own, which then wait for more and keep a back end's off the cores.
        values = [row.numpy() for row in rows]
        best = [int(one.argmax()) for one in values]
        return best, [math.isfinite(one[i]) for one, i in zip(values, best, strict=True)]
    most = torch.stack(list(rows)).max(-1)
    return most.indices.tolist(), most.values.isfinite().tolist()


def astray(model: MultimodalLM) -> OmnimixError:
    """What is said of logits that are no numbers, of which the likeliest token would be whatever stands first."""
    named = model.named_parameters()
    # Of a model that several processes hold, this one's part: the others are not asked.
    own: Any = ((name, getattr(p, "to_local", lambda p=p: p)()) for name, p in named)
    floating = ((name, p) for name, p in own if p.is_floating_point())
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
