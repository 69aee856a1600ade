"""The encoders of multi_token's modalities: sizes out of a folder, keys of its file, and the folder written back.

For each: `sized` lays what a folder of the hub says of itself over the modality's words, `table` names the keys
of its file, `files` are the small files of which `sized` makes the words again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnimix.checkpoints import parts as places
from omnimix.checkpoints.base import read_json
from omnimix.checkpoints.tables import Ignore, Rename, RenameTable
from omnimix.encoders.transformers import config_of
from omnimix.errors import CheckpointError

_ASIDE = re.compile(
    r".*suppress_tokens|architectures|.*dtype|transformers_version|_name_or_path|use_cache|.*drop.*|init.*|apply_spec.*|mask_.*"
)
"""Words of a configuration that say nothing about a frozen network."""


def _network(place: Path, what: str, side: str = "") -> tuple[Any, dict[str, Any]]:
    """The configuration in a folder of the hub as transformers reads it, and its words, defaults written out.

    Args:
        what: the encoder's name for messages.
        side: the word under which a model of two sides has this one; a folder may hold the side alone.

    Raises:
        CheckpointError: no config.json, or one of no type that transformers knows.
    """
    from transformers import AutoConfig

    places.config(place, what)
    try:
        whole = AutoConfig.from_pretrained(place, local_files_only=True)
    except (ValueError, OSError, TypeError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"transformers cannot read the configuration of the {what} ({line[:160]})",
            where=str(place / "config.json"),
            hint="copy the folder again",
        ) from None
    return whole, _told_by(getattr(whole, side, whole) if side else whole)


def _told_by(config: Any) -> dict[str, Any]:
    words = config.to_diff_dict() | {"model_type": config.model_type}
    return {w: v for w, v in words.items() if v is not None and not _ASIDE.fullmatch(w)}


_TYPES = {"whisper": "whisper", "clap": "clap_audio_model", "xclip": "xclip_vision_model"}
"""The type of a configuration that does not say it, by the kind of its encoder."""


CONFIGURED = {
    "transformers": "config",
    "whisper": "config",
    "clap": "config",
    "text": "config",
    "xclip": "vision_config",
}
"""The word of each kind of encoder that holds a configuration of transformers."""


def completed(kind: str, words: Mapping[str, Any]) -> dict[str, Any]:
    """An encoder's configuration with the defaults that transformers knows."""
    typed = {"model_type": _TYPES[kind], **words} if kind in _TYPES else dict(words)
    return _told_by(config_of(typed))


def _encoder(words: Mapping[str, Any]) -> dict[str, Any]:
    """The words of a modality's one encoder."""
    (found,) = words["branches"][0]["encoders"]
    words_: dict[str, Any] = found
    return words_


# --- pictures ---


def clip(words: dict[str, Any], place: Path, options: Mapping[str, Any]) -> None:
    encoder = _encoder(words)
    _, encoder["config"] = _network(place, "image encoder", "vision_config")
    (step,) = words["steps"]
    normal = encoder["steps"][0]
    _look(step, normal, place, int(encoder["config"]["image_size"]))
    if options.get("pad_non_square_images"):
        fill = [int(channel * 255) for channel in normal["mean"]]
        words["steps"].insert(0, {"kind": "pad", "fill": fill})


def _look(step: dict[str, Any], normal: dict[str, Any], place: Path, side: int) -> None:
    """Set the steps on pictures as the processor beside the weights says; no file leaves the published ones."""
    processor: dict[str, Any] = read_json(place / "preprocessor_config.json") or {}
    shorter, size = (_side(processor.get(word), side) for word in ("size", "crop_size"))
    step["size"] = size
    if shorter != size:
        step["shortest_edge"] = shorter
    for word, ours in (("image_mean", "mean"), ("image_std", "std")):
        normal[ours] = list(processor.get(word) or normal[ours])


def _side(said: Any, default: int) -> int:
    """A size in a processor's configuration: a number, or a table."""
    if isinstance(said, Mapping):
        said = said.get("shortest_edge", said.get("height"))
    return int(said) if said is not None else int(default)


