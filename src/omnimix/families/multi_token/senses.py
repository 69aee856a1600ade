"""The senses of multi_token, one row each: the encoder, its keys, the shipped recipe with its words."""

from __future__ import annotations

from omnimix.checkpoints.parts import CONFIGS
from omnimix.errors import CheckpointError
from omnimix.families.multi_token.encoders import Heard, Read, Seen, Sense
from omnimix.families.multi_token.imagebind import ImageBindSense

_TEXTS = ("text_model.*", "text_projection.*", "logit_scale", "logit_scale_*")
"""What networks that were trained on pairs with texts hold beside the half that is read."""

_BIN = (*CONFIGS, "pytorch_model*.bin")

SENSES: dict[str, Sense] = {
    "vision_clip": Seen(
        "image",
        "openai/clip-vit-large-patch14-336",
        "multi_token",
        moves={"vision_model.": "tower."},
        unused=(*_TEXTS, "visual_projection.*"),
        model_type="clip_vision_model",
        side="vision_config",
        processor="CLIPFeatureExtractor",
        files=_BIN,
    ),
    "audio_whisper": Heard(
        "speech",
        "openai/whisper-small",
        "multi_token_speech",
        moves={"model.": "model.", "encoder.": "model.encoder.", "decoder.": "model.decoder."},
        unused=("proj_out.weight",),
        model_type="whisper",
        processor="WhisperFeatureExtractor",
    ),
    "audio_clap": Heard(
        "sound",
        "laion/clap-htsat-fused",
        "multi_token_sound",
        moves={name: name for name in ("audio_model.", "audio_projection.")},
        unused=_TEXTS,
        model_type="clap_audio_model",
        side="audio_config",
        processor="ClapFeatureExtractor",
        files=_BIN,
    ),
    "video_xclip": Seen(
        "video",
        "microsoft/xclip-base-patch32",
        "multi_token_video",
        moves={name: name for name in ("vision_model.", "visual_projection.", "mit.")},
        unused=(*_TEXTS, "prompts_generator.*", "prompts_visual_*"),
        model_type="xclip_vision_model",
        side="vision_config",
        config="vision_config",
        processor="VideoMAEFeatureExtractor",
        files=_BIN,
    ),
    "imagebind": ImageBindSense(
        "imagebind", "imagebind", "multi_token_imagebind", moves={"modality_": "modality_"}
    ),
    "document_gte": Read(
        "document",
        "thenlper/gte-large",
        "multi_token_document",
        moves={"bert.": "tower.", "": "tower."},
        unused=("pooler.*", "bert.pooler.*", "cls.*"),
        model_type="bert",
    ),
}
"""By the reference's names."""

THEIRS = {sense.name: name for name, sense in SENSES.items()}
"""The reference's names by ours."""

BUILDERS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in SENSES},
    "vision_clip_pool": ("vision_clip",),
    "document_gte_x16": ("document_gte",),
}
"""The modalities that a builder makes. How many tokens each gives is told by its projector."""


def sense(name: str, where: str) -> Sense:
    """A modality by the reference's name.

    Raises:
        CheckpointError: it is none of the published ones.
    """
    if name not in SENSES:
        raise CheckpointError(
            f"unknown modality {name!r}",
            where=where,
            hint=f"the published ones are {', '.join(SENSES)}; open others from a recipe of your own",
        )
    return SENSES[name]
