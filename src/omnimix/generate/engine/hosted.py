"""Answers by an engine that orders its requests itself: it gets the embeddings of prompts, and says the tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from omnimix.compose.model import MultimodalLM
from omnimix.errors import OmnimixError
from omnimix.generate.engine.core import Core, Generation, Limits, _Running
from omnimix.generate.engine.sampling import Likely


@dataclass(frozen=True)
class News:
    """What a host says of a request.

    Attributes:
        ids: its next tokens.
        likely: of each, where that was asked for.
        over: no more will come.
        error: why it failed.
    """

    request: Generation
    ids: Sequence[int] = ()
    likely: Sequence[Likely] = ()
    over: bool = False
    error: BaseException | None = None


@runtime_checkable
class Host(Protocol):
    """An engine that orders its requests itself."""

    def start(self, request: Generation, embeddings: Float[Tensor, "n width"]) -> None:
        """Take a request.

        Raises:
            OmnimixError: it cannot write that way.
        """
        ...

    def stop(self, request: Generation) -> None:
        """Forget a request, whether it is over or not."""
        ...

    def news(self) -> Iterable[News]:
        """What there is since the last call; waits for something, not for long."""
        ...


class _Elsewhere:
    """The runner of a core that runs nothing itself."""

    token_bytes, whole = 0, True

    def open(self, room: int) -> None:
        """Nothing is kept here."""

    def run(self, texts: Sequence[Any], embeddings: Sequence[Tensor]) -> Tensor:
        raise NotImplementedError

    def cut(self, text: Any, start: int, end: int) -> None:
        """Nothing is kept here."""

    def put(self, text: Any, pieces: Sequence[Tensor]) -> None:
        raise NotImplementedError


class Hosted(Core):
    """Writes answers by a host: requests wait, join, end and leave as in torch, and only the steps are another's.

    Where an answer ends is seen here, so that stop strings mean the same.
    """

    def __init__(self, model: MultimodalLM, host: Host) -> None:
        super().__init__(model, Limits(), _Elsewhere())
        self.host = host
        self._started: list[Generation] = []

    def within(self, limits: Limits) -> Hosted:
        """The same with other limits; memory for keys and values is the host's own.

        Raises:
            OmnimixError: what a host does not promise.
        """
        if limits.deterministic:
            raise OmnimixError(
                "another engine does not promise answers that are the same in any company",
                hint="leave --deterministic or --backend out",
            )
        self.limits = replace(limits, cache_memory=None, prefix_memory=0)
        self.items.most = max(self.items.most, limits.item_memory)
        return self

    def _begun(self, request: Generation, embeddings: Tensor) -> _Running:
        self._started.append(request)  # what fails on the way is stopped too
        self.host.start(request, embeddings)
        return super()._begun(request, embeddings[:0])

    def step(self) -> bool:
        more = super().step()
        self._give_back()
        return more

    def run(self, requests: Sequence[Generation]) -> None:
        try:
            super().run(requests)
        finally:
            self._give_back()

    def fail(self, error: BaseException) -> None:
        super().fail(error)
        self._give_back()

    def _give_back(self) -> None:
        running = [one.request for one in self._running if not one.request.over]
        for request in [one for one in self._started if one not in running]:
            self._started.remove(request)
            with suppress(Exception):  # a host that is gone holds nothing any more
                self.host.stop(request)

    def _advance(self) -> None:
        for news in self.host.news():
            one = next((one for one in self._running if one.request is news.request), None)
            if one is None:
                continue  # it ended here, and the host has not heard it yet
            try:
                if news.error is not None:
                    raise news.error
                likely: list[Any] = [*news.likely] or [None] * len(news.ids)
                for token, how in zip(news.ids, likely, strict=True):
                    if not one.request.over:
                        self._took(one, token, how, one.request.end(token))
            except Exception as error:  # what one brings hurts no other
                self._fail(one.request, error)
            if news.over and not one.request.over:
                one.request.reason = "length"  # the host's own limit
                self._running.remove(one)
                one.request.listen(one.request)
