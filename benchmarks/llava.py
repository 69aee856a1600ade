"""Two models of one size and the same weights: transformers' LLaVA class, and ours as a recipe; and rows for both.

Rows are made here, ids, learned places and pictures alike for all, so that what is compared is the step alone.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnimix.compose import recipe as recipes
from omnimix.compose.batch import Batch, collate
from omnimix.compose.model import MultimodalLM
from omnimix.compose.recipe import Recipe
from omnimix.compose.sequence import IGNORE, Item, Sequence

HOLE = 3
"""The id that stands where the peer puts features."""


@dataclass(frozen=True)
class Size:
    """Width, layers, heads and inner width of the language model and of the tower; pixels and patch."""

    language: tuple[int, int, int, int]
    tower: tuple[int, int, int, int]
    pixels: int
    patch: int
    vocabulary: int = 32000
    batch: int = 8

    @property
    def tokens(self) -> int:
        """Of a picture."""
        return (self.pixels // self.patch) ** 2


SIZES = {
    "tiny": Size((64, 2, 4, 128), (32, 2, 2, 64), 56, 14, 500, 4),
    "30m": Size((384, 10, 6, 1024), (384, 12, 6, 1536), 224, 16),
    "135m": Size((576, 30, 9, 1536), (384, 12, 6, 1536), 224, 16, 49152),
    "1b": Size((2048, 22, 32, 5632), (1024, 24, 16, 4096), 336, 14),
}
LORA = {"r": 16, "lora_alpha": 32}
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def language_words(size: Size) -> dict[str, Any]:
    """Words of the language model's configuration."""
    width, layers, heads, inner = size.language
    return {
        "model_type": "llama",
        "vocab_size": size.vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def tower_words(size: Size) -> dict[str, Any]:
    """Words of the tower's configuration."""
    width, layers, heads, inner = size.tower
    return {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": size.pixels,
        "patch_size": size.patch,
    }


def peer(size: Size) -> Any:
    """transformers' class, with fresh weights in float32."""
    from transformers import AutoConfig, LlavaConfig, LlavaForConditionalGeneration

    words = {"text_config": language_words(size), "vision_config": tower_words(size)}
    made = {name: AutoConfig.for_model(**own) for name, own in words.items()}
    config = LlavaConfig(**made, image_token_index=HOLE, tie_word_embeddings=False)
    return LlavaForConditionalGeneration(config)


def recipe(size: Size, lora: bool = False) -> Recipe:
    """The same model in our words."""
    encoder = {
        "kind": "transformers",
        "config": tower_words(size),
        "layer": -2,
        "finish": ["drop_prefix"],
    }
    words = {
        "name": "llava",
        "about": "LLaVA's shape",
        "language": {"kind": "causal_lm", "config": language_words(size)},
        "tokenizer": {
            "kind": "fast",
            "path": "nano.tokenizer.json",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
        },
        "template": "plain",
        "modalities": {
            "image": {
                "opens": {"kind": "image"},
                "steps": [{"kind": "resize", "size": size.pixels}],
                "branches": [{"encoders": [encoder], "connector": {"kind": "mlp"}}],
            }
        },
        "adapters": [{"part": "language", **LORA}] if lora else [],
    }
    return recipes.parse(words, "benchmarks")


def ours(size: Size, theirs: Any, lora: bool = False) -> MultimodalLM:
    """Our model with the weights of the peer."""
    model = MultimodalLM.from_recipe(recipe(size, lora))
    inner = theirs.model
    names = {f"model.{n}": t for n, t in inner.language_model.state_dict().items()}
    names |= {f"lm_head.{n}": t for n, t in theirs.lm_head.state_dict().items()}
    if lora:
        names = {_under_adapter(n): t for n, t in names.items()}
    left = model.language.load_state_dict(names, strict=False)
    assert not left.unexpected_keys and all("lora_" in n for n in left.missing_keys)
    branch = model.image.branches[0]
    tower = branch.encoders[0].tower
    stored = inner.vision_tower.state_dict()
    found = tower.load_state_dict({n: stored[n] for n in tower.state_dict()}, strict=False)
    assert not found.missing_keys
    projector = inner.multi_modal_projector
    for number, layer in ((0, projector.linear_1), (2, projector.linear_2)):
        branch.connector.get_submodule(str(number)).load_state_dict(layer.state_dict())
    return model


def _under_adapter(name: str) -> str:
    *before, last = name.split(".")
    wrapped = before and before[-1] in TARGETS
    return ".".join([*before, "base_layer", last] if wrapped else [*before, last])


@dataclass(frozen=True)
class Row:
    """Ids with holes for the picture in front, labels, and the picture's bytes."""

    ids: np.ndarray
    labels: np.ndarray
    picture: Tensor

    def sequence(self, features: Tensor | None = None) -> Sequence:
        """As our weaver gives it, or with what the tower gave for the picture before."""
        holes = self.ids == HOLE
        size = (self.picture.shape[-1], self.picture.shape[-2])
        item = Item((self.picture[None],), int(holes.sum()), size)
        if features is not None:
            item = replace(item, inputs=(features,), encoded=True, tile=size)
        return Sequence(
            np.where(holes, 0, self.ids), self.labels, holes.astype(np.int64), {"image": [item]}
        )


def rows(size: Size, count: int, alike: bool, seed: int = 0) -> list[Row]:
    """Rows of 20 to 600 text tokens as instruction data has them (many short, few long), or of 160 each.

    About a third of the places behind the picture is learned.
    """
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        text = 160 if alike else int(np.clip(draw.lognormal(4.7, 0.9), 20, 600))
        own = draw.integers(5, size.vocabulary, text)
        own[0] = 1
        ids = np.concatenate([own[:1], np.full(size.tokens, HOLE), own[1:]])
        labels = np.where(np.arange(len(ids)) < len(ids) - 0.6 * text, IGNORE, ids)
        picture = draw.integers(0, 255, (3, size.pixels, size.pixels), dtype=np.uint8)
        made.append(Row(ids, labels, torch.from_numpy(picture)))
    return made


def our_batch(
    chosen: Many[Row], whole: Recipe, pack: bool, warm: dict[int, Tensor] | None = None
) -> Batch:
    """As the training loop makes it; `warm` holds features by the `id` of their row."""
    multiple = 1 if pack else 16
    woven = [row.sequence((warm or {}).get(id(row))) for row in chosen]
    return collate(woven, whole, 0, pack=pack, multiple=multiple)


@torch.no_grad()
def features(model: MultimodalLM, many: Many[Row]) -> dict[int, Tensor]:
    """What the tower gives for every row, as a feature cache keeps it."""
    branch = model.image.branches[0]
    return {
        id(row): branch.encode(0, row.picture[None].to(model.device), None).cpu() for row in many
    }


def peer_batch(chosen: Many[Row]) -> dict[str, Tensor]:
    """Padded on the right to the longest, as the peers' collators do."""
    width = max(len(row.ids) for row in chosen)
    ids, labels = np.zeros((len(chosen), width), int), np.full((len(chosen), width), IGNORE)
    mask = np.zeros_like(ids)
    for number, row in enumerate(chosen):
        count = len(row.ids)
        ids[number, :count], labels[number, :count], mask[number, :count] = row.ids, row.labels, 1
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
        "labels": torch.from_numpy(labels),
        "pixel_values": torch.stack([row.picture for row in chosen]).float() / 255,
    }
