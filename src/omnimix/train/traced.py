"""What a forward pass computes and keeps for the backward pass, found by running it without memory.

The model's own code runs over torch's fake tensors, which have shapes, types and storages but no numbers: whatever
autograd saves there (`saved_tensors_hooks`) it saves in a real step, and what the kernels would compute is counted by
torch's `FlopCounterMode`. Weights are left out, for they are there anyway.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence as Many
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from omnimix.compose.batch import collate
from omnimix.compose.model import MultimodalLM
from omnimix.compose.recipe import Recipe
from omnimix.compose.sequence import Sequence
from omnimix.language import packed
from omnimix.parallel.layout import blocks
from omnimix.train.loop import recompute

# The CPU's kernel, which stands for the GPU's here and keeps the same (q, k, v, what comes out, one number a head).
_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

ENCODER = re.compile(r"[^.]+\.branches\.\d+\.encoders\.\d+")
"""Where a model has its encoders."""

ENCODERS = " encoders"
"""Behind a modality's name: what its encoders compute alone."""


@dataclass
class Traced:
    """A forward pass.

    Attributes:
        kept: bytes that autograd keeps until the backward pass, of each part (a modality, or `language`).
        block: of that, in the largest block.
        flops: of each part, the encoders of a modality apart (`image encoders`); the output head is left out, which
            runs at the learned places alone.
    """

    kept: dict[str, int] = field(default_factory=dict)
    block: int = 0
    flops: dict[str, int] = field(default_factory=dict)

    @property
    def whole(self) -> int:
        return sum(self.kept.values())


class FakeModel:
    """A recipe's model as fake tensors.

    Args:
        learned: names of the parameters that learn.
        bf16: compute under autocast.
        dtypes: types of weights by name, where they are not float32.
    """

    def __init__(
        self,
        recipe: Recipe,
        learned: Collection[str],
        bf16: bool,
        dtypes: Mapping[str, torch.dtype],
    ) -> None:
        self.recipe, self.bf16 = recipe, bf16
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.model = MultimodalLM.on_meta(recipe)
        made: dict[int, nn.Parameter] = {}
        with self.mode:
            for prefix, module in self.model.named_modules():
                for name, p in module._parameters.items():
                    if p is not None and id(p) not in made:
                        whole = f"{prefix}.{name}"
                        like = torch.empty_like(p, device="cpu", dtype=dtypes.get(whole, p.dtype))
                        made[id(p)] = nn.Parameter(like, whole in learned)
                    if p is not None:
                        module._parameters[name] = made[id(p)]
                for name, b in module._buffers.items():
                    if b is not None:
                        module._buffers[name] = torch.empty_like(b, device="cpu")
        self.model.train()

    def run(self, rows: Many[Sequence], recomputed: bool) -> Traced:
        """What a padded micro-batch of these rows keeps and computes.

        Args:
            recomputed: whether parts that can compute their activations again do.
        """
        recompute(self.model, recomputed)
        # Rounds apart stand in packed rows alone; what one sees of another is counted as if it saw all.
        batch: Any = collate(
            rows, self.recipe, 0, pack=any(row.branches is not None for row in rows)
        )
        found = Traced()
        kept = _Kept(self.model, found)
        with self.mode, kept.watched(), torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            ids = torch.empty(batch.input_ids.shape, dtype=torch.long)
            hidden, done = self._embedded(ids, batch.get("items", {}), kept)
            # No mask is made, as for a real batch, whose padding stands on the right.
            with kept.part("language"), packed.by_segment():
                out = self.model.language.base_model(inputs_embeds=hidden, use_cache=False)
        kept.count()
        del out, done
        return found

    def _embedded(self, ids: Tensor, items: Any, kept: _Kept) -> tuple[Tensor, Any]:
        """Embeddings that hang on every item; which place takes which is data, and not known here."""
        model = self.model
        done: dict[str, Any] = {}
        items = {
            name: one.each(lambda t: torch.empty_like(t, device="cpu"))
            for name, one in items.items()
        }
        for name in model.modalities:
            if name in items:
                source = self.recipe.modalities[name].source()
                seen = done[source].map[items[name].on] if source else None
                with kept.part(name):
                    done[name] = model.modality(name)(items[name], seen)
        hidden = model.get_input_embeddings()(ids)
        for one in done.values():
            hidden = hidden + one.tokens.sum()
        return hidden.to(next(model.language.parameters()).dtype), done


class _Kept:
    """Notes what autograd saves, each storage once, with its part and its block."""

    def __init__(self, model: MultimodalLM, found: Traced) -> None:
        self.model, self.found = model, found
        self.seen: dict[int, tuple[StorageWeakRef, int, str, int]] = {}
        self.now, self.inside = "language", -1
        self.encoding = 0

    def take(self, tensor: Tensor) -> Tensor:
        store = tensor.untyped_storage()
        # A weak reference holds the address, so that no later storage is taken for this one.
        if store._cdata not in self.seen:
            about = (StorageWeakRef(store), store.nbytes(), self.now, self.inside)
            self.seen[store._cdata] = about
        return tensor

    def count(self) -> None:
        """What is still alive: frozen blocks save and let go."""
        own: dict[int, int] = {}
        for ref, size, part, block in self.seen.values():
            if part and not ref.expired():
                self.found.kept[part] = self.found.kept.get(part, 0) + size
                if block >= 0:
                    own[block] = own.get(block, 0) + size
        self.found.block = max(own.values(), default=0)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        before, self.now = self.now, name
        counter = FlopCounterMode(display=False, custom_mapping={_ATTENTION: _attention_flops})
        self.encoding, begun = 0, 0

        def begin(*_: Any) -> None:
            nonlocal begun
            begun = counter.get_total_flops()

        def end(*_: Any) -> None:
            self.encoding += counter.get_total_flops() - begun

        encoders = [m for n, m in self.model.named_modules() if ENCODER.fullmatch(n)]
        handles = [one.register_forward_pre_hook(begin) for one in encoders]
        handles += [one.register_forward_hook(end) for one in encoders]
        try:
            with counter:
                yield
        finally:
            for handle in handles:
                handle.remove()
        if self.encoding:
            self.found.flops[name + ENCODERS] = self.encoding
        self.found.flops[name] = counter.get_total_flops() - self.encoding
        self.now = before

    @contextmanager
    def watched(self) -> Iterator[None]:
        for weight in (*self.model.parameters(), *self.model.buffers()):
            store = weight.untyped_storage()
            self.seen[store._cdata] = (StorageWeakRef(store), 0, "", -1)
        handles = []
        for number, block in enumerate(blocks(self.model)):
            handles.append(block.register_forward_pre_hook(lambda *_, n=number: self._in(n)))
            handles.append(block.register_forward_hook(lambda *_: self._in(-1)))
        try:
            with torch.autograd.graph.saved_tensors_hooks(self.take, lambda tensor: tensor):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _in(self, block: int) -> None:
        self.inside = block


def _attention_flops(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(q, k, v))
