"""From xGen-MM's own words to a recipe: hub configurations, tokenizer files, the README's settings.

Everything here is arithmetic on small dictionaries; weights are `xgen_mm`'s concern. The sizes of the
release stand in `TEXT`, `VISION` and `RESAMPLER`, since its configuration files hold only what differs from
them (golden/specs/xgen_mm.md sections 1, 2 and 6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnimix.checkpoints.base import looks_like, read_json
from omnimix.compose import recipe as recipes
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError
from omnimix.language.slow_llama import AddedToken, SlowLlama
from omnimix.media.tiling import GRIDS
from omnimix.prompts import template

LM_ID = "microsoft/Phi-3-mini-4k-instruct"
VISION_ID = "google/siglip-so400m-patch14-384"

TEXT: dict[str, Any] = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "pad_token_id": 32000,
}
"""Phi-3 mini, as transformers' Phi3Config has it."""

_TEXT_WORDS = (*TEXT, "num_key_value_heads", "sliding_window", "hidden_act", "rope_scaling")

VISION: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
"""SigLIP so400m/14 at 384 pixels."""

_VISION_WORDS = (*VISION, "hidden_act", "layer_norm_eps", "num_channels")

RESAMPLER = {"depth": 6, "heads": 16, "dim_head": 96, "ff_mult": 4}
"""Hard-coded in the reference, in no configuration."""

MARKS = ("<image>", "<image placeholder>", "<|endofchunk|>")
"""Tokens that xGen-MM adds behind the language model's, in this order."""

GREY = int(0.5 * 255)  # the border of pad mode


@dataclass(frozen=True)
class Facts:
    """What makes one xGen-MM model differ from another.

    Attributes:
        text, vision: words of transformers' configurations.
        tokenizer: with all added tokens, the three marks included.
        own_tokens: tokens before the marks (`initial_tokenizer_len`).
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
    own_tokens: int
    latents: int = 128
    resampler: Mapping[str, int] = field(default_factory=lambda: RESAMPLER)
    aspect: str = "anyres"
    sampling: bool = True
    grids: Sequence[tuple[int, int]] = GRIDS
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    add_bos: bool = False
    chat: bool = True

    @property
    def rows(self) -> int:
        """Rows of the language model's own tables, the unused ones included."""
        return int(self.text["vocab_size"])


def build(facts: Facts, name: str, where: str) -> Recipe:
    """The recipe of a model.

    Raises:
        RecipeError: words that do not fit together.
    """
    about = f"xGen-MM, {'conversations' if facts.chat else 'base release'}, images: {facts.aspect}."
    words: dict[str, Any] = {
        "name": name,
        "about": about,
        "language": {
            "kind": "causal_lm",
            "config": language(facts),
            "head": {"bias": True, "width": facts.own_tokens + len(MARKS)},
        },
        "tokenizer": facts.tokenizer.dump(),
        "template": _template(facts),
        "modalities": {"image": _image(facts)},
    }
    return recipes.parse(words, where)


def language(facts: Facts) -> dict[str, Any]:
    """The language model's configuration with one table for own, added and unused rows."""
    words = {"model_type": "phi3", **facts.text, "vocab_size": facts.rows + len(MARKS)}
    if words.get("sliding_window") is not None:
        # The reference hides keys further back than the window (golden/specs/xgen_mm.md section 1);
        # transformers 5 counts the query itself, so its window is one wider.
        words["sliding_window"] = int(words["sliding_window"]) + 1
    return words


def _template(facts: Facts) -> Any:
    name = "phi3" if facts.chat else "xgen_base"
    if not facts.add_bos:
        return name
    return {**template.named(name).dump(), "bos": True}


