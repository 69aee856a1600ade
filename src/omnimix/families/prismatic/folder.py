"""Prismatic VLMs (`prismatic-vlms`): run folders of its trainer, released or one's own.

Facts, numbers and quirks: golden/specs/prismatic.md. What a run folder does not hold (vision weights, the
language model's configuration and tokenizer, its weights for an align run) comes as parts:

    vision        the single encoder's weights; for pairs `dino` and `siglip` or `clip`
    llm           configuration and tokenizer of the language model, weights only for align runs
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omnimix import config
from omnimix.checkpoints import parts as places
from omnimix.checkpoints.base import Family, Layout, Parts, Release, Weights, looks_like, read_json
from omnimix.checkpoints.tables import Ignore, Positions, Rename, Rows, Rule, Table
from omnimix.compose.model import MultimodalLM
from omnimix.compose.processor import Processor
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError, placed
from omnimix.registry import did_you_mean


@dataclass(frozen=True)
class Trunk:
    """One kind of encoder: how its pictures are normalised and what its weights look like.

    Attributes:
        crop: timm's crop_pct.
        positions: whether the class token has a position embedding.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: float = 1.0
    positions: bool = False


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

TRUNKS: dict[str, Trunk] = {
    "vit_large_patch14_reg4_dinov2.lvd142m": Trunk(*_IMAGENET),
    "vit_base_patch16_siglip_224": Trunk(*_HALF, 0.9),
    "vit_base_patch16_siglip_256": Trunk(*_HALF, 0.9),
    "vit_base_patch16_siglip_384": Trunk(*_HALF, 0.9),
    "vit_so400m_patch14_siglip_224": Trunk(*_HALF, 0.9),
    "vit_so400m_patch14_siglip_384": Trunk(*_HALF, 0.9),
    "vit_base_patch16_clip_224.openai": Trunk(*_CLIP, 0.9, True),
    "vit_large_patch14_clip_224.openai": Trunk(*_CLIP, 1.0, True),
    "vit_large_patch14_clip_336.openai": Trunk(*_CLIP, 1.0, True),
    "vit_large_patch16_224.augreg_in21k_ft_in1k": Trunk(*_HALF, 0.9, True),
}

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
        hub: where its configuration and tokenizer come from.
        template: the style of its prompts.
        pad: the token that is added for padding.
        llama: whether its tokenizer is of Llama's type.
    """

    hub: str
    template: str
    pad: str = "<PAD>"
    llama: bool = True


LLMS: dict[str, Llm] = {
    "llama2-7b-pure": Llm("meta-llama/Llama-2-7b-hf", "pure"),
    "llama2-13b-pure": Llm("meta-llama/Llama-2-13b-hf", "pure"),
    "llama2-7b-chat": Llm("meta-llama/Llama-2-7b-chat-hf", "llama2_chat"),
    "llama2-13b-chat": Llm("meta-llama/Llama-2-13b-chat-hf", "llama2_chat"),
    "vicuna-v15-7b": Llm("lmsys/vicuna-7b-v1.5", "vicuna_v15"),
    "vicuna-v15-13b": Llm("lmsys/vicuna-13b-v1.5", "vicuna_v15"),
    "mistral-v0.1-7b-pure": Llm("mistralai/Mistral-7B-v0.1", "pure"),
    "mistral-v0.1-7b-instruct": Llm("mistralai/Mistral-7B-Instruct-v0.1", "mistral_prismatic"),
    "phi-2-3b": Llm("microsoft/phi-2", "phi", "<|pad|>", False),
}

PROJECTORS = {"fused-gelu-mlp": "fused_mlp", "gelu-mlp": "mlp", "linear": "linear"}
"""Suffix of the architecture's name to connector; a prefix `no-align+` only says that align is skipped."""

STRATEGIES = ("resize-naive", "resize-crop", "letterbox")

MULTIPLE = 64
"""The trainer resizes the embeddings to a multiple of this many rows."""

# What transformers writes into a configuration that says nothing about the network.
_NOISE = frozenset(
    {"architectures", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "auto_map"}
)

_IMAGE = "image.branches.0"


def steps(timm: str, vision: str, strategy: str, size: int) -> list[dict[str, Any]]:
    """How pictures are prepared for one encoder (golden/specs/prismatic.md section 3)."""
    trunk = TRUNKS[timm]
    # The reference undoes timm's crop only for these ids, so clip-vit-b loses its borders.
    whole = "siglip" in vision or "in1k" in vision
    shorter = size if whole else math.floor(size / trunk.crop)
    words: dict[str, Any] = (
        {"size": size} if shorter == size else {"size": size, "shorter": shorter}
    )
    if strategy == "resize-naive":
        first: dict[str, Any] = {"kind": "resize", "size": size}
    elif strategy == "resize-crop":
        first = {"kind": "resize_crop", **words}
    else:
        fill = [int(channel * 255) for channel in trunk.mean]
        first = {"kind": "letterbox", **words, "fill": fill}
    return [first, {"kind": "normalize", "mean": list(trunk.mean), "std": list(trunk.std)}]


