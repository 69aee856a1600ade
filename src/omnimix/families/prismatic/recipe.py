"""What a run of Prismatic says, and the recipe that this is: its words to ours and back.

Facts, numbers and quirks: golden/specs/prismatic.md. What timm knows of an encoder (mean, std, crop) is asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from omnimix import config
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError
from omnimix.language.tokenizer import FastTokenizer
from omnimix.registry import did_you_mean

_DINO = "vit_large_patch14_reg4_dinov2.lvd142m"

VISION: dict[str, tuple[int, dict[str, str]]] = {
    "clip-vit-b": (224, {"vision": "vit_base_patch16_clip_224.openai"}),
    "clip-vit-l": (224, {"vision": "vit_large_patch14_clip_224.openai"}),
    "clip-vit-l-336px": (336, {"vision": "vit_large_patch14_clip_336.openai"}),
    "siglip-vit-b16-224px": (224, {"vision": "vit_base_patch16_siglip_224"}),
    "siglip-vit-b16-256px": (256, {"vision": "vit_base_patch16_siglip_256"}),
    "siglip-vit-b16-384px": (384, {"vision": "vit_base_patch16_siglip_384"}),
    "siglip-vit-so400m": (224, {"vision": "vit_so400m_patch14_siglip_224"}),
    "siglip-vit-so400m-384px": (384, {"vision": "vit_so400m_patch14_siglip_384"}),
    "dinov2-vit-l": (224, {"vision": _DINO}),
    "in1k-vit-l": (224, {"vision": "vit_large_patch16_224.augreg_in21k_ft_in1k"}),
    "dinoclip-vit-l-336px": (336, {"dino": _DINO, "clip": "vit_large_patch14_clip_336.openai"}),
    "dinosiglip-vit-so-224px": (224, {"dino": _DINO, "siglip": "vit_so400m_patch14_siglip_224"}),
    "dinosiglip-vit-so-384px": (384, {"dino": _DINO, "siglip": "vit_so400m_patch14_siglip_384"}),
}
"""Picture size in pixels, and for each encoder its part's name and timm's name; channels in this order."""


@dataclass(frozen=True)
class Llm:
    """One language model of the family.

    Attributes:
        kind: its `model_type`.
        hub: where its configuration and tokenizer come from.
        template: the style of its prompts.
        width: of its embeddings, which tells the sizes of a kind apart.
        pad: the token that is added for padding.
    """

    kind: str
    hub: str
    template: str
    width: int = 4096
    pad: str = "<PAD>"

    @property
    def own_begin(self) -> bool:
        """Whether its tokenizer puts a begin token in front and a "▁" before every stretch, as Llama's do."""
        return self.kind != "phi"


LLMS: dict[str, Llm] = {
    "llama2-7b-pure": Llm("llama", "meta-llama/Llama-2-7b-hf", "pure"),
    "llama2-13b-pure": Llm("llama", "meta-llama/Llama-2-13b-hf", "pure", 5120),
    "llama2-7b-chat": Llm("llama", "meta-llama/Llama-2-7b-chat-hf", "llama2_chat"),
    "llama2-13b-chat": Llm("llama", "meta-llama/Llama-2-13b-chat-hf", "llama2_chat", 5120),
    "vicuna-v15-7b": Llm("llama", "lmsys/vicuna-7b-v1.5", "vicuna_v15"),
    "vicuna-v15-13b": Llm("llama", "lmsys/vicuna-13b-v1.5", "vicuna_v15", 5120),
    "mistral-v0.1-7b-pure": Llm("mistral", "mistralai/Mistral-7B-v0.1", "pure"),
    "mistral-v0.1-7b-instruct": Llm(
        "mistral", "mistralai/Mistral-7B-Instruct-v0.1", "mistral_prismatic"
    ),
    "phi-2-3b": Llm("phi", "microsoft/phi-2", "phi", 2560, "<|pad|>"),
}

PROJECTORS = {"fused-gelu-mlp": "fused_mlp", "gelu-mlp": "mlp", "linear": "linear"}
"""Suffix of the architecture's name to connector; a prefix `no-align+` only says that align is skipped."""

STRATEGIES = {"resize-naive": "resize", "resize-crop": "resize_crop", "letterbox": "letterbox"}
"""Way of making pictures square to the step that does it."""

MULTIPLE = 64
"""The trainer resizes the embeddings to a multiple of this many rows."""

# What transformers writes into a configuration that says nothing about the network, and the pad token: a
# padding row in the embeddings would get no gradient, and the trainer's own pad token comes later.
_NOISE = frozenset(
    {"architectures", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "auto_map"}
    | {"pad_token_id"}
)