def clip_table(ours: str, words: Mapping[str, Any]) -> RenameTable:
    encoder = _encoder(words)
    depth = int(encoder["config"]["num_hidden_layers"])
    layer = encoder.get("layer")
    behind = range(depth + 1 + layer, depth) if layer is not None else range(0)
    return RenameTable(
        Ignore("vision_model.embeddings.position_ids", "computed, not learned"),
        *(
            Ignore(f"vision_model.encoder.layers.{i}.*", "lies behind the layer that is read")
            for i in behind
        ),
        Rename("vision_model.*", f"{ours}tower.*"),
        Ignore("text_model.*", "CLIP's text tower is used by nobody"),
        Ignore("visual_projection.*", "belongs to CLIP's own loss"),
        Ignore("text_projection.*", "belongs to CLIP's own loss"),
        Ignore("logit_scale", "belongs to CLIP's own loss"),
    )


def clip_files(words: Mapping[str, Any]) -> dict[str, Any]:
    encoder = _encoder(words)
    step, normal = words["steps"][-1], encoder["steps"][0]
    size = int(step["size"])
    return {
        "config.json": {"model_type": "clip", "vision_config": dict(encoder["config"])},
        "preprocessor_config.json": {
            "crop_size": size,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            "image_mean": list(normal["mean"]),
            "image_std": list(normal["std"]),
            "resample": 3,
            "size": int(step.get("shortest_edge", size)),
        },
    }


# --- speech ---

_MEL_WORDS = ("feature_size", "sampling_rate", "chunk_length", "n_fft", "hop_length")
"""Words that Whisper's feature extractor and the step `log_mel` share."""


def _hear(step: dict[str, Any], place: Path, words: Sequence[str]) -> Mapping[str, Any]:
    """Set a step as the feature extractor beside the weights says, which is given back; no file changes nothing."""
    told: dict[str, Any] = read_json(place / "preprocessor_config.json") or {}
    step |= {word: told[word] for word in words if told.get(word) is not None}
    return told


