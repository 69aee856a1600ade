"""xGen-MM's own words to a recipe and back.

Sizes that transformers knows are asked of it; the rest of the release's stands in `VISION` and in the
perceiver's defaults, since its configuration files hold only what differs from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoConfig

from omnimix.compose import recipe as recipes
from omnimix.compose.recipe import Recipe
from omnimix.connectors.perceiver import Perceiver
from omnimix.errors import CheckpointError
from omnimix.families.xgen_mm.names import ADDED
from omnimix.families.xgen_mm.tokenizer import mark_ids
from omnimix.language.slow_llama import SlowLlama
from omnimix.media.steps import Pad, Resize
from omnimix.media.tiles import Step
from omnimix.media.tiling import GRIDS, AnyRes
from omnimix.prompts import template
from omnimix.registry import did_you_mean

LM_ID = "microsoft/Phi-3-mini-4k-instruct"
VISION_ID = "google/siglip-so400m-patch14-384"

VISION: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
"""SigLIP so400m/14 at 384 pixels, so that it is known without its files."""

RESAMPLER: dict[str, int] = {
    word: getattr(Perceiver(), word) for word in ("depth", "heads", "dim_head", "ff_mult")
}
"""Sizes that are hard-coded in the reference and stand in no configuration."""

GREY = int(0.5 * 255)  # the border of pad mode
HALF = (0.5, 0.5, 0.5)

ASPECTS = {
    "anyres": "anyres",
    "anyres-legacy": "anyres",
    "pad": "pad",
    "none": "none",
    "None": "none",
}
"""Words of `image_aspect_ratio`, and how a picture is cut: a release that says none resizes it."""

_OF_A_FILE = {
    *(
        "architectures",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "_name_or_path",
        "model_type",
    )
}


@dataclass(frozen=True)
class Facts:
    """What makes one xGen-MM model differ from another.

    Attributes:
        text, vision: words of transformers' configurations that differ from its defaults.
        tokenizer: with all added tokens, the three marks included.
        latents: tokens that the resampler gives.
        resampler: depth, heads, dim_head and ff_mult.
        aspect: `anyres`, `pad`, or `none` for a plain resize.
        sampling: whether each group of any-res features passes the resampler alone.
        grids: of any-res, columns and rows.
        mean, std: of the pixels.
        add_bos: whether the tokenizer puts the begin token first.
        chat: whether the model follows conversations; the base release does not.
    """

    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    tokenizer: SlowLlama
    latents: int = 128
    resampler: Mapping[str, int] = field(default_factory=lambda: RESAMPLER)
    aspect: str = "anyres"
    sampling: bool = True
    grids: Sequence[tuple[int, int]] = GRIDS
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF
    add_bos: bool = False
    chat: bool = True

    @property
    def used(self) -> int:
        """Tokens before the marks (`initial_tokenizer_len`), so many rows of the tables are used."""
        return mark_ids(self.tokenizer)[0]

    @property
    def side(self) -> int:
        """Of a tile in pixels."""
        return int(self.tower.image_size)

    @property
    def tower(self) -> Any:
        """The vision tower's configuration, whole."""
        return tower(self.vision)

    @property
    def phi(self) -> Any:
        """The language model's configuration as the reference has it, whole."""
        return AutoConfig.for_model("phi3", **self.text)


def tower(words: Mapping[str, Any]) -> Any:
    """A vision tower's whole configuration."""
    return AutoConfig.for_model("siglip_vision_model", **words)


def differing(kind: str, words: Mapping[str, Any]) -> dict[str, Any]:
    """Of a configuration what transformers would not say by itself."""
    given = {word: value for word, value in words.items() if word not in _OF_A_FILE}
    plain, whole = (AutoConfig.for_model(kind, **some).to_dict() for some in ({}, given))
    return {
        word: whole[word]
        for word in plain
        if word not in _OF_A_FILE and whole.get(word) != plain[word]
    }


def build(facts: Facts, name: str = "xgen_mm", where: str = "xGen-MM") -> Recipe:
    """The recipe of a model.

    Args:
        where: its words come from, for messages.

    Raises:
        RecipeError: words that do not fit together.
    """
    about = f"xGen-MM, {'conversations' if facts.chat else 'base release'}, images: {facts.aspect}."
    head = {"bias": True, "width": facts.used + ADDED}
    words: dict[str, Any] = {
        "name": name,
        "about": about,
        "language": {"kind": "causal_lm", "config": _language(facts), "head": head},
        "tokenizer": facts.tokenizer.dump(),
        "template": _template(facts),
        "modalities": {"image": _image(facts)},
    }
    return recipes.parse(words, where)


