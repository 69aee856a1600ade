"""Prismatic's keys and our names, in both directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import torch

from omnimix.checkpoints.tables import Ignore, Positions, Rename, RenameTable, ResizedRows, Rule
from omnimix.compose.recipe import Recipe
from omnimix.families.prismatic.recipe import VISION, vision_of

IMAGE = "image.branches.0"
CHECKPOINT = "checkpoint"


def patch_of(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Side of a patch in pixels as a file of a timm ViT tells it; None where these are other keys."""
    patch = shapes.get("patch_embed.proj.weight")
    return patch[-1] if patch and "pos_embed" in shapes else None


def depth(encoder: Any) -> int:
    """Blocks of the whole trunk, before it is cut behind the block that is read."""
    return int(encoder.args.get("depth") or len(_released(encoder.model).blocks))


def patch(encoder: Any) -> int:
    """Side of a patch in pixels."""
    given = encoder.args.get("patch_size")
    return int(given or _released(encoder.model).patch_embed.patch_size[0])


@cache
def _released(name: str) -> Any:
    """An architecture as released, asked of timm without memory."""
    import timm

    with torch.device("meta"):
        return timm.create_model(name, pretrained=False)


def tables(recipe: Recipe, patches: Mapping[str, int] | None = None) -> dict[str, RenameTable]:
    """The table of the checkpoint, and that of each encoder's own file by its part's name.

    Args:
        patches: side of a patch of the encoders by part, where files told it.
    """
    encoders: tuple[Any, ...] = recipe.modalities["image"].branches[0].encoders
    found = {CHECKPOINT: checkpoint_table(recipe)}
    for i, part in enumerate(VISION[vision_of(recipe)][1]):
        side = (patches or {}).get(part) or patch(encoders[i])
        found[part] = vision_table(i, encoders[i], side)
    return found


def _trained(recipe: Recipe) -> list[Rule]:
    """Keys of projector and language model in `latest-checkpoint.pt`, nested dictionaries joined by dots."""
    theirs, ours = "model.projector.projector.", f"{IMAGE}.connector."
    rules: list[Rule] = [Rename(f"{theirs}*", f"{ours}*")]
    if recipe.modalities["image"].branches[0].connector.kind == "linear":
        # The reference holds a linear projector as the layer itself, an MLP as a sequence with numbers.
        rules = [Rename(f"{theirs}{name}", f"{ours}0.{name}") for name in ("weight", "bias")]
    return [
        *rules,
        Ignore("model.llm_backbone.llm.*.rotary_emb.inv_freq", "computed, not learned"),
        Rename("model.llm_backbone.llm.*", "language.*"),
    ]


def checkpoint_table(recipe: Recipe) -> RenameTable:
    """Keys of `latest-checkpoint.pt` as the reference loads it."""
    unused = Ignore("model.vision_backbone.*", "the reference loads stock encoders (spec, quirk 6)")
    return RenameTable(*_trained(recipe), unused)


def trained_table(recipe: Recipe) -> RenameTable:
    """Keys of everything that a full finetune trains, the encoders' names included."""
    encoders: tuple[Any, ...] = recipe.modalities["image"].branches[0].encoders
    rules = _trained(recipe)
    for i, part in enumerate(VISION[vision_of(recipe)][1]):
        prefix = f"model.vision_backbone.{featurizer(part)}."
        rules += vision_table(i, encoders[i], patch(encoders[i]), prefix).rules
    return RenameTable(*rules)


def featurizer(part: str) -> str:
    """What the trainer calls the encoder of a part."""
    return "featurizer" if part == "vision" else f"{part}_featurizer"


def parameter_names(recipe: Recipe, names: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The trainer's parameter names to ours, and those that have no counterpart here, with the reason."""
    plan = trained_table(recipe).reading([f"model.{name}" for name in names])
    known = {move.foreign[0].removeprefix("model."): move.native[0] for move in plan.moves}
    unused = {key.removeprefix("model."): reason for key, reason in plan.unused.items()}
    return known, unused | {key.removeprefix("model."): "unknown name" for key in plan.unknown}


def vision_table(index: int, encoder: Any, patch: int, prefix: str = "") -> RenameTable:
    """Keys of a timm state dict (behind `prefix`) for the encoder at a place of the branch."""
    ours = f"{IMAGE}.encoders.{index}.trunk."
    side = int(encoder.img_size) // patch
    return RenameTable(
        Positions(f"{prefix}pos_embed", f"{ours}pos_embed", (side, side)),
        Ignore(f"{prefix}attn_pool.*", "the pooling head is not used"),
        Ignore(f"{prefix}head.*", "the classifier is not used"),
        Ignore(f"{prefix}fc_norm.*", "the classifier's norm is not used"),
        Ignore(f"{prefix}mask_token", "used in pretraining only"),
        Ignore(f"{prefix}blocks.{depth(encoder) - 1}.*", "lies behind the block that is read"),
        Rename(f"{prefix}*", f"{ours}*"),
    )


def llm_table(recipe: Recipe) -> RenameTable:
    """Keys of the base language model's own files, its embeddings resized as the trainer does."""
    words = recipe.language.config
    rows, std = int(words["vocab_size"]), float(words.get("initializer_range", 0.02))
    # New rows are drawn as transformers does, a bias of theirs is zero.
    resized = {"model.embed_tokens.weight": std, "lm_head.weight": std, "lm_head.bias": 0.0}
    return RenameTable(
        *(
            ResizedRows(key, f"language.{key}", rows, spread, seed)
            for seed, (key, spread) in enumerate(resized.items())
        ),
        Ignore("*.rotary_emb.inv_freq", "computed, not learned"),
        Rename("*", "language.*"),
    )
