"""Beginnings of prompts that were read before: keys and values by block, under a hash of all that stands before.

A second turn, or another question about the same picture, goes on from there and pays for its own words alone.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from omnimix.generate.engine.runners import Runner

BLOCK = 16
"""Tokens of a block."""


class PrefixCache:
    """Blocks of keys and values, the least used forgotten first.

    Args:
        most: bytes that are kept; 0 for none.

    Attributes:
        hits, misses: tokens that were at hand, and tokens that were read.
        bytes: that are kept.
    """

    def __init__(self, runner: Runner, most: int) -> None:
        self.runner = runner
        self.most = most
        self.hits = self.misses = self.bytes = 0
        self._blocks: OrderedDict[bytes, list[Tensor]] = OrderedDict()

    def begin(self, text: Any, names: Int[np.ndarray, "n 3"]) -> int:
        """Let a new text begin with what is known of its prompt; how many tokens that is, the last never."""
        found = []
        for _, key in _keys(names[:-1]):
            if key not in self._blocks:
                break
            self.runner.put(text, self._blocks[key])
            found.append(key)
        self._used(found)
        count = len(found) * BLOCK
        self.hits += count
        self.misses += len(names) - count
        return count

    def keep(self, text: Any, names: Int[np.ndarray, "n 3"]) -> None:
        """Keep what a text knows of its tokens.

        Args:
            names: of the tokens that it has read.
        """
        keys = []
        for end, key in _keys(names):
            if key not in self._blocks:
                block = self.runner.cut(text, end - BLOCK, end)
                if block is None:
                    return
                self._blocks[key] = block
                self.bytes += sum(one.nbytes for one in block)
            keys.append(key)
        self._used(keys)
        while self.bytes > self.most:
            _, block = self._blocks.popitem(last=False)
            self.bytes -= sum(one.nbytes for one in block)

    def _used(self, keys: Sequence[bytes]) -> None:
        """A beginning is forgotten after what follows it, which nobody finds without it."""
        for key in reversed(keys):
            self._blocks.move_to_end(key)


def _keys(names: Int[np.ndarray, "n 3"]) -> Iterator[tuple[int, bytes]]:
    """Ends of the whole blocks of a text, with the hash of all up to there."""
    before = b""
    for end in range(BLOCK, len(names) + 1, BLOCK):
        block = np.ascontiguousarray(names[end - BLOCK : end])
        before = hashlib.blake2b(before + block.tobytes(), digest_size=16).digest()
        yield end, before
