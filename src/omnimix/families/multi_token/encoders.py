"""The encoders of multi_token's modalities: sizes out of a folder, keys of its file, and the folder written back.

For each: `sized` lays what a folder of the hub says of itself over the modality's words, `table` names the keys
of its file, `files` are the small files of which `sized` makes the words again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnimix.checkpoints import parts as places
from omnimix.checkpoints.base import read_json
from omnimix.checkpoints.tables import Ignore, Rename, Table
from omnimix.errors import CheckpointError


def _inner(found: Mapping[str, Any], word: str, kind: str) -> dict[str, Any]:
    """A tower's configuration inside that of a whole model; early files write it twice."""
    own = found if found.get("model_type") == kind else found.get(word) or {}
    again = found.get(f"{word}_dict")
    return {**own, **(again if isinstance(again, Mapping) else {})}


def _chosen(found: Mapping[str, Any], words: tuple[str, ...]) -> dict[str, Any]:
    return {word: found[word] for word in words if found.get(word) is not None}


def _encoder(words: Mapping[str, Any]) -> dict[str, Any]:
    """The words of a modality's one encoder."""
    (found,) = words["branches"][0]["encoders"]
    words_: dict[str, Any] = found
    return words_


# --- pictures ---

_CLIP_WORDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
)
_CLIP_DEFAULTS = {
    "model_type": "clip_vision_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
}
"""What a CLIP configuration means by a word that it leaves out."""


def clip(words: dict[str, Any], place: Path, options: Mapping[str, Any]) -> None:
    config = places.config(place, "image encoder")
    vision = _inner(config, "vision_config", "clip_vision_model")
    encoder = _encoder(words)
    encoder["config"] = {**_CLIP_DEFAULTS, **_chosen(vision, _CLIP_WORDS)}
    processor = read_json(place / "preprocessor_config.json") or {}
    (step,) = words["steps"]
    side = encoder["config"]["image_size"]
    shorter, size = (_side(processor.get(word), side) for word in ("size", "crop_size"))
    step["size"] = size
    if shorter != size:
        step["shortest_edge"] = shorter
    normal = encoder["steps"][0]
    for word, ours in (("image_mean", "mean"), ("image_std", "std")):
        normal[ours] = list(processor.get(word) or normal[ours])
    if options.get("pad_non_square_images"):
        fill = [int(channel * 255) for channel in normal["mean"]]
        words["steps"].insert(0, {"kind": "pad", "fill": fill})


def _side(said: Any, default: int) -> int:
    """A size in a processor's configuration: a number, or a table."""
    if isinstance(said, Mapping):
        said = said.get("shortest_edge", said.get("height"))
    return int(said) if said is not None else int(default)


