"""xGen-MM's own words to a recipe and back: hub configurations, the README's settings, the tokenizer's files.

Everything here is arithmetic on small dictionaries. Sizes that transformers knows are asked of it; the rest
of the release's stands in `VISION` and in the perceiver's defaults, since its configuration files hold only
what differs from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from omnimix.checkpoints.base import looks_like, read_json
from omnimix.compose import recipe as recipes
from omnimix.compose.recipe import Recipe
from omnimix.connectors.perceiver import Perceiver
from omnimix.errors import CheckpointError
from omnimix.families.xgen_mm.names import ADDED
from omnimix.language.slow_llama import AddedToken, SlowLlama
from omnimix.media.tiling import GRIDS
from omnimix.prompts import template

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

MARKS = ("<image>", "<image placeholder>", "<|endofchunk|>")
"""Tokens that xGen-MM adds behind the language model's, in this order."""

GREY = int(0.5 * 255)  # the border of pad mode
HALF = (0.5, 0.5, 0.5)

_OF_A_FILE = ("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path")


@dataclass(frozen=True)
class Facts:
    """What makes one xGen-MM model differ from another.

    Attributes:
        text, vision: words of transformers' configurations that differ from its defaults.
        tokenizer: with all added tokens, the three marks included.
        latents: tokens that the resampler gives.
        resampler: depth, heads, dim_head and ff_mult.
        aspect: `anyres`, `pad`, or anything else for a plain resize.
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
        return marks_at(self.tokenizer)

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
    plain = AutoConfig.for_model(kind).to_dict()
    given = {word: value for word, value in words.items() if word != "model_type"}
    whole = AutoConfig.for_model(kind, **given).to_dict()
    odd = {word: whole[word] for word in plain if whole.get(word) != plain[word]}
    return {word: value for word, value in odd.items() if word not in _OF_A_FILE}


def build(facts: Facts, name: str, where: str) -> Recipe:
    """The recipe of a model.

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
    steps: list[dict[str, Any]] = [{"kind": "resize", "size": facts.side}]
    arrange = None
    if facts.aspect == "anyres":
        grids = [list(grid) for grid in facts.grids]
        steps = [{"kind": "anyres", "size": facts.side, "grids": grids}]
        arrange = "row_bands" if facts.sampling else "flat"
    elif facts.aspect == "pad":
        steps.insert(0, {"kind": "pad", "fill": [GREY] * 3})
    # SigLIP's pooling head is in the checkpoints and used by nobody.
    config = {"model_type": "siglip_vision_model", **facts.vision, "vision_use_head": False}
    pixels = {"kind": "normalize", "mean": list(facts.mean), "std": list(facts.std)}
    encoder = {"kind": "transformers", "config": config, "steps": [pixels]}
    connector = {"kind": "perceiver", "latents": facts.latents, **facts.resampler}
    return {
        "opens": "image",
        "place": "inline",
        "steps": steps,
        "arrange": arrange,
        "branches": [{"encoders": [encoder], "connector": connector}],
    }


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
        aspect=first["kind"] if first["kind"] in ("anyres", "pad") else "none",
        sampling=arrange.get("kind") != "flat",
        grids=tuple(tuple(grid) for grid in first.get("grids", GRIDS)),
        mean=tuple(pixels["mean"]),
        std=tuple(pixels["std"]),
        add_bos=recipe.template.bos,
        chat=recipe.template.system is not None,
    )


# --- the tokenizer ---


def tokenizer(folder: Path) -> tuple[SlowLlama, bool]:
    """The tokenizer of a folder with xGen-MM's marks, and whether it puts the begin token first.

    Raises:
        CheckpointError: a file is missing, or the tokens stand in another order.
    """
    words = read_json(folder / "tokenizer_config.json") if folder.is_dir() else None
    there = {
        "tokenizer.model": (folder / "tokenizer.model").is_file(),
        "tokenizer_config.json": words is not None,
    }
    missing = [name for name, is_there in there.items() if not is_there]
    if missing or words is None:
        raise CheckpointError(
            f"the tokenizer is missing: no {' and no '.join(missing)} ({looks_like(folder)})",
            where=str(folder),
            hint="copy both beside the checkpoint; tokenizer.json alone gives other ids",
        )
    added = [
        AddedToken(
            content=token["content"],
            id=int(i),
            lstrip=bool(token.get("lstrip")),
            rstrip=bool(token.get("rstrip")),
        )
        for i, token in words.get("added_tokens_decoder", {}).items()
    ]
    eos = _content(words.get("eos_token")) or "</s>"
    pad = _content(words.get("pad_token"))
    if pad is None or pad == eos:
        # A fill token that also ends would never be learned, so the reference adds one.
        pad = "<pad>"
    for text in (pad, *MARKS):
        if all(token.content != text for token in added):
            free = max((token.id for token in added), default=-1) + 1
            added.append(AddedToken(content=text, id=free))
    spec = SlowLlama(
        path="tokenizer.model",
        added_tokens=tuple(added),
        bos_token=_content(words.get("bos_token")) or "<s>",
        eos_token=eos,
        unk_token=_content(words.get("unk_token")) or "<unk>",
        pad_token=pad,
        extra_special_tokens=MARKS,
    )
    last = sorted(added, key=lambda token: token.id)[-len(MARKS) :]
    if (
        tuple(token.content for token in last) != MARKS
        or last[-1].id - last[0].id != len(MARKS) - 1
    ):
        raise CheckpointError(
            f"{', '.join(MARKS)} are not the last three tokens",
            where=str(folder),
            hint="use the tokenizer of the release or of the language model alone",
        )
    return spec, bool(words.get("add_bos_token"))


def marks_at(spec: SlowLlama) -> int:
    """The id of the first mark."""
    return {token.content: token.id for token in spec.added_tokens}[MARKS[0]]


def _content(token: Any) -> str | None:
    """A token in a tokenizer's configuration: its text, or a table that holds it."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return str(text) if text else None


def grids(pixels: Sequence[Sequence[int]], side: int, where: str) -> tuple[tuple[int, int], ...]:
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
