"""multi_token's keys and ours: projectors, LoRA matrices, the base model they sit on (golden/specs/multi_token.md)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnimix.checkpoints.tables import Ignore, Rename, RenameTable, Rule
from omnimix.errors import CheckpointError

PREFIXES = ("base_model.model.model.", "base_model.model.", "model.", "")
"""What may stand before a projector's name: of a run with LoRA, of one without, and none."""

LORA = "base_model.model."
"""Prefix of an adapter's keys, which peft puts before the language model's own."""

_PROJECTOR = re.compile(r"(.*?)([A-Za-z]\w*)_lmm_projector\.(.+)")
_A = re.compile(r"(.+)\.lora_A\.weight")

NOT_LEARNED = Ignore("*.rotary_emb.inv_freq", "computed, not learned")


@dataclass(frozen=True)
class Merged(Rule):
    """A weight and the LoRA matrices beside it: their product is worked into the weight.

    In float32 whatever the files hold, since rounding to the file's type would lose what little was learned.
    Written, nothing is left of the product: B is zero.

    Attributes:
        weight: foreign pattern of the weight; the matrices stand behind `base_model.model.`.
        ours: our pattern.
        scale: what the product is multiplied by.
    """

    weight: str
    ours: str
    scale: float

    @property
    def foreign(self) -> tuple[str, ...]:
        stem = self.weight.removesuffix(".weight")
        return (
            self.weight,
            f"{LORA}{stem}.lora_A.weight",
            f"{LORA}{stem}.lora_B.weight",
        )

    @property
    def native(self) -> tuple[str, ...]:
        return (self.ours,)

    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        weight, down, up = tensors
        if weight.is_meta:
            return [torch.empty_like(weight, dtype=torch.float32)]
        product = up.float() @ down.float() * self.scale
        return [weight.float() + product]

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        (weight,) = tensors
        down = weight.new_zeros(1, weight.shape[1])
        return [weight, down, weight.new_zeros(weight.shape[0], 1)]


def prefix_of(keys: Iterable[str]) -> str | None:
    """What stands before the projectors' names; None where there is no projector.

    Raises:
        CheckpointError: a prefix that no run writes.
    """
    for key in keys:
        found = _PROJECTOR.fullmatch(key)
        if found is None:
            continue
        if found[1] not in PREFIXES:
            raise CheckpointError(
                f"an unknown prefix {found[1]!r} before the projectors",
                hint=f"known are {', '.join(map(repr, PREFIXES))}",
            )
        return found[1]
    return None


@dataclass(frozen=True)
class Projector:
    """What the keys of a projector say about its modality.

    Attributes:
        tokens: MLPs side by side, one for each token; None where one MLP works on every patch.
        depth: linear layers of each.
        width: of the encoder's features.
        out: of the language model.
    """

    tokens: int | None
    depth: int
    width: int
    out: int


@dataclass(frozen=True)
class Lora:
    """An adapter found in a folder.

    Attributes:
        file: its weights.
        targets: the layers it sits on, named from their block on.
        rank: of its matrices.
        scale: what their product is multiplied by.
        dropout: in training.
    """

    file: Path
    targets: tuple[str, ...]
    rank: int
    scale: float
    dropout: float


def projectors(sizes: Mapping[str, Sequence[int]]) -> dict[str, Projector]:
    """The projectors of a file by the reference's names of their modalities.

    Args:
        sizes: shape of every key.

    Raises:
        CheckpointError: one whose layers are not all there.
    """
    names: dict[str, dict[str, Sequence[int]]] = {}
    for key, size in sizes.items():
        found = _PROJECTOR.fullmatch(key)
        if found is not None:
            names.setdefault(found[2], {})[found[3]] = size
    return {name: _projector(name, keys) for name, keys in names.items()}


def _projector(name: str, keys: Mapping[str, Sequence[int]]) -> Projector:
    each = {int(m[1]) for key in keys if (m := re.fullmatch(r"mlps\.(\d+)\..+", key))}
    stem = "mlps.0." if each else ""
    own = re.compile(re.escape(stem) + r"(\d+)\.weight")
    layers = sorted(int(m[1]) for key in keys if (m := own.fullmatch(key)))
    whole = layers == list(range(0, 2 * len(layers), 2)) and each == set(range(len(each)))
    wanted = {
        f"{head}{layer}.{kind}"
        for head in ([f"mlps.{i}." for i in sorted(each)] or [""])
        for layer in layers
        for kind in ("weight", "bias")
    }
    if not layers or not whole or wanted - keys.keys():
        lost = sorted(wanted - keys.keys())
        raise CheckpointError(
            f"the projector of {name} is incomplete" + (f": no {lost[0]}" if lost else ""),
            hint="copy non_lora_trainables.bin again",
        )
    first, last = keys[f"{stem}0.weight"], keys[f"{stem}{layers[-1]}.weight"]
    return Projector(len(each) or None, len(layers), int(first[1]), int(last[0]))


