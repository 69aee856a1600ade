"""What a server counts, in the form that Prometheus reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from omnimix.serve.engine import Piece

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class EngineFacts(Collector):
    """The numbers that an engine says about itself, each as a gauge.

    Args:
        facts: asked whenever the metrics are read.
    """

    def __init__(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        self.facts = facts

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for name, value in _numbers(self.facts(), "omnimix_engine"):
            yield GaugeMetricFamily(name, "as the engine says it in /health", value)


def _numbers(facts: Mapping[str, Any], name: str) -> Iterator[tuple[str, float]]:
    for word, value in facts.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{name}_{word}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{name}_{word}", value


class Metrics:
    """Counters of one server, apart from those of any other in the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        held: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter(
            "omnimix_requests", "requests by path and status", ["path", "status"], **held
        )
        self.inside = Gauge("omnimix_requests_inside", "requests being answered or waiting", **held)
        self.seconds = Histogram(
            "omnimix_request_seconds",
            "from a request to its end",
            ["path"],
            buckets=_SECONDS,
            **held,
        )
        self.first = Histogram(
            "omnimix_time_to_first_token_seconds",
            "from a request to the first piece of its answer",
            buckets=_SECONDS,
            **held,
        )
        self.tokens = Counter("omnimix_tokens", "tokens by what they are", ["kind"], **held)

    def watch(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Show what an engine says about itself too."""
        self.registry.register(EngineFacts(facts))

    def text(self) -> bytes:
        """All of it as Prometheus reads it."""
        return generate_latest(self.registry)

    def answer(self) -> Count:
        """A count for an answer that begins now."""
        return Count(self)


class Count:
    """Counts the pieces of one request's answers."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.began: float | None = time.monotonic()
        self.prompted = False

    def piece(self, piece: Piece) -> None:
        if self.began is not None:
            self.metrics.first.observe(time.monotonic() - self.began)
            self.began = None
        if piece.answer is not None:
            self.metrics.tokens.labels("completion").inc(piece.answer.tokens)
            if not self.prompted:
                self.metrics.tokens.labels("prompt").inc(getattr(piece.answer, "prompt_tokens", 0))
            self.prompted = True
