"""Rename tables: how the keys of a foreign checkpoint and our parameter names belong together, as data.

A table is a list of rules; the first rule that matches a key has it. Rules work in both directions and on
the meta device, so that one table loads a checkpoint, writes it back, and maps a manifest without memory.
A pattern is a name with at most one `*`, which stands for the same text on both sides::

    Rename("model.llm_backbone.llm.*", "language.*")
    Ignore("attn_pool.*", "the pooling head is not used")

Keys of nested dictionaries are joined by dots.
"""

from __future__ import annotations

import abc
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", "(.+)"), re.DOTALL)


def match(pattern: str, name: str) -> str | None:
    """What stands for the `*` (empty where the pattern has none); None where the name is another."""
    found = _regex(pattern).fullmatch(name)
    return None if found is None else (found.group(1) if found.groups() else "")


@dataclass(frozen=True)
class Rule(abc.ABC):
    """Foreign tensors to our tensors and back. One rule covers one group of names for each `*`."""

    @property
    @abc.abstractmethod
    def foreign(self) -> tuple[str, ...]:
        """Patterns on the foreign side, in the order that `read` takes them."""

    @property
    @abc.abstractmethod
    def native(self) -> tuple[str, ...]:
        """Patterns on our side, in the order that `write` takes them."""

    @abc.abstractmethod
    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Foreign tensors to ours. What is not changed is passed on as it is, never copied."""

    @abc.abstractmethod
    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Ours to the foreign ones."""


@dataclass(frozen=True)
class Rename(Rule):
    """One tensor under another name; as it is, unless a rule made from this one changes it."""

    theirs: str
    ours: str

    @property
    def foreign(self) -> tuple[str, ...]:
        return (self.theirs,)

    @property
    def native(self) -> tuple[str, ...]:
        return (self.ours,)

    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors)

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors)


@dataclass(frozen=True)
class Positions(Rename):
    """A table of position embeddings `[1, prefix + n, d]`, resampled to another grid when read.

    Bicubic with antialiasing in float32, the prefix kept, as timm does when it loads weights for another
    picture size. Written back it stays on our grid.

    Attributes:
        grid: rows and columns of our grid.
    """

    grid: tuple[int, int]

    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        table = tensors[0]
        # The grids of released encoders are square; what is over belongs to a class token in front.
        side = math.isqrt(table.shape[1])
        prefix = table.shape[1] - side * side
        if (side, side) == self.grid:
            return [table]
        front, patches = table[:, :prefix], table[:, prefix:]
        grid = patches.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        moved = functional.interpolate(grid, size=self.grid, mode="bicubic", antialias=True)
        patches = moved.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)
        return [torch.cat([front, patches], dim=1)]


@dataclass(frozen=True)
class ResizedRows(Rename):
    """A table with another number of rows: more are drawn, surplus ones cut off.

    Attributes:
        rows: of ours.
        std: of the rows that are drawn.
        seed: of drawing them, so that loading twice gives the same model.
    """

    rows: int
    std: float = 0.02
    seed: int = 0

    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        table = tensors[0]
        over = self.rows - table.shape[0]
        if over <= 0:
            return [table[: self.rows]]
        shape = (over, *table.shape[1:])
        # A manifest is mapped without memory: only the shape is asked for.
        if table.is_meta:
            return [torch.cat([table, table.new_empty(shape)])]
        chance = torch.Generator().manual_seed(self.seed)
        # Drawn in float32 on the CPU and cast then, so that device and type do not change what is drawn.
        fresh = torch.randn(shape, generator=chance) * self.std
        return [torch.cat([table, fresh.to(table)])]


@dataclass(frozen=True)
class Change(Rename):
    """One tensor under another name and in another form, given by two functions (a view, a transpose)."""

    reading: Callable[[Tensor], Tensor]
    writing: Callable[[Tensor], Tensor]

    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [self.reading(tensors[0])]

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [self.writing(tensors[0])]


@dataclass(frozen=True)
class Ignore(Rule):
    """Foreign keys that are deliberately not used, with the reason that reports show."""

    theirs: str
    reason: str

    @property
    def foreign(self) -> tuple[str, ...]:
        return (self.theirs,)

    @property
    def native(self) -> tuple[str, ...]:
        return ()

    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return []

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return []


@dataclass(frozen=True)
class Move:
    """One application of a rule: which foreign names make which of ours."""

    rule: Rule
    foreign: tuple[str, ...]
    native: tuple[str, ...]


@dataclass
class Plan:
    """What a table says about the keys of one file (or about our names, when writing).

    Attributes:
        moves: what is to be done.
        unused: foreign keys left out on purpose, with the reason.
        unknown: keys that no rule matches.
        missing: keys that a rule needs beside one that is there.
    """

    moves: list[Move] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


class RenameTable:
    """Rules in order; the first that matches has the key."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules

    def __add__(self, other: RenameTable) -> RenameTable:
        return RenameTable(*self.rules, *other.rules)

    def reading(self, keys: Iterable[str]) -> Plan:
        """The plan for turning foreign keys into ours."""
        return self._plan(keys, lambda rule: rule.foreign)

    def writing(self, names: Iterable[str]) -> Plan:
        """The plan for turning our names into foreign keys."""
        return self._plan(names, lambda rule: rule.native)

    def _plan(self, keys: Iterable[str], side: Callable[[Rule], tuple[str, ...]]) -> Plan:
        plan = Plan()
        present = list(keys)
        known = set(present)
        # A rule that joins several tensors is met once for each of them but moves once; a dictionary keeps the
        # order of the file, in which a mapped checkpoint is read fastest.
        groups: dict[tuple[int, str], None] = {}
        for key in present:
            place = self._place(key, side)
            if place is None:
                plan.unknown.append(key)
            elif isinstance(rule := self.rules[place[0]], Ignore):
                plan.unused[key] = rule.reason
            else:
                groups[place] = None
        for number, star in groups:
            rule = self.rules[number]
            needed = _filled(side(rule), star)
            # Half of a joined tensor is no tensor: the move is left out and its absent half is named.
            absent = [name for name in needed if name not in known]
            plan.missing += absent
            if not absent:
                plan.moves.append(
                    Move(rule, _filled(rule.foreign, star), _filled(rule.native, star))
                )
        return plan

    def _place(self, key: str, side: Callable[[Rule], tuple[str, ...]]) -> tuple[int, str] | None:
        # In order, so that an exception stands simply above the general rule that it is taken from.
        for number, rule in enumerate(self.rules):
            for pattern in side(rule):
                star = match(pattern, key)
                if star is not None:
                    return number, star
        return None


def _filled(patterns: tuple[str, ...], star: str) -> tuple[str, ...]:
    return tuple(pattern.replace("*", star) for pattern in patterns)


def read(plan: Plan, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors from foreign ones; unchanged tensors are the very same objects."""
    found: dict[str, Tensor] = {}
    for move in plan.moves:
        made = move.rule.read([tensors[name] for name in move.foreign])
        found |= zip(move.native, made, strict=True)
    return found


def write(plan: Plan, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Foreign tensors from ours."""
    found: dict[str, Tensor] = {}
    for move in plan.moves:
        made = move.rule.write([tensors[name] for name in move.native])
        found |= zip(move.foreign, made, strict=True)
    return found
