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

Sizes = Mapping[str, Sequence[int]]
"""The shape of every key of a file."""


# --- projectors ---


@dataclass(frozen=True)
class Projector:
    """What the keys of a projector say about its modality.

    Attributes:
        tokens: MLPs side by side, one for each token; None where one MLP works on every patch.
        depth: linear layers of each.
        width: of the encoder's features.
        prefix: what stands before the projector's name.
    """

    tokens: int | None
    depth: int
    width: int
    prefix: str = PREFIXES[0]


def projectors(sizes: Sizes) -> dict[str, Projector]:
    """The projectors of a file by the reference's names of their modalities.

    Raises:
        CheckpointError: one whose layers are not all there, or a prefix that no run writes.
    """
    named: dict[tuple[str, str], dict[str, Sequence[int]]] = {}
    for key, size in sizes.items():
        if match := _PROJECTOR.fullmatch(key):
            named.setdefault((match[1], match[2]), {})[match[3]] = size
    for prefix, name in named:
        if prefix not in PREFIXES:
            raise CheckpointError(
                f"an unknown prefix {prefix!r} before the projector of {name}",
                hint=f"known are {', '.join(map(repr, PREFIXES))}",
            )
    return {name: _projector(prefix, name, keys) for (prefix, name), keys in named.items()}


def _projector(prefix: str, name: str, keys: Sizes) -> Projector:
    def counted(pattern: str) -> int:
        numbers = [int(m[1]) for key in keys if (m := re.fullmatch(pattern, key))]
        return max(numbers, default=-1) + 1

    tokens = counted(r"mlps\.(\d+)\..+")
    heads = [f"mlps.{i}." for i in range(tokens)] or [""]
    # The linear layers of an MLP have even numbers, activations stand between them.
    layers = range(0, counted(re.escape(heads[0]) + r"(\d+)\.weight") or 1, 2)
    for key in (f"{h}{i}.{kind}" for h in heads for i in layers for kind in ("weight", "bias")):
        if key not in keys:
            raise CheckpointError(
                f"the projector of {name} is incomplete: no {key}",
                hint="copy non_lora_trainables.bin again",
            )
    return Projector(tokens or None, len(layers), int(keys[f"{heads[0]}0.weight"][1]), prefix)


def projector_table(prefix: str, modalities: Mapping[str, str]) -> RenameTable:
    """Keys of `non_lora_trainables.bin`; `modalities` are ours by the reference's names."""
    return RenameTable(
        *(
            Rename(f"{prefix}{theirs}_lmm_projector.*", f"{ours}.branches.0.connector.*")
            for theirs, ours in modalities.items()
        )
    )


# --- the language model and what an adapter adds ---


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
        stem = LORA + self.weight.removesuffix("weight")
        return (self.weight, f"{stem}lora_A.weight", f"{stem}lora_B.weight")

    @property
    def native(self) -> tuple[str, ...]:
        return (self.ours,)

    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        weight, down, up = tensors
        if weight.is_meta:
            return [torch.empty_like(weight, dtype=torch.float32)]
        return [weight.float() + up.float() @ down.float() * self.scale]

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        (weight,) = tensors
        rows, columns = weight.shape
        return [weight, weight.new_zeros(1, columns), weight.new_zeros(rows, 1)]


def base_table() -> RenameTable:
    """Keys of the base language model alone."""
    return RenameTable(
        Ignore("*.rotary_emb.inv_freq", "computed, not learned"),
        Rename("model.*", "language.model.*"),
        Rename("lm_head.*", "language.lm_head.*"),
    )


def merged_table(scale: float, targets: Iterable[str]) -> RenameTable:
    """Keys of the base model and its adapter together, the adapter worked in.

    Args:
        targets: layers with an adapter, named from their block on: `self_attn.q_proj`.
    """
    stems = [f"model.layers.*.{name}.weight" for name in targets]
    return RenameTable(*(Merged(stem, f"language.{stem}", scale) for stem in stems)) + base_table()