def modality(
    vision: str, strategy: str, projector: str, size: int, args: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The words of the image modality.

    Args:
        args: for each encoder's part, timm arguments that differ from the released architecture.
    """
    # Inside dinoclip the reference forgets CLIP's quick GELU.
    quick = vision.startswith("clip-")
    encoders = [
        {
            "kind": "timm",
            "model": timm.partition(".")[0],
            "size": size,
            "layer": -2,
            "norm": False,
            "steps": steps(timm, vision, strategy, size),
            "finish": ["drop_prefix"],
            "args": {"act_layer": "quick_gelu" if quick else "gelu", **args.get(part, {})},
        }
        for part, timm in VISION[vision][1].items()
    ]
    return {
        "opens": "image",
        "place": "second",
        "limit": 1,
        "branches": [{"encoders": encoders, "connector": PROJECTORS[projector]}],
    }


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


@dataclass(frozen=True, kw_only=True)
class Run(Layout):
    """A run folder.

    Attributes:
        section: the model section of its config.json.
    """

    section: Mapping[str, Any]


class Prismatic(Family[Run, Any]):
    """Run folders of `prismatic-vlms`: finetuned, align-only and full-finetune."""

    name = "prismatic"
    title = "Prismatic"
    part_names = ("llm", "vision", "dino", "siglip", "clip")
    known_words = ("image_size", "vision")
    layouts = ("a run folder (config.json with a model section, checkpoints/latest-checkpoint.pt)",)

    def recognise(self, path: Path) -> Run | None:
        root, chosen = path, None
        if path.is_file() and path.suffix == ".pt" and path.parent.name == "checkpoints":
            root, chosen = path.parent.parent, path
        if not root.is_dir():
            return None
        found = _model_section(root)
        if found is None:
            return None
        file = chosen or _newest(root / "checkpoints")
        if file is None:
            raise CheckpointError(
                f"no checkpoint in the run folder: {looks_like(root)}",
                where=str(root),
                hint="it holds checkpoints/latest-checkpoint.pt; copy the whole folder",
            )
        return Run(self.name, "run folder", root, (file,), section=found)

    def write(
        self, model: MultimodalLM, processor: Processor, out: Path, **options: Any
    ) -> list[Path]:
        from omnimix.families.prismatic import write as prismatic_write

        return prismatic_write.write(model, processor, out)

    def open(self, layout: Run, parts: Parts) -> Release:
        with placed(str(layout.root)):
            return self._open(layout, parts)

    def start(self, layout: Run, parts: Parts) -> Release:
        """The model before its training: base language model, stock encoders, no projector yet.

        `reading.load` takes the projector as `extra`.
        """
        recipe, llm = self._recipe(layout.section, parts)
        weights = (base_llm(parts, layout.section, llm, recipe), *_stock(layout, parts, recipe))
        return Release(layout, recipe, llm, weights)

    def _recipe(self, facts: Mapping[str, Any], parts: Parts) -> tuple[Recipe, Path]:
        llm = places.folder(parts.places.get("llm", _llm(facts).hub), "llm", places.CONFIGS)
        base = places.config(llm, "language model")
        return make_recipe(facts, base, llm, parts.words), llm

    def _open(self, layout: Run, parts: Parts) -> Release:
        facts = layout.section
        recipe, llm = self._recipe(facts, parts)
        table = layout.opened.tensors(*layout.files)
        weights = [Weights("checkpoint", layout.files, checkpoint_table())]
        notes = []
        if any(key.startswith("model.vision_backbone.") for key in table):
            notes.append(
                "the checkpoint brings trained encoders, which the reference ignores when it loads; "
                "the stock ones are used as there"
            )
        kind = "finetuned run"
        if not any(key.startswith("model.llm_backbone.") for key in table):
            kind = "align run"
            weights.append(base_llm(parts, facts, llm, recipe))
            notes.append(
                "an align run holds the projector alone; the language model is the base one, with new "
                "random rows for added tokens"
            )
        weights += _stock(layout, parts, recipe)
        found = replace(layout, kind=kind)
        return Release(found, recipe, llm, tuple(weights), tuple(notes))


def _stock(layout: Run, parts: Parts, recipe: Recipe) -> list[Weights]:
    """The encoders' own weights."""
    found = []
    for i, (part, timm) in enumerate(VISION[layout.section["vision_backbone_id"]][1].items()):
        place = places.folder(parts.places.get(part, f"timm/{timm}"), part, places.WEIGHTS)
        encoder = recipe.modalities["image"].branches[0].encoders[i]
        table = vision_table(i, encoder, TRUNKS[timm].positions)
        found.append(Weights(part, places.weight_files(place, part), table))
    return found


def make_recipe(
    facts: Mapping[str, Any], base: Mapping[str, Any], llm: Path, words: Mapping[str, Any]
) -> Recipe:
    """The recipe of a run's model section.

    Args:
        facts: model_id, vision_backbone_id, llm_backbone_id, arch_specifier, image_resize_strategy,
            llm_max_length.
        base: the language model's configuration.
        llm: folder of its tokenizer.
        words: `image_size` and `vision` (timm arguments for each encoder) of stand-ins; `vocab` where
            no tokenizer is at hand.
    """
    vision = str(facts["vision_backbone_id"])
    size = int(words.get("image_size") or VISION[vision][0])
    projector = projector_of(str(facts["arch_specifier"]))
    known = _llm(facts)
    spec: dict[str, Any] = {
        "kind": "fast",
        "path": "tokenizer.json",
        "eos": "</s>" if known.llama else "<|endoftext|>",
        "pad": known.pad,
        "added": [known.pad],
    }
    if known.llama:
        spec |= {"bos": "<s>", "prefix": "every"}
    # What the trainer's transformers took where the tokenizer's configuration is silent.
    asked = (read_json(llm / "tokenizer_config.json") or {}).get("clean_up_tokenization_spaces")
    spec["tidy"] = not known.llama if asked is None else bool(asked)
    image = modality(
        vision, str(facts["image_resize_strategy"]), projector, size, words.get("vision", {})
    )
    data: dict[str, Any] = {
        "name": str(facts["model_id"]),
        "about": f"Prismatic: {vision}, {projector}, {facts['llm_backbone_id']}.",
        "language": {"kind": "causal_lm", "config": _language(base, known, 1)},
        "tokenizer": spec,
        "template": known.template,
        "modalities": {"image": image},
    }
    recipe = config.validate(Recipe, data, "config.json: model")
    assert recipe.tokenizer is not None
    length = words.get("vocab") or recipe.tokenizer.load([llm]).size
    data["language"]["config"] = _language(base, known, int(length))
    patches = _patches(recipe)
    data["context"] = int(facts["llm_max_length"]) + patches
    return config.validate(Recipe, data, "config.json: model")


def _language(base: Mapping[str, Any], known: Llm, length: int) -> dict[str, Any]:
    words = {key: value for key, value in base.items() if key not in _NOISE and value is not None}
    # A padding row in the embeddings would get no gradient; the trainer's own pad token comes later.
    words.pop("pad_token_id", None)
    words["vocab_size"] = -(-length // MULTIPLE) * MULTIPLE
    return words


def _patches(recipe: Recipe) -> int:
    import torch

    from omnimix.compose.modality import build

    with torch.device("meta"):
        width = int(recipe.language.hf_config().get_text_config().hidden_size)
        return build(recipe.modalities, width)["image"].tokens_per_tile


def checkpoint_table() -> Table:
    """Keys of `latest-checkpoint.pt`, nested dictionaries joined by dots."""
    return Table(
        Rename("model.projector.projector.*", f"{_IMAGE}.connector.*"),
        Ignore("model.llm_backbone.llm.*.rotary_emb.inv_freq", "computed, not learned"),
        Rename("model.llm_backbone.llm.*", "language.*"),
        Ignore("model.vision_backbone.*", "the reference loads stock encoders (spec, quirk 6)"),
    )


def trained_table(recipe: Recipe) -> Table:
    """Keys of everything that a full finetune trains, the encoders' names included."""
    encoders = recipe.modalities["image"].branches[0].encoders
    rules: list[Rule] = list(checkpoint_table().rules[:-1])
    for i, encoder in enumerate(encoders):
        prefix = f"model.vision_backbone.{featurizer(encoder, len(encoders))}."
        timm = next(name for name in TRUNKS if name.partition(".")[0] == encoder.model)  # type: ignore[attr-defined]
        rules += vision_table(i, encoder, TRUNKS[timm].positions, prefix).rules
    return Table(*rules)


def featurizer(encoder: Any, of: int) -> str:
    """What the trainer calls an encoder among `of` of them."""
    if of == 1:
        return "featurizer"
    words = {"dinov2": "dino", "siglip": "siglip", "clip": "clip"}
    return next(f"{name}_featurizer" for word, name in words.items() if word in encoder.model)


def parameter_names(recipe: Recipe, names: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The trainer's parameter names to ours, and those that have no counterpart here, with the reason."""
    plan = trained_table(recipe).reading([f"model.{name}" for name in names])
    known = {move.foreign[0].removeprefix("model."): move.native[0] for move in plan.moves}
    unused = {key.removeprefix("model."): reason for key, reason in plan.unused.items()}
    return known, unused | {key.removeprefix("model."): "unknown name" for key in plan.unknown}


def vision_table(index: int, encoder: Any, positions: bool, prefix: str = "") -> Table:
    """Keys of a timm state dict (behind `prefix`) for the encoder at a place of the branch.

    Args:
        encoder: its words, `size` and `args` among them.
        positions: whether the class token has a position embedding.
    """
    ours = f"{_IMAGE}.encoders.{index}.trunk."
    depth, patch = _depth_patch(encoder)
    side = int(encoder.size) // patch
    rules: list[Rule] = [
        Positions(f"{prefix}pos_embed", f"{ours}pos_embed", (side, side), 1 if positions else 0),
        Ignore(f"{prefix}attn_pool.*", "the pooling head is not used"),
        Ignore(f"{prefix}head.*", "the classifier is not used"),
        Ignore(f"{prefix}fc_norm.*", "the classifier's norm is not used"),
        Ignore(f"{prefix}mask_token", "used in pretraining only"),
        Ignore(f"{prefix}blocks.{depth - 1}.*", "lies behind the block that is read"),
        Rename(f"{prefix}*", f"{ours}*"),
    ]
    return Table(*rules)


def _depth_patch(encoder: Any) -> tuple[int, int]:
    """Number of blocks and side of a patch of the uncut trunk."""
    patch = re.search(r"_patch(\d+)_", encoder.model)
    assert patch is not None, "all trunks of the table name their patch"
    depth = encoder.args.get("depth")
    if depth is None:
        sizes = {"base": 12, "large": 24, "so400m": 27}
        depth = next(n for word, n in sizes.items() if f"_{word}_" in encoder.model)
    return int(depth), int(encoder.args.get("patch_size", patch.group(1)))


def base_llm(parts: Parts, facts: Mapping[str, Any], llm: Path, recipe: Recipe) -> Weights:
    """The base language model's own weights, its embeddings resized as the trainer does."""
    place = llm
    if not list(llm.glob("*.safetensors")) and not llm.is_file():
        place = places.folder(parts.places.get("llm", _llm(facts).hub), "llm", places.WEIGHTS)
    config = recipe.language.config
    rows, std = int(config["vocab_size"]), float(config.get("initializer_range", 0.02))
    # New rows are drawn as transformers does, a bias of theirs is zero.
    resized = {"model.embed_tokens.weight": std, "lm_head.weight": std, "lm_head.bias": 0.0}
    rules: list[Rule] = [
        Rows(key, f"language.{key}", rows, spread, seed)
        for seed, (key, spread) in enumerate(resized.items())
    ]
    rules += [Ignore("*.rotary_emb.inv_freq", "computed, not learned"), Rename("*", "language.*")]
    return Weights("llm", places.weight_files(place, "language model"), Table(*rules))


def _llm(facts: Mapping[str, Any]) -> Llm:
    return LLMS[str(facts["llm_backbone_id"])]


_WORDS = (
    "vision_backbone_id",
    "llm_backbone_id",
    "arch_specifier",
    "image_resize_strategy",
    "llm_max_length",
)


def _model_section(root: Path) -> dict[str, Any] | None:
    """The model section of a run's config.json; None where this is none of the family's.

    Raises:
        CheckpointError: one of the family's with an id that nobody knows.
    """
    found = read_json(root / "config.json")
    section = found.get("model") if found else None
    if not isinstance(section, dict) or not any(word in section for word in _WORDS[:3]):
        return None
    where = f"{root / 'config.json'}: model"
    absent = [word for word in _WORDS[:4] if word not in section]
    if absent:
        raise CheckpointError(
            f"the model section lacks {', '.join(absent)}",
            where=where,
            hint="copy the config.json that the trainer wrote",
        )
    tables: tuple[tuple[str, Any], ...] = (
        ("vision_backbone_id", VISION),
        ("llm_backbone_id", LLMS),
        ("image_resize_strategy", STRATEGIES),
    )
    for word, known in tables:
        if section[word] not in known:
            raise CheckpointError(
                f"unknown {word} {section[word]!r}",
                where=where,
                hint=did_you_mean(str(section[word]), known),
            )
    return {"model_id": root.name, "llm_max_length": 2048, **section}


def _newest(folder: Path) -> Path | None:
    """`latest-checkpoint.pt`, else the file of the highest step."""
    latest = folder / "latest-checkpoint.pt"
    if latest.is_file():
        return latest
    steps = [
        (int(found.group(1)), path)
        for path in folder.glob("step-*.pt")
        if (found := re.match(r"step-(\d+)-", path.name))
    ]
    return max(steps)[1] if steps else None