def _language(facts: Facts) -> dict[str, Any]:
    """The language model's configuration with one table for own, added and unused rows."""
    phi = facts.phi
    words = {"model_type": "phi3", **facts.text, "vocab_size": phi.vocab_size + ADDED}
    if phi.sliding_window is not None:
        # The reference hides keys further back than the window; transformers 5 counts the query itself,
        # so its window is one wider.
        words["sliding_window"] = int(phi.sliding_window) + 1
    return words


def _template(facts: Facts) -> Any:
    name = "phi3" if facts.chat else "xgen_base"
    return {**template.named(name).dump(), "bos": True} if facts.add_bos else name


def _image(facts: Facts) -> dict[str, Any]:
    # SigLIP's pooling head is in the checkpoints and used by nobody.
    config = {"model_type": "siglip_vision_model", **facts.vision, "vision_use_head": False}
    pixels = {"kind": "normalize", "mean": list(facts.mean), "std": list(facts.std)}
    encoder = {"kind": "transformers", "config": config, "steps": [pixels]}
    connector = {"kind": "perceiver", "latents": facts.latents, **facts.resampler}
    arrange = "row_bands" if facts.sampling else "flat"
    return {
        "opens": "image",
        "place": "inline",
        "steps": [step.dump() for step in picture_steps(facts.aspect, facts.side, facts.grids)],
        "arrange": arrange if facts.aspect == "anyres" else None,
        "branches": [{"encoders": [encoder], "connector": connector}],
    }


def aspect_of(said: Any, where: str) -> str:
    """`anyres`, `pad` or `none` of a word `image_aspect_ratio`.

    Raises:
        CheckpointError: another word; the original would silently resize the picture.
    """
    if str(said) not in ASPECTS:
        hint = did_you_mean(str(said), [word for word in ASPECTS if word != "None"])
        raise CheckpointError(f"unknown image_aspect_ratio {said!r}", where=where, hint=hint)
    return ASPECTS[str(said)]


def picture_steps(
    aspect: str, side: int, grids: Sequence[tuple[int, int]] = GRIDS
) -> Sequence[Step]:
    """What is done with a picture before it is normalised."""
    if aspect == "anyres":
        return [AnyRes(size=side, grids=tuple(grids))]
    resize = Resize(size=side)
    return [Pad(fill=(GREY,) * 3), resize] if aspect == "pad" else [resize]


def facts_of(recipe: Recipe) -> Facts:
    """The inverse of `build`; whether it is one, the base of families proves.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: another kind of model.
    """
    spec = recipe.tokenizer
    if not isinstance(spec, SlowLlama):
        raise ValueError("the tokenizer is no slow_llama")
    text = dict(recipe.language.config)
    text["vocab_size"] = int(text["vocab_size"]) - ADDED
    if text.get("sliding_window") is not None:
        text["sliding_window"] = int(text["sliding_window"]) - 1
    image = recipe.modalities["image"].dump()
    branch, first, arrange = image["branches"][0], image["steps"][0], image.get("arrange") or {}
    encoder, connector = branch["encoders"][0], Perceiver(**branch["connector"])
    pixels = encoder["steps"][0]
    vision = {word: value for word, value in encoder["config"].items() if word != "vision_use_head"}
    return Facts(
        text=differing("phi3", text),
        vision=differing("siglip_vision_model", vision),
        tokenizer=spec,
        latents=connector.latents,
        resampler={word: getattr(connector, word) for word in RESAMPLER},
        aspect=ASPECTS.get(first["kind"], "none"),
        sampling=arrange.get("kind") != "flat",
        grids=tuple(tuple(grid) for grid in first.get("grids", GRIDS)),
        mean=tuple(pixels["mean"]),
        std=tuple(pixels["std"]),
        add_bos=recipe.template.bos,
        chat=recipe.template.system is not None,
    )


def grids_in_tiles(
    pixels: Sequence[Sequence[int]], side: int, where: str
) -> tuple[tuple[int, int], ...]:
    """Any-res grids in tiles from grids in pixels.

    Raises:
        CheckpointError: one that is no multiple of the tile.
    """
    for width, height in pixels:
        if width % side or height % side:
            raise CheckpointError(
                f"the grid {width} x {height} is not made of tiles of {side} pixels",
                where=where,
                hint="the grids and the vision encoder must belong together",
            )
    return tuple((width // side, height // side) for width, height in pixels)
