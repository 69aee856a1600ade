"""Encoders of sounds and videos equal the whole models of transformers that they are parts of."""

from __future__ import annotations

import torch
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapModel,
    ClapTextConfig,
    WhisperConfig,
    WhisperModel,
    XCLIPConfig,
    XCLIPModel,
)

from omnimix.encoders.sounds import Clap, Whisper
from omnimix.encoders.videos import XClip
from tests.contracts.examples import EXAMPLES

CLAP = EXAMPLES["encoders"]["clap"][1]["config"]
XCLIP = EXAMPLES["encoders"]["xclip"][0]["vision_config"]
WHISPER = EXAMPLES["encoders"]["whisper"][0]["config"]


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough that every part counts."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def test_clap_is_the_audio_side_of_clap() -> None:
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 8}
    text = ClapTextConfig(**small, num_attention_heads=1, projection_dim=12)
    config = ClapConfig(
        text_config=text.to_dict(),
        audio_config=ClapAudioConfig(**CLAP).to_dict(),
        projection_dim=12,
    )
    whole = shaken(ClapModel(config))
    ours = Clap(config=CLAP).build().eval()
    state = whole.state_dict()
    ours.load_state_dict({key: state[key] for key in ours.state_dict()})
    tiles = torch.randn(2, 4, 250, 16)
    with torch.no_grad():
        longer = torch.ones(2, 1, dtype=torch.bool)
        wanted = whole.get_audio_features(input_features=tiles, is_longer=longer).pooler_output
        torch.testing.assert_close(ours(tiles)[:, 0], wanted)
        short = whole.get_audio_features(input_features=tiles, is_longer=~longer).pooler_output
    assert not torch.allclose(short, wanted, atol=1e-3)  # being long changes what is heard


def test_xclip_is_the_video_side_of_xclip() -> None:
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 8}
    text = {**small, "num_attention_heads": 1, "max_position_embeddings": 4}
    config = XCLIPConfig(text_config=text, vision_config=XCLIP, projection_dim=12)
    config.prompt_num_attention_heads = 2
    whole = shaken(XCLIPModel(config))
    ours = XClip(vision_config=XCLIP, projection_dim=12).build().eval()
    state = whole.state_dict()
    ours.load_state_dict({key: state[key] for key in ours.state_dict()})
    tiles = torch.randn(2, 3, 3, 32, 32)
    with torch.no_grad():
        words = torch.tensor([[1, 2, 3]])
        wanted = whole(input_ids=words, pixel_values=tiles).video_embeds
        torch.testing.assert_close(ours(tiles)[:, 0], wanted)


def test_whisper_reads_its_decoder_or_its_encoder() -> None:
    whole = shaken(WhisperModel(WhisperConfig(**WHISPER)))
    tiles = torch.randn(2, 8, 20)
    with torch.no_grad():
        ids = torch.full((2, 1), WHISPER["decoder_start_token_id"])
        last = whole(input_features=tiles, decoder_input_ids=ids).last_hidden_state
        frames = whole.encoder(tiles).last_hidden_state
        for reads, wanted in (("start", last), ("frames", frames)):
            ours = Whisper(config=WHISPER, reads=reads).build().eval()
            state = {f"model.{key}": value for key, value in whole.state_dict().items()}
            ours.load_state_dict({key: state[key] for key in ours.state_dict()})
            torch.testing.assert_close(ours(tiles), wanted)


def test_an_encoder_that_learns_nothing_stays_in_evaluation() -> None:
    encoder = Clap(config=CLAP).build()
    assert encoder.train().training and encoder.audio_model.training
    encoder.eval().requires_grad_(False)
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    encoder(torch.randn(2, 4, 250, 16))
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