def _told(kind: str, step: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """The file of a feature extractor of this kind, written from a step."""
    return {
        "feature_extractor_type": kind,
        **{word: step[word] for word in words if word in step},
    }


def whisper(words: dict[str, Any], place: Path, options: Mapping[str, Any]) -> None:
    encoder = _encoder(words)
    _, encoder["config"] = _network(place, "speech encoder")
    del encoder["config"]["model_type"]  # the row says it
    _hear(encoder["steps"][0], place, _MEL_WORDS)


def whisper_table(ours: str, words: Mapping[str, Any]) -> RenameTable:
    return RenameTable(
        Ignore("proj_out.weight", "Whisper's own output head is used by nobody"),
        Rename("model.*", f"{ours}model.*"),
        Rename("encoder.*", f"{ours}model.encoder.*"),
        Rename("decoder.*", f"{ours}model.decoder.*"),
    )


def whisper_files(words: Mapping[str, Any]) -> dict[str, Any]:
    encoder = _encoder(words)
    told = _told("WhisperFeatureExtractor", encoder["steps"][0], _MEL_WORDS)
    return {
        "config.json": {"model_type": "whisper", **encoder["config"]},
        "preprocessor_config.json": told,
    }


# --- documents ---


def bert(words: dict[str, Any], place: Path, options: Mapping[str, Any]) -> None:
    encoder = _encoder(words)
    config, encoder["config"] = _network(place, "document encoder")
    told = read_json(place / "tokenizer_config.json") or {}
    # The reference cuts at 512 whatever the tokenizer says; a shorter encoder cannot take so many.
    most = min(512, int(getattr(config, "max_position_embeddings", 512)))
    step = encoder["steps"][0]
    if most != 512:
        step["max_length"] = most
    step["path"] = f"document.{_tokenizer(place, told).name}"


def _tokenizer(place: Path, told: Mapping[str, Any]) -> Path:
    """The file of a text encoder's tokenizer.

    Raises:
        CheckpointError: there is none.
    """
    for name in ("tokenizer.json", "vocab.txt"):
        if (place / name).is_file():
            return place / name
    raise CheckpointError(
        "no tokenizer beside the document encoder",
        where=str(place),
        hint="it holds tokenizer.json or vocab.txt",
    )


def bert_table(ours: str, words: Mapping[str, Any]) -> RenameTable:
    return RenameTable(
        Ignore("*embeddings.position_ids", "computed, not learned"),
        Ignore("pooler.*", "the pooling layer is used by nobody"),
        Ignore("bert.pooler.*", "the pooling layer is used by nobody"),
        Ignore("cls.*", "used in pretraining only"),
        Rename("bert.*", f"{ours}tower.*"),
        Rename("*", f"{ours}tower.*"),
    )


def bert_files(words: Mapping[str, Any]) -> dict[str, Any]:
    return {"config.json": dict(_encoder(words)["config"])}


def bert_carried(words: Mapping[str, Any], place: Path) -> dict[str, Path]:
    path = str(_encoder(words)["steps"][0]["path"])
    folder = place if place.is_dir() else place.parent
    return {path: folder / path.removeprefix("document.")}


# --- sounds ---

_CLAP_STEP = (
    "sampling_rate",
    "feature_size",
    "max_length_s",
    "fft_window_size",
    "hop_length",
    "frequency_min",
    "frequency_max",
)
"""Words that CLAP's feature extractor and the step `clap_mel` share."""


def clap(words: dict[str, Any], place: Path, options: Mapping[str, Any]) -> None:
    encoder = _encoder(words)
    whole, audio = _network(place, "sound encoder", "audio_config")
    del audio["model_type"]
    encoder["config"] = {**audio, "projection_dim": int(whole.projection_dim)}
    step = encoder["steps"][0]
    if _hear(step, place, _CLAP_STEP).get("truncation", "fusion") != "fusion":
        step["fusion"] = False


def clap_table(ours: str, words: Mapping[str, Any]) -> RenameTable:
    return RenameTable(
        Ignore("*.attn_mask", "computed, not learned"),
        Rename("audio_model.*", f"{ours}audio_model.*"),
        Rename("audio_projection.*", f"{ours}audio_projection.*"),
        Ignore("text_model.*", "CLAP's text tower is used by nobody"),
        Ignore("text_projection.*", "CLAP's text tower is used by nobody"),
        Ignore("logit_scale_*", "belongs to CLAP's own loss"),
    )


def clap_files(words: Mapping[str, Any]) -> dict[str, Any]:
    encoder = _encoder(words)
    step = encoder["steps"][0]
    told = _told("ClapFeatureExtractor", step, _CLAP_STEP)
    told["truncation"] = "fusion" if step.get("fusion", True) else "rand_trunc"
    config = dict(encoder["config"])
    width = config["projection_dim"]
    return {
        "config.json": {"model_type": "clap", "audio_config": config, "projection_dim": width},
        "preprocessor_config.json": told,
    }


# --- videos ---


def xclip(words: dict[str, Any], place: Path, options: Mapping[str, Any]) -> None:
    encoder = _encoder(words)
    whole, vision = _network(place, "video encoder", "vision_config")
    del vision["model_type"]
    encoder["vision_config"] = vision
    encoder["projection_dim"] = int(whole.projection_dim)
    frames = int(vision["num_frames"])
    words["opens"]["num_frames"] = frames
    resize, clip_step = words["steps"]
    clip_step["num_frames"] = frames
    _look(resize, encoder["steps"][0], place, int(vision["image_size"]))


def xclip_table(ours: str, words: Mapping[str, Any]) -> RenameTable:
    loss = "belongs to X-CLIP's own loss"
    return RenameTable(
        Ignore("vision_model.embeddings.position_ids", "computed, not learned"),
        Rename("vision_model.*", f"{ours}vision_model.*"),
        Rename("visual_projection.*", f"{ours}visual_projection.*"),
        Rename("mit.*", f"{ours}mit.*"),
        Ignore("text_model.*", "X-CLIP's text tower is used by nobody"),
        Ignore("text_projection.*", loss),
        Ignore("prompts_generator.*", loss),
        Ignore("prompts_visual_*", loss),
        Ignore("logit_scale", loss),
    )


def xclip_files(words: Mapping[str, Any]) -> dict[str, Any]:
    encoder = _encoder(words)
    resize, normal = words["steps"][0], encoder["steps"][0]
    size = int(resize["size"])
    return {
        "config.json": {
            "model_type": "xclip",
            "projection_dim": encoder["projection_dim"],
            "vision_config": dict(encoder["vision_config"]),
        },
        "preprocessor_config.json": {
            "crop_size": {"height": size, "width": size},
            "image_mean": list(normal["mean"]),
            "image_std": list(normal["std"]),
            "size": {"shortest_edge": int(resize.get("shortest_edge", size))},
        },
    }
