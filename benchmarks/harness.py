"""Ours and a peer's, side by side: turn about in one process, so that a busy machine hurts both alike.

What is reported is the ratio of the two times of each round, its median and the middle half of the rounds:
absolute times say more about the machine than about the code.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True)
class Pair:
    """Two ways to do the same.

    Attributes:
        name: of the work.
        ours, peer: what is timed.
        against: the peer's name.
    """

    name: str
    ours: Work
    peer: Work
    against: str


@dataclass(frozen=True)
class Result:
    """Seconds of every round, ours and the peer's, in the same order."""

    pair: Pair
    ours: tuple[float, ...]
    peer: tuple[float, ...]

    def ratios(self) -> list[float]:
        """The peer's time over ours in each round: above 1 ours is quicker."""
        return [theirs / own for own, theirs in zip(self.ours, self.peer, strict=True)]

    def line(self) -> str:
        """The result in words."""
        ratios = self.ratios()
        low, middle, high = spread(ratios)
        own, theirs = statistics.median(self.ours), statistics.median(self.peer)
        return (
            f"{self.pair.name:<40} {1e3 * own:9.2f} ms   {self.pair.against:<34} "
            f"{1e3 * theirs:9.2f} ms   ratio {middle:5.2f} [{low:.2f}, {high:.2f}]"
        )


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def measure(pair: Pair, rounds: int) -> Result:
    """Time both, turn about; who goes first changes every round. One round before is not counted."""
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for number in range(rounds + 1):
        order = ("ours", "peer") if number % 2 else ("peer", "ours")
        for who in order:
            begin = time.perf_counter()
            getattr(pair, who)()
            if number:
                times[who].append(time.perf_counter() - begin)
    return Result(pair, tuple(times["ours"]), tuple(times["peer"]))


def report(pairs: Sequence[Pair], words: Sequence[str] | None = None) -> list[Result]:
    """The command line of a benchmark: `--rounds N`, one line a pair."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=21, help="times that each pair is run")
    rounds = max(1, parser.parse_args(words).rounds)
    print("ratio: the peer's time over ours, median and middle half of the rounds")
    results = []
    for pair in pairs:
        results.append(measure(pair, rounds))
        print(results[-1].line(), flush=True)
    return results