def clip_table(ours: str, words: Mapping[str, Any]) -> Table:
    encoder = _encoder(words)
    depth = int(encoder["config"]["num_hidden_layers"])
    layer = encoder.get("layer")
    behind = range(depth + 1 + layer, depth) if layer is not None else range(0)
    return Table(
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

_WHISPER_WORDS = (
    "d_model",
    "encoder_layers",
    "decoder_layers",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "vocab_size",
    "num_mel_bins",
    "max_source_positions",
    "max_target_positions",
    "decoder_start_token_id",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "activation_function",
    "scale_embedding",
)
_MEL_WORDS = {
    "feature_size": "feature_size",
    "sampling_rate": "sampling_rate",
    "chunk_length": "chunk_length",
    "n_fft": "n_fft",
    "hop_length": "hop_length",
}
"""Words of Whisper's feature extractor and of the step `log_mel`."""


def _hear(step: dict[str, Any], place: Path, words: Mapping[str, str]) -> Mapping[str, Any]:
    """Set a step as the feature extractor beside the weights says, which is given back; no file changes nothing."""
    told: dict[str, Any] = read_json(place / "preprocessor_config.json") or {}
    step |= {ours: told[word] for word, ours in words.items() if told.get(word) is not None}
    return told


def _told(kind: str, step: Mapping[str, Any], words: Mapping[str, str]) -> dict[str, Any]:
    """The file of a feature extractor of this kind, written from a step."""
    return {
        "feature_extractor_type": kind,
        **{word: step[ours] for word, ours in words.items() if ours in step},
    }


def whisper(words: dict[str, Any], place: Path, options: Mapping[str, Any]) -> None:
    config = places.config(place, "speech encoder")
    encoder = _encoder(words)
    encoder["config"] = _chosen(config, _WHISPER_WORDS)
    _hear(encoder["steps"][0], place, _MEL_WORDS)


def whisper_table(ours: str, words: Mapping[str, Any]) -> Table:
    return Table(
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

_BERT_WORDS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "hidden_act",
)


def bert(words: dict[str, Any], place: Path, options: Mapping[str, Any]) -> None:
    config = places.config(place, "document encoder")
    encoder = _encoder(words)
    encoder["config"] = _chosen(config, _BERT_WORDS)
    told = read_json(place / "tokenizer_config.json") or {}
    # The reference cuts at 512 whatever the tokenizer says; a shorter encoder cannot take so many.
    most = min(512, int(config.get("max_position_embeddings") or 512))
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


def bert_table(ours: str, words: Mapping[str, Any]) -> Table:
    return Table(
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

_CLAP_WORDS = (
    "hidden_size",
    "patch_embeds_hidden_size",
    "depths",
    "num_attention_heads",
    "window_size",
    "spec_size",
    "patch_size",
    "patch_stride",
    "patch_embed_input_channels",
    "num_mel_bins",
    "enable_fusion",
    "fusion_type",
    "aff_block_r",
    "enable_patch_layer_norm",
    "flatten_patch_embeds",
    "mlp_ratio",
    "qkv_bias",
    "layer_norm_eps",
    "hidden_act",
    "projection_hidden_act",
)
_CLAP_STEP = {
    "sampling_rate": "sampling_rate",
    "feature_size": "feature_size",
    "max_length_s": "max_length_s",
    "fft_window_size": "fft_window_size",
    "hop_length": "hop_length",
    "frequency_min": "frequency_min",
    "frequency_max": "frequency_max",
}
"""Words of CLAP's feature extractor and of the step `clap_mel`."""


def clap(words: dict[str, Any], place: Path, options: Mapping[str, Any]) -> None:
    config = places.config(place, "sound encoder")
    audio = _inner(config, "audio_config", "clap_audio_model")
    encoder = _encoder(words)
    width = audio.get("projection_dim") or config.get("projection_dim") or 512
    encoder["config"] = {**_chosen(audio, _CLAP_WORDS), "projection_dim": int(width)}
    step = encoder["steps"][0]
    if _hear(step, place, _CLAP_STEP).get("truncation", "fusion") != "fusion":
        step["fusion"] = False


def clap_table(ours: str, words: Mapping[str, Any]) -> Table:
    return Table(
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

_XCLIP_WORDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "num_frames",
    "mit_hidden_size",
    "mit_intermediate_size",
    "mit_num_hidden_layers",
    "mit_num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
)


def xclip(words: dict[str, Any], place: Path, options: Mapping[str, Any]) -> None:
    config = places.config(place, "video encoder")
    vision = _inner(config, "vision_config", "xclip_vision_model")
    encoder = _encoder(words)
    encoder["vision_config"] = _chosen(vision, _XCLIP_WORDS)
    encoder["width"] = int(config.get("projection_dim") or 512)
    frames = int(vision.get("num_frames") or 8)
    words["opens"]["num_frames"] = frames
    resize, clip_step = words["steps"]
    clip_step["num_frames"] = frames
    processor = read_json(place / "preprocessor_config.json") or {}
    size = int(vision.get("image_size") or 224)
    shorter, side = (_side(processor.get(word), size) for word in ("size", "crop_size"))
    resize["size"] = side
    if shorter != side:
        resize["shortest_edge"] = shorter
    normal = encoder["steps"][0]
    for word, ours in (("image_mean", "mean"), ("image_std", "std")):
        normal[ours] = list(processor.get(word) or normal[ours])


def xclip_table(ours: str, words: Mapping[str, Any]) -> Table:
    loss = "belongs to X-CLIP's own loss"
    return Table(
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
            "projection_dim": encoder["width"],
            "vision_config": dict(encoder["vision_config"]),
        },
        "preprocessor_config.json": {
            "crop_size": {"height": size, "width": size},
            "image_mean": list(normal["mean"]),
            "image_std": list(normal["std"]),
            "size": {"shortest_edge": int(resize.get("shortest_edge", size))},
        },
    }
