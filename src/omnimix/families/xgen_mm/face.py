"""xGen-MM as its own users know it: the notebook's `create_model_and_transforms` and the hub's three classes.

A script of theirs changes its import lines::

    from omnimix.families.xgen_mm import create_model_and_transforms, process_images
    from omnimix.families.xgen_mm import AutoModelForVision2Seq, AutoTokenizer, AutoImageProcessor
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnimix import hub
from omnimix.calls import checked_call
from omnimix.checkpoints import base, parts as places, reading
from omnimix.checkpoints.base import Parts, Release
from omnimix.errors import CheckpointError
from omnimix.families.xgen_mm.folder import XGenMM, check_words, vision_words
from omnimix.families.xgen_mm.model import XGenMMModelForConditionalGeneration, XGenMMPerceiver
from omnimix.families.xgen_mm.recipe import HALF, VISION, facts_of, grids_in_tiles, tower
from omnimix.families.xgen_mm.transforms import ImageProcessor, XGenTokenizer, process_images
from omnimix.generate import folder as folders
from omnimix.generate.assistant import Assistant, load
from omnimix.media.tiling import GRIDS
from omnimix.registry import did_you_mean

__all__ = [
    "AutoImageProcessor",
    "AutoModelForVision2Seq",
    "AutoTokenizer",
    "create_model_and_transforms",
    "process_images",
]

PUBLISHED = {"model_family": "xgenmm_v1", "clip_vision_encoder_pretrained": "google"}
"""The choices that there are weights for."""


@checked_call
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
    ckpt_pth: str | Path | None = None,
    **model_kwargs: Any,
) -> tuple[XGenMMPerceiver, ImageProcessor, XGenTokenizer]:
    """Model, image processor and tokenizer, with the words of the original's function of this name.

    The original builds Phi-3 and a resampler of chance, which `load_state_dict` then overwrites; here the
    weights come by `load_state_dict` alone, or at once where `ckpt_pth` names their file. What `model`
    prints, how its layers are found and whether training saves memory has no meaning here, so `verbose`,
    `decoder_layers_attr_name` and `gradient_checkpointing` change nothing.

    Args:
        ckpt_pth: a trainer's file, its folder, a bare state dict or a hub folder.
        model_kwargs: words of the family (`num_vision_tokens` ...), with the defaults of the notebook. The
            trainer's own differ (64 tokens, `pad`): write those out where a file was trained by them.

    Raises:
        CheckpointError: an unknown word, with the nearest known one, an unusable value, or a part that cannot
            be had; `pretrained_vision_tokenizer` and `use_local_files`.
    """
    _refuse(model_family, clip_vision_encoder_pretrained, pretrained_vision_tokenizer)
    if use_local_files:
        hint = "set the environment variable HF_HUB_OFFLINE=1"
        raise CheckpointError("use_local_files is not taken here", hint=hint)
    family = XGenMM()
    words = {word: _plain(value) for word, value in model_kwargs.items()}
    with hub.asked(cache_dir=cache_dir):
        tokens = places.folder(tokenizer_path or lang_model_path, "tokenizer", places.CONFIGS)
        brought: dict[str, str | Path] = {
            "llm": lang_model_path,
            "vision": clip_vision_encoder_path,
            "tokenizer": tokens,
        }
        parts = family.checked(Parts(brought, words), "create_model_and_transforms")
        check_words(words, "create_model_and_transforms")  # all this before weights are read
        texts = XGenTokenizer(tokens)
        places.config(places.folder(lang_model_path, "llm", places.CONFIGS), "language model")
        side = int(tower(vision_words(clip_vision_encoder_path)).image_size)

    def reads(state: Mapping[str, Tensor]) -> Assistant:
        with hub.asked(cache_dir=cache_dir):
            return _loaded(family.open(family.at_hand(state), parts))

    held = None
    if ckpt_pth is not None:
        with hub.asked(cache_dir=cache_dir):
            held = _loaded(base.open_release(Path(ckpt_pth), parts, family.name))
    model = XGenMMPerceiver(held, reads, side, words.get("anyres_grids") or GRIDS)
    return model, ImageProcessor(side), texts


def _refuse(model_family: str, pretrained: str, vision_tokenizer: str | None) -> None:
    """What the original takes and no released model was made with."""
    chosen = {"model_family": model_family, "clip_vision_encoder_pretrained": pretrained}
    for word, only in PUBLISHED.items():
        if chosen[word] != only:
            hint = f"there are weights for {only} alone"
            raise CheckpointError(f"{word} {chosen[word]!r} is not known", hint=hint)
    if vision_tokenizer is not None:
        hint = "train from it: `omnimix train` with it as a part of the start"
        raise CheckpointError("pretrained_vision_tokenizer is not taken here", hint=hint)


def _plain(value: Any) -> Any:
    """A list of omegaconf, which notebooks hand over, as one of Python."""
    if isinstance(value, Iterable) and not isinstance(value, str | Mapping):
        return [_plain(one) for one in value]
    return value


def _loaded(release: Release) -> Assistant:
    model, processor, _ = reading.load(release)
    return Assistant(model, processor)


# --- the hub's three classes ---

FREE = ("trust_remote_code", "low_cpu_mem_usage", "use_safetensors", "use_fast", "legacy")
"""Words of the model cards that change nothing here: no code of a repository is ever run, a checkpoint is
always read piece by piece, and ids are those of the slow tokenizer."""


def _folder(name: str | Path, cache_dir: str | Path | None, free: Mapping[str, Any]) -> Path:
    """Where the files of a model lie.

    Raises:
        CheckpointError: an unknown word.
    """
    for word in free:
        if word not in FREE:
            hint = did_you_mean(word, (*FREE, "torch_dtype", "device_map", "cache_dir"))
            raise CheckpointError(f"from_pretrained knows no word {word!r}", hint=hint)
    with hub.asked(cache_dir=cache_dir):
        return folders.locate(name).folder


class AutoModelForVision2Seq:
    """Released models by id (`Salesforce/xgen-mm-phi3-mini-instruct-interleave-r-v1.5`) or folder."""

    @staticmethod
    def from_pretrained(
        pretrained_model_name_or_path: str | Path,
        torch_dtype: torch.dtype | str = torch.float32,
        device_map: Any = "cpu",
        cache_dir: str | Path | None = None,
        **free: Any,
    ) -> XGenMMModelForConditionalGeneration:
        """The model with its weights.

        Args:
            torch_dtype: `auto` as config.json says; also given as `dtype`.
            device_map: a device, `auto` for a GPU where there is one.
            free: see `FREE`.

        Raises:
            CheckpointError: an unknown word, or what `omnimix.load` raises.
        """
        dtype = free.pop("dtype", torch_dtype)
        place = _folder(pretrained_model_name_or_path, cache_dir, free)
        if isinstance(dtype, str):
            said = (base.read_json(place / "config.json") or {}).get("torch_dtype", "float32")
            dtype = getattr(torch, said if dtype == "auto" else dtype)
        device = None if device_map == "auto" else device_map
        with hub.asked(cache_dir=cache_dir):
            held = load(pretrained_model_name_or_path, device, dtype)
        facts = facts_of(held.processor.recipe)
        return XGenMMModelForConditionalGeneration(held, None, facts.side, facts.grids)


class AutoTokenizer:
    """The tokenizer of a released model."""

    @staticmethod
    def from_pretrained(
        pretrained_model_name_or_path: str | Path,
        cache_dir: str | Path | None = None,
        **free: Any,
    ) -> XGenTokenizer:
        """The slow tokenizer, the three marks among its tokens."""
        return XGenTokenizer(_folder(pretrained_model_name_or_path, cache_dir, free))


class AutoImageProcessor:
    """The image processor of a released model."""

    @staticmethod
    def from_pretrained(
        pretrained_model_name_or_path: str | Path,
        cache_dir: str | Path | None = None,
        **free: Any,
    ) -> ImageProcessor:
        """As `preprocessor_config.json` has it."""
        place = _folder(pretrained_model_name_or_path, cache_dir, free)
        said = base.read_json(place / "preprocessor_config.json") or {}
        side = int(said.get("size", [VISION["image_size"]])[0])
        pixels = [tuple(said.get(word, HALF)) for word in ("image_mean", "image_std")]
        grids = grids_in_tiles(said["grids"], side, str(place)) if "grids" in said else GRIDS
        return ImageProcessor(side, pixels[0], pixels[1], grids)
