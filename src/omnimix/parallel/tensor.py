"""One model over several processes: its language model cut by tensors, its encoders' pictures shared out.

The cuts are transformers' own plan for the language model, held as DTensors; when a model is loaded each
rank reads its part of a cut weight alone. The encoders are whole on every rank and each encodes its share
of the pictures.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, distributed as dist, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from omnimix import _transformers
from omnimix.compose.holding import Holding
from omnimix.compose.modality import Branch
from omnimix.compose.model import MultimodalLM
from omnimix.compose.recipe import Recipe
from omnimix.errors import ParallelError
from omnimix.parallel.process_group import ProcessGroup

HEAD = "language.lm_head"

_LOCAL = {"colwise": "out_features", "rowwise": "in_features"}
"""Styles whose pieces are worked on where they lie, so that all must be of one size."""

_HEADS = ("num_attention_heads", "num_key_value_heads")


class Spread:
    """Shares tiles out over the ranks: padded with copies of the first, encoded, gathered, cut.

    Args:
        agreed: around a rank's own share, so that nobody waits for the features of one that failed.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        group: Any = None,
        agreed: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self.rank = rank
        self.size = size
        self.group = group
        self.agreed = agreed

    def __call__(self, encode: Callable[[Tensor], Tensor], tiles: Tensor) -> Tensor:
        """The features of all tiles, on every rank."""
        count = len(tiles)
        if not count:
            return encode(tiles)
        each = -(-count // self.size)
        more = each * self.size - count
        if more:
            tiles = torch.cat([tiles, tiles[:1].expand(more, *tiles.shape[1:])])
        with self.agreed():
            mine = encode(tiles[self.rank * each : (self.rank + 1) * each]).contiguous()
            whole = mine.new_empty(self.size * len(mine), *mine.shape[1:])
        # As bytes, which every back end carries.
        dist.all_gather_single(whole.view(torch.uint8), mine.view(torch.uint8), group=self.group)
        return whole[:count]


class TensorParallel(Holding):
    """Holds a model over the ranks of a group."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group

    def words(self, recipe: Recipe) -> dict[str, Any]:
        """What transformers is told.

        Raises:
            ParallelError: the language model cannot be cut into so many parts.
        """
        return _transformers.cut_words(self.group.size, plan(recipe, self.group.size))

    def settle(self, model: MultimodalLM) -> MultimodalLM:
        spread = Spread(self.group.rank, self.group.size, agreed=self.group.agreed)
        for module in model.modules():
            if isinstance(module, Branch):
                module.spread = spread
        return model


def plan(recipe: Recipe, size: int) -> dict[str, str]:
    """How each module of the language model is cut, by its name with `*` for the layer's number.

    Raises:
        ParallelError: transformers knows no plan for it, or its heads or widths do not divide.
    """
    model = MultimodalLM.on_meta(recipe)
    found: dict[str, str] = _transformers.cuts(model)
    kind = recipe.language.hf_config().get_text_config().model_type
    if not any(name.startswith("language.") and ".layers." in name for name in found):
        raise ParallelError(
            f"transformers has no tensor-parallel plan for language models of the type {kind!r}",
            where="language.config.model_type",
            hint="run it in one process, or load it with quantization",
        )
    if recipe.language.head is not None:
        # A head that gives the first of its rows alone cannot be cut by rows.
        found[HEAD] = "replicate"
        if getattr(recipe.language.hf_config(), "tie_word_embeddings", False):
            found |= {name: "replicate" for name in found if name.endswith(".embed_tokens")}
    _check(model, found, size)
    return found


_TRAINED: dict[str, Callable[[], ParallelStyle]] = {
    "colwise": ColwiseParallel,
    "rowwise": RowwiseParallel,
    "colwise_gather_output": lambda: ColwiseParallel(output_layouts=Replicate()),
    "rowwise_split_input": lambda: RowwiseParallel(input_layouts=Replicate()),
    # One norm for all heads, of which every process has some: its gradient is the sum of theirs.
    "replicated_with_grad_allreduce": lambda: SequenceParallel(
        sequence_dim=2, use_local_output=True
    ),
}
"""Styles of transformers' plans, as torch's own."""


def trained(recipe: Recipe, size: int) -> dict[str, str]:
    """As `plan`, of the layers that are cut in training; tables and heads stay whole.

    Raises:
        ParallelError: it cannot be cut so, or has adapters.
    """
    found = {name: s for name, s in plan(recipe, size).items() if ".layers." in name}
    odd = next(((name, style) for name, style in found.items() if style not in _TRAINED), None)
    if recipe.adapters or odd:
        what = (
            "layers with adapters are not cut"
            if odd is None
            else f"{odd[0]} learns uncut ({odd[1]})"
        )
        raise ParallelError(
            what, where="parallel.tensor", hint="leave tensor out; shard: full spreads it as well"
        )
    return found


def cut(model: MultimodalLM, mesh: DeviceMesh, found: Mapping[str, str]) -> None:
    """Cut the layers of a language model that learns, in place, as `trained` says."""
    for name, module in model.language.named_modules(prefix="language"):
        style = found.get(re.sub(r"\.\d+(?=\.|$)", ".*", name))
        if style is not None:
            # Every process has the same weights already, and takes its part of them in its own time.
            parallelize_module(module, mesh, _TRAINED[style](), src_data_rank=None)


def _check(model: MultimodalLM, found: dict[str, str], size: int) -> None:
    config = model.recipe.language.hf_config().get_text_config()
    counts: dict[str, int] = {}
    if any(style == "colwise" and name.endswith("k_proj") for name, style in found.items()):
        for word in _HEADS:
            counts[f"language.config.{word}"] = int(getattr(config, word, None) or size)
    for name, module in model.named_modules():
        style = found.get(re.sub(r"\.\d+(?=\.|$)", ".*", name))
        if style in _LOCAL and isinstance(module, nn.Linear):
            counts.setdefault(re.sub(r"\.\d+\.", ".*.", name), int(getattr(module, _LOCAL[style])))
    odd = next((where for where, count in counts.items() if count % size), None)
    if odd is not None:
        fits = [str(n) for n in (1, 2, 4, 8) if not any(count % n for count in counts.values())]
        what = odd.rsplit(".", 1)[-1]
        raise ParallelError(
            f"{what} is {counts[odd]}, which {size} processes cannot share evenly",
            where=odd.rsplit(".", 1)[0],
            hint=f"give torchrun --nproc-per-node {' or '.join(fits)}",
        )