def kept_table(targets: Iterable[str]) -> RenameTable:
    """The same with the adapter kept beside the weights, under peft's names in a model."""
    stems = [f"model.layers.*.{name}" for name in targets]
    beside = (
        Rename(f"{stem}.{kind}", f"language.{stem}.base_layer.{kind}")
        for stem in stems
        for kind in ("weight", "bias")
    )
    return RenameTable(*beside) + adapter_table() + base_table()


def adapter_table(inside: str = "") -> RenameTable:
    """Keys of an adapter.

    Args:
        inside: what stands for the adapter's own name; empty in files, `default.` in a living model.
    """
    return RenameTable(
        *(
            Rename(
                f"{LORA}model.*.lora_{x}.{inside}weight",
                f"language.model.*.lora_{x}.default.weight",
            )
            for x in "AB"
        )
    )


@dataclass(frozen=True)
class Lora:
    """An adapter in a folder.

    Attributes:
        file: its weights.
        words: `r`, `lora_alpha`, `lora_dropout`, and as `target_modules` the layers it sits on, named from their
            block on.
    """

    file: Path
    words: Mapping[str, Any]

    def merged(self) -> RenameTable:
        """Keys of the base model and the adapter, the adapter worked in."""
        words = self.words
        return merged_table(words["lora_alpha"] / words["r"], words["target_modules"])


def lora(file: Path, sizes: Sizes, config: Mapping[str, Any]) -> Lora:
    """The adapter of a file and of what `adapter_config.json` says.

    Raises:
        CheckpointError: they contradict each other, or it is an adapter of another kind.
    """
    given = {word: config.get(word) or None for word in _PLAIN}
    odd = [f"{word} {said!r}" for word, said in given.items() if said not in (None, _PLAIN[word])]
    if odd:
        raise CheckpointError(
            f"the adapter is not plain LoRA ({', '.join(odd)})",
            where="adapter_config.json",
            hint="multi_token writes LoRA without bias",
        )
    ranks = sorted({int(size[0]) for key, size in sizes.items() if _A.fullmatch(key)})
    if len(ranks) != 1:
        several = f"matrices of the ranks {ranks}" if ranks else "no matrices lora_A of one name"
        raise CheckpointError(
            f"the adapter has {several}",
            where=str(file),
            hint="one adapter of one rank can be read; save it with save_pretrained of peft",
        )
    (rank,) = ranks
    if int(config.get("r") or rank) != rank:
        raise CheckpointError(
            f"adapter_config.json says rank {config['r']}, the matrices have {rank}",
            hint="both files must come from one run",
        )
    alpha = float(config.get("lora_alpha") or 8)  # peft's default
    words = {
        "r": rank,
        # rsLoRA divides by the root of the rank: said as an alpha that is divided by the rank.
        "lora_alpha": alpha * rank**0.5 if config.get("use_rslora") else alpha,
        "lora_dropout": float(config.get("lora_dropout") or 0),
        "target_modules": adapted(sizes),
    }
    return Lora(file, words)


def adapted(keys: Iterable[str]) -> tuple[str, ...]:
    """The layers that an adapter sits on, named from their block on, in order of the file.

    Raises:
        CheckpointError: one that is in no block, or in some of the blocks alone.
    """
    blocks: dict[str, set[str]] = {}
    for key in keys:
        if (layer := _A.fullmatch(key)) is None:
            continue
        inner = re.fullmatch(re.escape(LORA) + r"model\.layers\.(\d+)\.(.+)", layer[1])
        if inner is None:
            raise CheckpointError(
                f"the adapter sits on {layer[1]}, which lies in no block of a language model",
                hint="multi_token adapts the linear layers of the blocks",
            )
        blocks.setdefault(inner[2], set()).add(inner[1])
    if len(set(map(frozenset, blocks.values()))) > 1:
        raise CheckpointError(
            "the adapter sits on other layers in some blocks than in the rest",
            hint="copy the adapter's file again",
        )
    return tuple(blocks)


_PLAIN: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    **dict.fromkeys(("fan_in_fan_out", "use_dora", "modules_to_save")),
    **dict.fromkeys(("rank_pattern", "alpha_pattern", "layer_replication")),
}
"""Words of `adapter_config.json` and what they say in a plain LoRA; None: nothing, an empty list or no."""
