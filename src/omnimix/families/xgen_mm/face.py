"""xGen-MM as its own users know it: the notebook's `create_model_and_transforms` and the hub's three classes.

A script of theirs changes its import lines::

    from omnimix.families.xgen_mm import create_model_and_transforms, process_images
    from omnimix.families.xgen_mm import AutoModelForVision2Seq, AutoTokenizer, AutoImageProcessor
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from omnimix import config
from omnimix.checkpoints import base, parts as places, reading
from omnimix.checkpoints.base import Parts, Release
from omnimix.compose.recipe import Recipe
from omnimix.errors import CheckpointError
from omnimix.families.xgen_mm import folder as xgen_mm, recipe as xgen_recipe
from omnimix.families.xgen_mm.model import XGenMMModelForConditionalGeneration, XGenMMPerceiver
from omnimix.families.xgen_mm.pictures import ImageProcessor, process_images
from omnimix.families.xgen_mm.recipe import LM_ID, VISION_ID, Facts
from omnimix.families.xgen_mm.tokens import XGenTokenizer
from omnimix.generate import folder as folders
from omnimix.generate.assistant import Assistant, load
from omnimix.media.tiling import GRIDS
from omnimix.registry import did_you_mean

__all__ = [
    "AutoImageProcessor",
    "AutoModelForVision2Seq",
    "AutoTokenizer",
    "XGenWords",
    "create_model_and_transforms",
    "process_images",
]


class XGenWords(config.Spec):
    """The settings of the README, with the defaults of its notebook.

    The trainer's own defaults differ (64 tokens, `pad`): write those out where a file was trained by them.

    Attributes:
        model_family: `xgenmm_v1` is the only one that the reference has weights for.
        lm_path: hub id or folder of Phi-3.
        tokenizer_path: of its tokenizer where that lies elsewhere.
        vision_encoder_path: hub id or folder of SigLIP.
        vision_encoder_pretrained: `google`, the only one that the released models use.
        num_vision_tokens: latents of the resampler; another number than the checkpoint's is refused.
        image_aspect_ratio: `anyres`, `pad`, or anything else for a plain resize.
        anyres_patch_sampling: whether each tile passes the resampler alone.
        anyres_grids: columns and rows of any-res.
        ckpt_pth: a trainer's file, its folder, a bare state dict or a hub folder; None for the recipe alone.
        resampler_heads: of a resampler of another size than the released one; no file tells it.
    """

    model_family: Literal["xgenmm_v1"] = "xgenmm_v1"
    lm_path: str = LM_ID
    tokenizer_path: str | None = None
    vision_encoder_path: str = VISION_ID
    vision_encoder_pretrained: Literal["google"] = "google"
    num_vision_tokens: int = 128
    image_aspect_ratio: str = "anyres"
    anyres_patch_sampling: bool = True
    anyres_grids: tuple[tuple[int, int], ...] = GRIDS
    ckpt_pth: str | None = None
    resampler_heads: int | None = None

    def recipe(self) -> Recipe:
        """The model that these words describe; of the checkpoint where one is named.

        Raises:
            CheckpointError: a part that cannot be had, or a checkpoint of other sizes.
        """
        if self.ckpt_pth is not None:
            return base.open_release(Path(self.ckpt_pth), self.parts(), "xgen_mm").recipe
        lm = places.folder(self.lm_path, "llm", places.CONFIGS)
        spec, add_bos = xgen_recipe.tokenizer(self.tokens())
        heads = {} if self.resampler_heads is None else {"heads": self.resampler_heads}
        facts = Facts(
            text=xgen_recipe.differing("phi3", places.config(lm, "language model")),
            vision=xgen_mm.vision_words(self.vision_encoder_path),
            tokenizer=spec,
            latents=self.num_vision_tokens,
            resampler={**xgen_recipe.RESAMPLER, **heads},
            aspect=self.image_aspect_ratio,
            sampling=self.anyres_patch_sampling,
            grids=self.anyres_grids,
            add_bos=add_bos,
        )
        return xgen_recipe.build(facts, self.model_family, "the words of xGen-MM")

    def arguments(self) -> dict[str, Any]:
        """Keywords of `omnimix.load`."""
        parts = self.parts()
        return {"name_or_folder": self.ckpt_pth, "parts": parts.places, **parts.words}

    def parts(self) -> Parts:
        """What no file of a trainer holds."""
        words: dict[str, Any] = {
            "num_vision_tokens": self.num_vision_tokens,
            "image_aspect_ratio": self.image_aspect_ratio,
            "anyres_patch_sampling": self.anyres_patch_sampling,
            "anyres_grids": self.anyres_grids,
        }
        if self.resampler_heads is not None:
            words["heads"] = self.resampler_heads
        brought = {"llm": self.lm_path, "vision": self.vision_encoder_path}
        if self.tokenizer_path is not None:
            brought["tokenizer"] = self.tokenizer_path
        return Parts(brought, words)

    def tokens(self) -> Path:
        """The folder with the tokenizer."""
        return places.folder(self.tokenizer_path or self.lm_path, "tokenizer", places.CONFIGS)


def create_model_and_transforms(
    clip_vision_encoder_path: str,
    clip_vision_encoder_pretrained: str,
    lang_model_path: str,
    tokenizer_path: str | None = None,
    model_family: str = "xgenmm_v1",
    pretrained_vision_tokenizer: str | None = None,
    use_local_files: bool = False,
    decoder_layers_attr_name: str | None = None,
    cache_dir: str | None = None,
    gradient_checkpointing: bool = False,
    verbose: bool = True,
    **model_kwargs: Any,
) -> tuple[XGenMMPerceiver, ImageProcessor, XGenTokenizer]:
    """Model, image processor and tokenizer, with the words of the original's function of this name.

    The original builds Phi-3 and a resampler of chance, which `load_state_dict` then overwrites; here the
    weights come by `load_state_dict` alone, or at once where `ckpt_pth` names their file. What `model`
    prints, how its layers are found and whether training saves memory has no meaning here, so `verbose`,
    `decoder_layers_attr_name` and `gradient_checkpointing` change nothing.

    Args:
        clip_vision_encoder_path, clip_vision_encoder_pretrained, lang_model_path, tokenizer_path: see
            `XGenWords` (`vision_encoder_path` and so on).
        model_kwargs: further words of `XGenWords`.

    Raises:
        RecipeError: an unknown word, with the nearest known one, or an unusable value.
        CheckpointError: a part that cannot be had; `pretrained_vision_tokenizer`, `cache_dir` and
            `use_local_files`.
    """
    ways = {
        "pretrained_vision_tokenizer": "train from it: `omnimix train` with it as a part of the start",
        "cache_dir": "set the environment variable HF_HUB_CACHE",
        "use_local_files": "set the environment variable HF_HUB_OFFLINE=1",
    }
    given = (pretrained_vision_tokenizer, cache_dir, use_local_files or None)
    for (word, way), value in zip(ways.items(), given, strict=True):
        if value is not None:
            raise CheckpointError(f"{word} is not taken here", hint=way)
    words = config.validate(
        XGenWords,
        {
            "model_family": model_family,
            "lm_path": lang_model_path,
            "tokenizer_path": None if tokenizer_path == lang_model_path else tokenizer_path,
            "vision_encoder_path": clip_vision_encoder_path,
            "vision_encoder_pretrained": clip_vision_encoder_pretrained,
            **{word: _plain(value) for word, value in model_kwargs.items()},
        },
        "create_model_and_transforms",
    )
    folder = words.tokens()

    def reads(state: Mapping[str, Tensor]) -> Assistant:
        family = xgen_mm.XGenMM()
        return _assistant(family.open(family.at_hand(state), words.parts()))

    held = None if words.ckpt_pth is None else load(device="cpu", **words.arguments())
    side = int(xgen_recipe.tower(xgen_mm.vision_words(words.vision_encoder_path)).image_size)
    model = XGenMMPerceiver(held, reads, side, words.anyres_grids)
    return model, ImageProcessor(side), XGenTokenizer.beside(folder)


def _plain(value: Any) -> Any:
    """A list of omegaconf, which notebooks hand over, as one of Python."""
    if isinstance(value, Iterable) and not isinstance(value, str | Mapping):
        return [_plain(one) for one in value]
    return value


def _assistant(release: Release) -> Assistant:
    model, processor, _ = reading.load(release)
    return Assistant(model, processor)


# --- the hub's three classes ---

FREE = ("trust_remote_code", "low_cpu_mem_usage", "use_safetensors", "use_fast", "legacy")
"""Words of the model cards that change nothing here: no code of a repository is ever run, a checkpoint is
always read piece by piece, and ids are those of the slow tokenizer."""


class _Hub:
    """A class of transformers of which only `from_pretrained` is asked."""

    known: tuple[str, ...] = FREE

    @classmethod
    def _checked(cls, words: Mapping[str, Any]) -> None:
        for word in words:
            if word not in cls.known:
                hint = "set the environment variable HF_HUB_CACHE"
                hint = hint if word == "cache_dir" else did_you_mean(word, cls.known)
                raise CheckpointError(f"from_pretrained knows no word {word!r}", hint=hint)


class AutoModelForVision2Seq(_Hub):
    """Released models by id (`Salesforce/xgen-mm-phi3-mini-instruct-interleave-r-v1.5`) or folder."""

    known = (*FREE, "torch_dtype", "dtype", "device_map")

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **words: Any
    ) -> XGenMMModelForConditionalGeneration:
        """The model with its weights.

        Args:
            words: `torch_dtype` (or `dtype`): float32 unless given, `auto` as config.json says;
                `device_map`: a device, `auto` for a GPU where there is one; the CPU unless given.

        Raises:
            CheckpointError: an unknown word, or what `omnimix.load` raises.
        """
        cls._checked(words)
        dtype = words.get("torch_dtype", words.get("dtype"))
        if isinstance(dtype, str):
            place = folders.locate(pretrained_model_name_or_path).folder
            said = (base.read_json(place / "config.json") or {}).get("torch_dtype", "float32")
            dtype = getattr(torch, said if dtype == "auto" else dtype)
        device = words.get("device_map", "cpu")
        held = load(
            pretrained_model_name_or_path, None if device == "auto" else device, dtype=dtype
        )
        image = held.processor.recipe.modalities["image"]
        side = ImageProcessor.of(image).side
        grids = next((step.grids for step in image.steps if hasattr(step, "grids")), GRIDS)
        return XGenMMModelForConditionalGeneration(held, lambda _: held, side, grids)


class AutoTokenizer(_Hub):
    """The tokenizer of a released model."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **words: Any
    ) -> XGenTokenizer:
        """The slow tokenizer, the three marks among its tokens."""
        cls._checked(words)
        return XGenTokenizer.beside(folders.locate(pretrained_model_name_or_path).folder)


class AutoImageProcessor(_Hub):
    """The image processor of a released model."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **words: Any
    ) -> ImageProcessor:
        """As `preprocessor_config.json` has it."""
        cls._checked(words)
        place = folders.locate(pretrained_model_name_or_path).folder
        said = base.read_json(place / "preprocessor_config.json") or {}
        side = said.get("size", [xgen_recipe.VISION["image_size"]])[0]
        half = xgen_recipe.HALF
        mean, std = said.get("image_mean", half), said.get("image_std", half)
        return ImageProcessor(int(side), tuple(mean), tuple(std))