@dataclass(frozen=True)
class Words:
    """What a run and its parts say.

    Attributes:
        model_id, vision_backbone_id, llm_backbone_id, arch_specifier, image_resize_strategy, llm_max_length:
            the model section of config.json.
        llm: the language model's configuration.
        tokens: of its tokenizer, the pad token included.
        tidy: whether its tokenizer takes spaces before punctuation out of decoded text.
        patches: places that a picture takes.
        image_size: side of a picture; None for that of the id.
        vision: for each encoder's part, timm arguments that differ from the released architecture.
    """

    model_id: str
    vision_backbone_id: str
    llm_backbone_id: str
    arch_specifier: str
    image_resize_strategy: str
    llm_max_length: int
    llm: Mapping[str, Any]
    tokens: int
    tidy: bool
    patches: int
    image_size: int | None = None
    vision: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def size(self) -> int:
        """Side of a picture in pixels."""
        return self.image_size or VISION[self.vision_backbone_id][0]

    @property
    def known_llm(self) -> Llm:
        """What is known of the language model by its id."""
        return LLMS[self.llm_backbone_id]


def recipe(words: Words) -> Recipe:
    """The recipe of a run."""
    vision, projector = words.vision_backbone_id, projector_of(words.arch_specifier)
    image = {
        "opens": "image",
        "place": "second",
        "limit": 1,
        "branches": [
            {"encoders": list(_encoders(words)), "connector": PROJECTORS[projector]},
        ],
    }
    # New tokens make the embeddings longer, to a multiple that suits the hardware.
    rows = -(-words.tokens // MULTIPLE) * MULTIPLE
    data: dict[str, Any] = {
        "name": words.model_id,
        "about": f"Prismatic: {vision}, {projector}, {words.llm_backbone_id}.",
        "language": {"kind": "causal_lm", "config": {**plain(words.llm), "vocab_size": rows}},
        "tokenizer": tokenizer(words.known_llm, words.tidy).dump(),
        "template": words.known_llm.template,
        "modalities": {"image": image},
        # Their limit counts the text alone.
        "model_max_length": words.llm_max_length + words.patches,
    }
    return config.validate(Recipe, data, "config.json: model")


def untrained(vision: str, language: str, arch: str, resize: str) -> dict[str, Any]:
    """The recipe over pretrained parts that a run of these words begins with."""
    llm, size = LLMS[language], VISION[vision][0]
    timm = VISION[vision][1].values()
    # Their patches have 14 pixels, but for one id's 16.
    patches = (size // min(map(_patch, timm))) ** 2
    words = Words("", vision, language, arch, resize, 2048, {}, 0, False, patches)
    encoders = [
        {**encoder, "weights": _tag(name)}
        for encoder, name in zip(_encoders(words), timm, strict=True)
    ]
    branch = {"encoders": encoders, "connector": {"kind": PROJECTORS[projector_of(arch)]}}
    image = {"opens": "image", "place": "second", "limit": 1, "branches": [branch]}
    # The trainer's pad token makes Llama's 32000 rows longer; Phi has more than enough.
    rows = {"config": {"vocab_size": 500 * MULTIPLE + MULTIPLE}} if llm.own_begin else {}
    return {
        "name": f"{vision}+{language}",
        "language": {"kind": "causal_lm", "weights": llm.hub, **rows},
        "template": llm.template,
        "modalities": {"image": image},
        "model_max_length": words.llm_max_length + patches,
    }


def _tag(name: str) -> str:
    import timm

    known = timm.models.get_pretrained_cfg(name)
    return f"{known.architecture}.{known.tag}"


def _patch(timm: str) -> int:
    found = re.search(r"patch(\d+)", timm)
    assert found is not None
    return int(found[1])


def plain(llm: Mapping[str, Any]) -> dict[str, Any]:
    """The words of a language model's configuration that say something about the network."""
    return {key: value for key, value in llm.items() if key not in _NOISE and value is not None}


def tokenizer(llm: Llm, tidy: bool) -> FastTokenizer:
    """The tokenizer with the pad token that the trainer adds."""
    words: dict[str, Any] = {
        "path": "tokenizer.json",
        "pad_token": llm.pad,
        "extra_special_tokens": (llm.pad,),
    }
    if llm.own_begin:
        words |= {"bos_token": "<s>", "eos_token": "</s>", "prefix": "every"}
    else:
        words |= {"eos_token": "<|endoftext|>"}
    return FastTokenizer(**words, clean_up_tokenization_spaces=tidy)


def _encoders(words: Words) -> Sequence[dict[str, Any]]:
    # Inside a pair the reference forgets CLIP's quick GELU.
    quick = words.vision_backbone_id.startswith("clip-")
    args = words.vision or {}
    return [
        {
            "kind": "timm",
            "model": timm.partition(".")[0],
            "img_size": words.size,
            "layer": -2,
            "norm": False,
            "steps": steps(timm, words.vision_backbone_id, words.image_resize_strategy, words.size),
            "finish": ["drop_prefix"],
            "args": {"act_layer": "quick_gelu" if quick else "gelu", **args.get(part, {})},
        }
        for part, timm in VISION[words.vision_backbone_id][1].items()
    ]


def steps(timm: str, vision: str, strategy: str, size: int) -> list[dict[str, Any]]:
    """How pictures are prepared for one encoder (golden/specs/prismatic.md section 3)."""
    mean, std, crop = _prepared(timm)
    # The reference undoes timm's crop only for these ids, so clip-vit-b loses its borders.
    whole = "siglip" in vision or "in1k" in vision
    shorter = size if whole else math.floor(size / crop)
    first: dict[str, Any] = {"kind": STRATEGIES[strategy], "size": size}
    if strategy != "resize-naive" and shorter != size:
        first["shortest_edge"] = shorter
    if strategy == "letterbox":
        first["fill"] = [int(channel * 255) for channel in mean]
    return [first, {"kind": "normalize", "mean": list(mean), "std": list(std)}]


@cache
def _prepared(name: str) -> tuple[Sequence[float], Sequence[float], float]:
    """Mean, std and share of a picture that is kept, as timm states them for its weights."""
    import timm

    known = timm.models.get_pretrained_cfg(name)
    return known.mean, known.std, known.crop_pct


def projector_of(arch: str) -> str:
    """The projector that an architecture's name ends in.

    Raises:
        CheckpointError: none that is known.
    """
    for suffix in PROJECTORS:
        if arch == suffix or arch.endswith(f"+{suffix}"):
            return suffix
    raise CheckpointError(
        f"unknown architecture {arch!r}",
        hint=f"known are names that end in {', '.join(PROJECTORS)}",
    )


def check_section(section: Mapping[str, Any], where: str) -> None:
    """Refuse ids that nobody knows.

    Raises:
        CheckpointError: with the nearest known one.
    """
    ids = ("vision_backbone_id", "llm_backbone_id", "arch_specifier", "image_resize_strategy")
    absent = [word for word in ids if word not in section]
    if absent:
        raise CheckpointError(
            f"the model section lacks {', '.join(absent)}",
            where=where,
            hint="copy the config.json that the trainer wrote",
        )
    tables: dict[str, Mapping[str, Any]] = {
        "vision_backbone_id": VISION,
        "llm_backbone_id": LLMS,
        "image_resize_strategy": STRATEGIES,
    }
    for word, known in tables.items():
        if section[word] not in known:
            raise CheckpointError(
                f"unknown {word} {section[word]!r}",
                where=where,
                hint=did_you_mean(str(section[word]), known),
            )


def words_of(model: Recipe, patches: int) -> Words:
    """The inverse of `recipe`; whether it is one is for the caller to prove.

    Args:
        patches: places that a picture takes.

    Raises:
        LookupError, AttributeError: something has no id there.
    """
    (branch,) = model.modalities["image"].branches
    vision = vision_of(model)
    encoders: list[Any] = list(branch.encoders)
    length = (model.model_max_length or 2048 + patches) - patches
    return Words(
        model_id=model.name,
        vision_backbone_id=vision,
        llm_backbone_id=_llm_of(model),
        arch_specifier={kind: name for name, kind in PROJECTORS.items()}[branch.connector.kind],
        image_resize_strategy={step: name for name, step in STRATEGIES.items()}[
            encoders[0].steps[0].kind
        ],
        llm_max_length=length,
        llm=model.language.config,
        tokens=int(model.language.config["vocab_size"]),
        tidy=bool(getattr(model.tokenizer, "clean_up_tokenization_spaces", False)),
        patches=patches,
        image_size=int(encoders[0].img_size),
        vision={
            part: {word: value for word, value in encoder.args.items() if word != "act_layer"}
            for part, encoder in zip(VISION[vision][1], encoders, strict=True)
        },
    )


def vision_of(model: Recipe) -> str:
    """The id whose encoders a recipe has.

    Raises:
        LookupError: none has them.
    """
    encoders = model.modalities["image"].branches[0].encoders
    has = [str(getattr(encoder, "model", "")) for encoder in encoders]
    for vision, (_, parts) in VISION.items():
        if [timm.partition(".")[0] for timm in parts.values()] == has:
            return vision
    raise LookupError(f"no vision backbone is made of {' and '.join(has)}")


def _llm_of(model: Recipe) -> str:
    """The id of the language model: that of its kind and template, and of its width if there are several."""
    kind, width = model.language.config.get("model_type"), model.language.config.get("hidden_size")
    fitting = {
        name: llm
        for name, llm in LLMS.items()
        if (llm.kind, llm.template) == (kind, model.template.name)
    }
    if not fitting:
        raise LookupError(
            f"no language model there is a {kind} with the template {model.template.name!r}"
        )
    return next((name for name, llm in fitting.items() if llm.width == width), next(iter(fitting)))
