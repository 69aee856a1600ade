"""Every shipped recipe with tiny parts in the same places: branches, frames, tiles, senses and prompts stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omnimix import config
from omnimix.compose import recipe as recipes
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.types import Box, Media, Part, Sample
from tests.compose import senses
from tests.compose.conversations import picture, talk
from tests.conftest import TINY

SIZES = {224: 56, 256: 64, 336: 56, 384: 56, 448: 112, 672: 168}
"""Sides in pixels; patches stay, so that a tile has 16 of them where it had hundreds."""

_VIT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
_TOWER = {**_VIT, "num_attention_heads": 2}
_LANGUAGE: dict[str, Any] = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 720},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
_ENCODERS: dict[str, dict[str, Any]] = {
    "transformers": {"config": _TOWER},
    "blip2_qformer": {
        "num_query_tokens": 4,
        "vision_config": _TOWER,
        "qformer_config": {**_TOWER, "encoder_hidden_size": 16},
    },
    "points_boxes": {"width": 16},
}
_CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [4, 8, 12, 16]}
_PERCEIVER = {"latents": 4, "depth": 1, "heads": 2, "dim_head": 4}


def shrunk(name: str) -> Recipe:
    """A shipped recipe with tiny parts and the tokenizer of nano."""
    if name == "nano":
        return recipes.load(name, TINY)
    words = recipes.with_base(config.read_yaml(recipes.shipped(name)), name)
    nano = config.read_yaml(recipes.shipped("nano"))
    language = words["language"]
    language["config"] |= _LANGUAGE
    if "head" in language:
        language["head"] |= {"width": 712}
    words["tokenizer"] = nano["tokenizer"]
    known = senses.recipe_of_senses().dump()["modalities"]
    for sense, modality in words["modalities"].items():
        if modality is None:
            continue
        if sense in known and sense != "image":
            words["modalities"][sense] = {**modality, **known[sense]}
        else:
            words["modalities"][sense] = _smaller(modality)
    return recipes.parse(words, name)


def _smaller(words: Any) -> Any:
    """Sides and parts of a modality, whatever it is built of."""
    if isinstance(words, list):
        return [_smaller(one) for one in words]
    if not isinstance(words, dict):
        return words
    done = {
        key: SIZES[value] if key in _SIDES and value in SIZES else _smaller(value)
        for key, value in words.items()
    }
    kind = done.get("kind")
    if kind == "timm":
        small = _CONVNEXT if done["model"].startswith("convnext") else {"embed_dim": 24, "depth": 2}
        heads = {} if small is _CONVNEXT else {"num_heads": 2}
        done["args"] = {**done.get("args", {}), **small, **heads}
    if kind == "perceiver":
        done |= _PERCEIVER
    for key, value in _ENCODERS.get(str(kind), {}).items():
        done[key] = {**done[key], **value} if isinstance(value, dict) else value
    return done


_SIDES = ("size", "img_size", "image_size")


def processor_of(recipe: Recipe, folder: Path) -> Processor:
    """Its processor; the files that steps name are written into the folder."""
    for file in recipe.files():
        senses.write_tokenizer(folder / file)
    return Processor.from_recipe(recipe, folder)


def unlike(recipe: Recipe) -> list[Sample]:
    """Three questions of different length and items: one of each sense, none, and as many as there are places."""
    return [
        talk((*_one_of_each(recipe, 0), "What is this, and why?")),
        talk("Hello, how are you today?"),
        talk((*_one_of_each(recipe, 1), *_more(recipe), "?")),
    ]


def _one_of_each(recipe: Recipe, seed: int) -> list[Part]:
    things: dict[str, Media] = {
        "image": picture(40, 30, seed),
        "region": Media.region(Box(1, 1, 20 - seed, 20)),
        "speech": senses.speech(seed),
        "sound": senses.sound(seed),
        "video": senses.video(seed),
        "document": senses.document(9 + 30 * seed),
        "imagebind": Media("imagebind", senses.picture(seed)),
    }
    return [things[name] for name in recipe.modalities]


def _more(recipe: Recipe) -> list[Part]:
    if recipe.modalities.get("image") is None or recipe.modalities["image"].limit == 1:
        return []
    return ["and", picture(30, 60, 5)]