def projector_table(prefix: str, modalities: Mapping[str, str]) -> RenameTable:
    """Keys of `non_lora_trainables.bin`.

    Args:
        modalities: the reference's name of each modality to ours.
    """
    return RenameTable(
        *(
            Rename(f"{prefix}{theirs}_lmm_projector.*", f"{ours}.branches.0.connector.*")
            for theirs, ours in modalities.items()
        )
    )


def base_table() -> RenameTable:
    """Keys of the base language model alone."""
    return RenameTable(NOT_LEARNED, Rename("model.*", "language.model.*"), _head())


def _head() -> Rule:
    return Rename("lm_head.*", "language.lm_head.*")


def merged_table(scale: float, targets: Iterable[str]) -> RenameTable:
    """Keys of the base model and its adapter together, the adapter worked in.

    Args:
        targets: layers with an adapter, named from their block on: `self_attn.q_proj`.
    """
    rules = [
        Merged(f"model.layers.*.{name}.weight", f"language.model.layers.*.{name}.weight", scale)
        for name in targets
    ]
    return RenameTable(*rules) + base_table()


def kept_table(targets: Iterable[str]) -> RenameTable:
    """The same with the adapter kept beside the weights, under peft's names in a model."""
    rules: list[Rule] = []
    for name in targets:
        ours = f"language.model.layers.*.{name}"
        rules.append(Rename(f"model.layers.*.{name}.weight", f"{ours}.base_layer.weight"))
        rules.append(Rename(f"model.layers.*.{name}.bias", f"{ours}.base_layer.bias"))
    return RenameTable(*rules) + adapter_table() + base_table()


def adapter_table(inside: str = "") -> RenameTable:
    """Keys of an adapter.

    Args:
        inside: what stands for the adapter's own name; empty in files, `default.` in a living model.
    """
    model = f"{LORA}model.*"
    return RenameTable(
        *(
            Rename(f"{model}.lora_{x}.{inside}weight", f"language.model.*.lora_{x}.default.weight")
            for x in "AB"
        )
    )


def adapted(keys: Iterable[str]) -> tuple[str, ...]:
    """The layers that an adapter sits on, named from their block on, in order of the file.

    Raises:
        CheckpointError: one that is in no block, or in some of the blocks alone.
    """
    blocks: dict[str, set[str]] = {}
    for key in keys:
        found = _A.fullmatch(key)
        if found is None:
            continue
        inner = re.fullmatch(re.escape(LORA) + r"model\.layers\.(\d+)\.(.+)", found[1])
        if inner is None:
            raise CheckpointError(
                f"the adapter sits on {found[1]}, which lies in no block of a language model",
                hint="multi_token adapts the linear layers of the blocks",
            )
        blocks.setdefault(inner[2], set()).add(inner[1])
    if len({frozenset(found) for found in blocks.values()}) > 1:
        raise CheckpointError(
            "the adapter sits on other layers in some blocks than in the rest",
            hint="copy the adapter's file again",
        )
    return tuple(blocks)


def rank_of(sizes: Mapping[str, Sequence[int]]) -> int:
    """The rank that an adapter's matrices have.

    Raises:
        CheckpointError: they differ.
    """
    ranks = {int(size[0]) for key, size in sizes.items() if _A.fullmatch(key)}
    if len(ranks) != 1:
        raise CheckpointError(
            f"the adapter has matrices of the ranks {sorted(ranks)}",
            hint="adapters of one rank can be read",
        )
    return ranks.pop()


def scale_of(words: Mapping[str, Any], rank: int) -> float:
    """What an adapter's product is multiplied by, from `adapter_config.json`.

    Raises:
        CheckpointError: an adapter of another kind, or one that is not LoRA alone.
    """
    odd = [
        f"{word} {words[word]!r}"
        for word, plain in _PLAIN.items()
        if words.get(word) not in (None, *plain)
    ]
    if odd:
        raise CheckpointError(
            f"the adapter is not plain LoRA ({', '.join(odd)})",
            where="adapter_config.json",
            hint="multi_token writes LoRA without bias",
        )
    stated = words.get("r")
    if stated is not None and int(stated) != rank:
        raise CheckpointError(
            f"adapter_config.json says rank {stated}, the matrices have {rank}",
            hint="both files must come from one run",
        )
    alpha = float(words.get("lora_alpha") or 8)  # peft's default
    return alpha / (rank**0.5 if words.get("use_rslora") else rank)


_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "use_dora": (False,),
    "modules_to_save": ([],),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "layer_replication": ([],),
}
"""Words of `adapter_config.json` and what they say in a plain LoRA."""
