"""What an answer begins with: ids, items by their contents, and the embeddings of both.

An item is encoded once, whoever asks about it: what the encoders gave is kept under a hash of the prepared item. The
items of all prompts that begin together go through an encoder together.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from omnimix.compose.batch import item_batch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.sequence import Item, Sequence as Woven
from omnimix.parallel.process_group import ProcessGroup

Key = tuple[str, bytes]
"""A modality and the hash of an item's contents."""


@dataclass(frozen=True, eq=False)
class NamedPrompt:
    """A woven conversation with names for what it holds.

    Attributes:
        ids: of its tokens; holes hold anything.
        owner: 0 for text, k for the k-th modality.
        items: for each modality its items and their keys, in the order of their holes.
        names: `[n, 3]` whole numbers that are equal where two prompts' tokens are the same.
    """

    ids: Int[np.ndarray, "n"]
    owner: Int[np.ndarray, "n"]
    items: Mapping[str, Sequence[tuple[Key, Item, Key | None]]] = field(default_factory=dict)
    names: Int[np.ndarray, "n 3"] | None = None

    def __len__(self) -> int:
        return len(self.ids)


def prompt(woven: Woven, model: MultimodalLM) -> NamedPrompt:
    """The prompt of a woven conversation; hashes its items, so that is best done beside the engine's thread."""
    names = np.zeros((len(woven), 3), dtype=np.int64)
    names[:, 0] = woven.ids
    items: dict[str, list[tuple[Key, Item, Key | None]]] = {}
    for k, name in enumerate(model.modalities, start=1):
        source = model.recipe.modalities[name].source()
        own = items[name] = []
        columns = np.flatnonzero(woven.owner == k)
        start = 0
        for item in woven.items.get(name, ()):
            on = items[source][item.on][0] if source else None
            key = (name, _hash(item, on))
            own.append((key, item, on))
            here = columns[start : start + item.tokens]
            names[here, :2] = np.frombuffer(key[1], dtype=np.int64)
            names[here, 2] = k + len(model.modalities) * np.arange(1, 1 + len(here))
            start += item.tokens
    return NamedPrompt(woven.ids, woven.owner, items, names)


def _hash(item: Item, on: Key | None) -> bytes:
    digest = hashlib.blake2b(repr((item.size, item.grid, item.tokens, on)).encode(), digest_size=16)
    # An item whose features are kept on disk has the same key before and after they were.
    digest.update((item.key or "").encode())
    for tensor in () if item.key else item.inputs:
        digest.update(repr((tensor.shape, tensor.dtype)).encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()


class ItemCache:
    """What the encoders gave for items, the least used forgotten first.

    Args:
        model: encodes them.
        most: bytes that are kept beyond what running prompts need.
        apart: items pass through the encoders one by one, so that the last bits of each are its own.
        group: processes that encode the same items; what fails in one of them fails in all.

    Attributes:
        hits, misses: items that were at hand, and items that were encoded.
        bytes: that are kept.
    """

    def __init__(
        self,
        model: MultimodalLM,
        most: int,
        apart: bool = False,
        group: ProcessGroup | None = None,
    ) -> None:
        self.model = model
        self.group = group or ProcessGroup()
        self.most = most
        self.apart = apart
        self.hits = self.misses = self.bytes = 0
        self._kept: OrderedDict[Key, tuple[Tensor, Tensor | None]] = OrderedDict()
        sources = {spec.source() for spec in model.recipe.modalities.values()}
        self._looked_at = sources - {None}

    def missing(self, given: NamedPrompt) -> int:
        """Items of a prompt that have to be encoded."""
        keys = {one[0] for own in given.items.values() for one in own}
        return sum(key not in self._kept for key in keys)

    def embeddings(self, prompts: Sequence[NamedPrompt]) -> list[Float[Tensor, "n width"]]:
        """Embeddings of prompts with the items in their places."""
        try:
            with self.group.agreed():
                for name in self.model.modalities:
                    own = [one for each in prompts for one in each.items.get(name, ())]
                    self._encode(name, own)
        except Exception:
            if (
                self.group.size > 1
            ):  # another process may hold other items now, and would not encode
                self._kept.clear()
                self.bytes = 0
            raise
        found = [self._filled(each) for each in prompts]
        while self.bytes > self.most and self._kept:
            self.bytes -= _size(self._kept.popitem(last=False)[1])
        return found

    def _encode(self, name: str, wanted: Sequence[tuple[Key, Item, Key | None]]) -> None:
        new: dict[Key, tuple[Item, Key | None]] = {}
        for key, item, on in wanted:
            if key in self._kept:
                self.hits += 1
                self._kept.move_to_end(key)
            else:
                self.hits += key in new
                new[key] = item, on
        if not new:
            return
        self.misses += len(new)
        for some in [{key: one} for key, one in new.items()] if self.apart else [new]:
            self._run(name, some)

    def _run(self, name: str, new: Mapping[Key, tuple[Item, Key | None]]) -> None:
        """Encode items that are not at hand."""
        items = [item for item, _ in new.values()]
        batch = item_batch(items, list(range(len(items)))).to(self.model.device)
        maps = [self._kept[on][1] for _, on in new.values() if on is not None]
        seen = torch.stack([one for one in maps if one is not None]) if maps else None
        done = self.model.modality(name)(batch, seen)
        tokens = done.tokens.split([item.tokens for item in items])
        for i, key in enumerate(new):
            kept = done.map is not None and name in self._looked_at
            # Clones, so that a forgotten item's memory is given back though its neighbours stay.
            one = tokens[i].clone(), done.map[i].clone() if kept and done.map is not None else None
            self._kept[key] = one
            self.bytes += _size(one)

    def _filled(self, given: NamedPrompt) -> Tensor:
        device = self.model.device
        table = self.model.get_input_embeddings()
        found: Tensor = table(torch.from_numpy(given.ids).to(device))
        for k, name in enumerate(self.model.modalities, start=1):
            own = given.items.get(name, ())
            if own:
                places = torch.from_numpy(np.flatnonzero(given.owner == k)).to(device)
                features = torch.cat([self._kept[key][0] for key, _, _ in own])
                found = found.index_copy(0, places, features.to(found.dtype))
        return found


def _size(one: tuple[Tensor, Tensor | None]) -> int:
    return sum(tensor.nbytes for tensor in one if tensor is not None)