def _image(facts: Facts) -> dict[str, Any]:
    side = int(facts.vision["image_size"])
    steps: list[dict[str, Any]] = [{"kind": "resize", "size": side}]
    if facts.aspect == "anyres":
        steps = [{"kind": "anyres", "size": side, "grids": [list(grid) for grid in facts.grids]}]
    elif facts.aspect == "pad":
        steps.insert(0, {"kind": "pad", "fill": [GREY] * 3})
    arrange = None
    if facts.aspect == "anyres":
        arrange = "row_bands" if facts.sampling else "flat"
    return {
        "opens": "image",
        "place": "inline",
        "steps": steps,
        "arrange": arrange,
        "branches": [
            {
                "encoders": [
                    {
                        "kind": "transformers",
                        "config": {
                            "model_type": "siglip_vision_model",
                            **facts.vision,
                            "vision_use_head": False,  # in the checkpoints, used by nobody
                        },
                        "steps": [
                            {"kind": "normalize", "mean": list(facts.mean), "std": list(facts.std)}
                        ],
                    }
                ],
                "connector": {"kind": "perceiver", "latents": facts.latents, **facts.resampler},
            }
        ],
    }


def text_words(found: Mapping[str, Any]) -> dict[str, Any]:
    """Phi-3's configuration out of one that holds only differences from the class defaults."""
    words = {**TEXT, **{word: found[word] for word in _TEXT_WORDS if word in found}}
    words.setdefault("num_key_value_heads", words["num_attention_heads"])
    return {word: value for word, value in words.items() if value is not None}


def vision_words(found: Mapping[str, Any]) -> dict[str, Any]:
    """The vision tower's configuration out of that of a whole SigLIP (or of the tower alone)."""
    inner = found.get("vision_config", found)
    defaults = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
    }
    return {**defaults, **{word: inner[word] for word in _VISION_WORDS if word in inner}}


def tokenizer(folder: Path) -> tuple[SlowLlama, int, bool]:
    """The tokenizer of a folder with xGen-MM's marks, the number of tokens before them, and `add_bos`.

    Raises:
        CheckpointError: a file is missing, or the tokens stand in another order.
    """
    words = read_json(folder / "tokenizer_config.json") if folder.is_dir() else None
    missing = [
        name
        for name, there in {
            "tokenizer.model": (folder / "tokenizer.model").is_file(),
            "tokenizer_config.json": words is not None,
        }.items()
        if not there
    ]
    if missing or words is None:
        raise CheckpointError(
            f"the tokenizer is missing: no {' and no '.join(missing)} ({looks_like(folder)})",
            where=str(folder),
            hint="copy both beside the checkpoint; tokenizer.json alone gives other ids",
        )
    added = [
        AddedToken(
            text=token["content"],
            id=int(i),
            lstrip=bool(token.get("lstrip")),
            rstrip=bool(token.get("rstrip")),
        )
        for i, token in words.get("added_tokens_decoder", {}).items()
    ]
    ids = {token.text: token.id for token in added}
    free = max(ids.values(), default=-1) + 1
    eos = _content(words.get("eos_token")) or "</s>"
    pad = _content(words.get("pad_token"))
    if pad is None or pad == eos:
        # A fill token that also ends would never be learned, so the reference adds one.
        pad = "<pad>"
    for text in (pad, *MARKS):
        if text not in ids:
            ids[text] = free
            added.append(AddedToken(text=text, id=free))
            free += 1
    first = ids[MARKS[0]]
    if [ids[text] for text in MARKS] != [first, first + 1, first + 2] or free != first + len(MARKS):
        raise CheckpointError(
            f"{', '.join(MARKS)} are not the last three tokens",
            where=str(folder),
            hint="use the tokenizer of the release or of the language model alone",
        )
    spec = SlowLlama(
        path="tokenizer.model",
        added=tuple(added),
        bos=_content(words.get("bos_token")) or "<s>",
        eos=eos,
        unk=_content(words.get("unk_token")) or "<unk>",
        pad=pad,
        marks=MARKS,
    )
    return spec, first, bool(words.get("add_bos_token"))


def _content(token: Any) -> str | None:
    """A token in a tokenizer's configuration: its text, or a table that holds it."""
    found = token.get("content") if isinstance(token, Mapping) else token
    return str(found) if found else None


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
