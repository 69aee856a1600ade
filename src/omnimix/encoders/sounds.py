"""Encoders of sounds: Whisper and CLAP of transformers, built from words in the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from omnimix._transformers import restore_ids
from omnimix.encoders.base import Encoder, EncoderSpec, Features, Own
from omnimix.encoders.hub_words import completed, loaded
from omnimix.hf_config import known, make
from omnimix.hub import read_json
from omnimix.registry import STEPS


def heard(words: Mapping[str, Any], place: Path, kind: str) -> dict[str, Any]:
    """The words of an encoder of sounds, with the step that the feature extractor in its folder describes."""
    said = read_json(place / "preprocessor_config.json") if place.is_dir() else None
    if said is None or "steps" in words:
        return dict(words)
    known = STEPS.load(kind).model_fields
    step = {w: v for w, v in said.items() if w in known and v is not None}
    if "fusion" in known and said.get("truncation", "fusion") != "fusion":
        step["fusion"] = False
    return {**words, "steps": [{"kind": kind, **step}]}


class WhisperTower(Encoder):
    """Whisper: what its decoder makes of a single start token, or what its encoder heard frame by frame.

    Parameters have transformers' names (`model.encoder...`, `model.decoder...`).
    """

    def __init__(self, spec: Whisper) -> None:
        super().__init__()
        from transformers import AutoModel

        config = make(spec.config, "whisper")
        whole = AutoModel.from_config(config, attn_implementation="sdpa")
        self.start = int(config.decoder_start_token_id)
        self.frames = spec.reads == "frames"
        self.model: Any = nn.ModuleDict({"encoder": whole.encoder}) if self.frames else whole
        tokens = int(config.max_source_positions) if self.frames else 1
        self.features = Features(tokens, int(config.d_model))

    def forward(self, tiles: Float[Tensor, "tiles bins frames"]) -> Float[Tensor, "tiles n d"]:
        if self.frames:
            heard: Tensor = self.model["encoder"](tiles).last_hidden_state
            return heard
        ids = torch.full((tiles.shape[0], 1), self.start, device=tiles.device)
        found: Tensor = self.model(
            input_features=tiles, decoder_input_ids=ids, use_cache=False
        ).last_hidden_state
        return found

    def init_non_persistent_buffers(self) -> None:
        restore_ids(self)


class Whisper(EncoderSpec):
    """Whisper of transformers; the step `log_mel` makes what it hears.

    Attributes:
        config: words of transformers' WhisperConfig.
        reads: `start` is the decoder's last state of one start token, a single vector;
            `frames` are the encoder's last states, and there is no decoder then.
    """

    kind: Literal["whisper"] = "whisper"
    config: Annotated[dict[str, Any], known("whisper")] = {}
    reads: Literal["start", "frames"] = "start"

    @classmethod
    def complete(cls, words: Mapping[str, Any], place: Path) -> dict[str, Any]:
        return heard(completed(words, place, ""), place, "log_mel")

    def stored(
        self, module: nn.Module, tensors: Mapping[str, Tensor], place: Path
    ) -> Mapping[str, Tensor]:
        return loaded("WhisperModel", place, make(self.config, "whisper"), tensors)

    def build(self, source: Features | None = None) -> Encoder:
        return WhisperTower(self)


class ClapTower(Encoder):
    """CLAP's audio tower, projected and normed to length 1.

    A model that fuses channels is always told that the sound is a long one: its own preparation says so of
    every sound that comes alone.
    """

    def __init__(self, spec: Clap) -> None:
        super().__init__()
        from transformers import ClapAudioModelWithProjection

        config = make(spec.config, "clap_audio_model")
        whole = ClapAudioModelWithProjection(config)
        self.fuses = bool(config.enable_fusion)
        self.audio_model: nn.Module = whole.audio_model
        self.audio_projection: nn.Module = whole.audio_projection
        self.features = Features(1, int(config.projection_dim))
        self.train()

    def train(self: Own, mode: bool = True) -> Own:
        """Batch norms keep their statistics: a batch may hold one sound alone, which has none."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(
        self, tiles: Float[Tensor, "tiles channels frames bins"]
    ) -> Float[Tensor, "tiles 1 d"]:
        longer = torch.ones(len(tiles), 1, dtype=torch.bool, device=tiles.device)
        heard = self.audio_model(input_features=tiles, is_longer=longer if self.fuses else None)
        found: Tensor = self.audio_projection(heard.pooler_output)
        return functional.normalize(found, dim=-1)[:, None]


class Clap(EncoderSpec):
    """CLAP's audio tower of transformers; the step `clap_mel` makes what it hears.

    Attributes:
        config: words of transformers' ClapAudioConfig.
    """

    kind: Literal["clap"] = "clap"
    config: Annotated[dict[str, Any], known("clap_audio_model")] = {}

    @classmethod
    def complete(cls, words: Mapping[str, Any], place: Path) -> dict[str, Any]:
        return heard(completed(words, place, "audio_config"), place, "clap_mel")

    def stored(
        self, module: nn.Module, tensors: Mapping[str, Tensor], place: Path
    ) -> Mapping[str, Tensor]:
        config = make(self.config, "clap_audio_model")
        return loaded("ClapAudioModelWithProjection", place, config, tensors)

    def build(self, source: Features | None = None) -> Encoder:
        return ClapTower(self)
