"""Made-up cases of videos and long sounds: what the original drew is taken from wherever a case tells it.

The numbers come from transformers' own X-CLIP and CLAP on frames that PyAV decodes, not from our code.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, XCLIPConfig, XCLIPModel

from omnimix.convert.verifying import verify
from tests.cases import case_path

SIDE, FRAMES, RATE, HOP, LISTED = 32, 3, 24_000, 480, [4, 5, 6]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
BASE = case_path("multi_token/vision_lora/backbones/mistralai/Mistral-7B-Instruct-v0.1")
HIDDEN = 64  # of that base model


def film(count: int) -> bytes:
    """Frames of noise, which no two windows share."""
    file = io.BytesIO()
    draw = np.random.RandomState(0)
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv444p"
        for _ in range(count):
            frame = draw.randint(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def xclip(folder: Path) -> XCLIPModel:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2}
    vision = {**sizes, "image_size": SIDE, "patch_size": 16, "num_frames": FRAMES}
    vision |= {"mit_hidden_size": 12, "mit_intermediate_size": 24, "mit_num_attention_heads": 2}
    config = XCLIPConfig(
        vision_config=vision, text_config={**sizes, "vocab_size": 9}, projection_dim=12
    )
    model = XCLIPModel(config).eval()
    model.save_pretrained(folder)
    words = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    words |= {"image_mean": MEAN.tolist(), "image_std": STD.tolist()}
    (folder / "preprocessor_config.json").write_text(json.dumps(words))
    return model


def clap(folder: Path) -> tuple[ClapModel, ClapFeatureExtractor]:
    audio = {"spec_size": 64, "window_size": 2, "patch_size": 4, "patch_stride": [4, 4]}
    audio |= {"num_mel_bins": 64, "hidden_size": 16, "patch_embeds_hidden_size": 8}
    audio |= {"depths": [1, 1], "num_attention_heads": [1, 2], "enable_fusion": True}
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 9}
    text |= {"num_attention_heads": 1}
    config = ClapConfig(audio_config=audio, text_config=text, projection_dim=16)
    model = ClapModel(config).eval()
    model.save_pretrained(folder)
    extractor = ClapFeatureExtractor(
        feature_size=64, sampling_rate=RATE, max_length_s=1, hop_length=HOP, truncation="fusion"
    )
    extractor.save_pretrained(folder)
    return model, extractor


def pixels(path: Path, frames: list[int]) -> Tensor:
    with av.open(str(path)) as container:
        shown = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    chosen = np.stack([shown[i] for i in frames]) / 255
    return torch.from_numpy((chosen - MEAN) / STD).permute(0, 3, 1, 2).float()[None]


def projector(name: str, width: int) -> dict[str, Tensor]:
    prefix = f"base_model.model.model.{name}_lmm_projector.mlps"
    sizes = {"0.weight": (HIDDEN, width), "0.bias": (HIDDEN,)}
    sizes |= {"2.weight": (HIDDEN, HIDDEN), "2.bias": (HIDDEN,)}
    return {
        f"{prefix}.{i}.{key}": torch.randn(size) * 0.1
        for i in range(2)
        for key, size in sizes.items()
    }


class Made:
    """A case of one request, free to be told in any way."""

    def __init__(self, folder: Path, theirs: str, key: str, item: str) -> None:
        self.folder, self.theirs, self.key = folder, theirs, key
        self.facts: dict[str, Any] = {
            "family": "multi_token",
            "case": "made up",
            "modalities": [{"name": theirs, "token_width": 2, "data_key": key}],
            "tolerance_absolute": {
                "preprocessed": 1e-4,
                "features": 1e-4,
                "projected": 1e-4,
                "inputs_embeds": 1e-4,
                "logits": 5e-4,
                "loss": 1e-4,
                "grad": 1e-3,
            },
            "requests": [{"name": "one"}],
        }
        token = {"videos": "<video>", "sounds": "<sound>"}[key]
        messages = [{"role": "user", "content": f"{token} What is it?"}]
        self.row: dict[str, Any] = {"name": "one", "body": {"messages": messages, key: [item]}}
        self.tensors: dict[str, Tensor] = {}
        checkpoint = folder / "checkpoint"
        checkpoint.mkdir()
        words = json.loads(case_path("multi_token/vision_lora/checkpoint/config.json").read_text())
        words |= {"modalities": [theirs], "modality_builder": "made up"}
        (checkpoint / "config.json").write_text(json.dumps(words))
        places = {"llm": str(BASE), theirs: f"backbones/{theirs}"}
        (folder / "parts.json").write_text(json.dumps({"places": places}))

    def verify(self) -> Any:
        (self.folder / "case.json").write_text(json.dumps(self.facts))
        asked = {"requests": [self.row]}
        (self.folder / "inputs" / "request.json").write_text(json.dumps(asked))
        held = {key: tensor.contiguous() for key, tensor in self.tensors.items()}
        save_file(held, self.folder / "expected.safetensors")
        return verify(self.folder)


@pytest.fixture
def video(tmp_path: Path) -> Made:
    torch.manual_seed(0)
    (tmp_path / "inputs").mkdir()
    path = tmp_path / "inputs" / "clip.mkv"
    path.write_bytes(film(12))
    made = Made(tmp_path, "video_xclip", "videos", "clip.mkv")
    model = xclip(tmp_path / "backbones" / "video_xclip")
    stored = projector("video_xclip", 12)
    torch.save(stored, tmp_path / "checkpoint" / "non_lora_trainables.bin")
    tiles = pixels(path, LISTED)
    ids = torch.tensor([[1, 2]])
    with torch.inference_mode():
        seen = model(input_ids=ids, pixel_values=tiles, attention_mask=torch.ones_like(ids))
    key = "req0.video_xclip"
    made.tensors |= {
        f"{key}.preprocessed.pixel_values": tiles,
        f"{key}.preprocessed.input_ids": ids,
        f"{key}.preprocessed.attention_mask": torch.ones_like(ids),
        f"{key}.features": seen.video_embeds.reshape(1, 1, -1),
    }
    return made


@pytest.fixture
def sound(tmp_path: Path) -> Made:
    torch.manual_seed(0)
    (tmp_path / "inputs").mkdir()
    wave = np.random.RandomState(1).uniform(-0.5, 0.5, int(RATE * 2.5)).astype(np.float32)
    wave *= np.linspace(0.1, 1, len(wave), dtype=np.float32)
    soundfile.write(tmp_path / "inputs" / "long.wav", wave, RATE, subtype="FLOAT")
    made = Made(tmp_path, "audio_clap", "sounds", "long.wav")
    model, extractor = clap(tmp_path / "backbones" / "audio_clap")
    stored = projector("audio_clap", 16)
    torch.save(stored, tmp_path / "checkpoint" / "non_lora_trainables.bin")
    np.random.seed(7)
    told = extractor(wave, sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        seen = model.get_audio_features(**told)
    seen = torch.nn.functional.normalize(getattr(seen, "pooler_output", seen), dim=-1)
    made.tensors |= {
        "req0.audio_clap.preprocessed.0.input_features": told["input_features"],
        "req0.audio_clap.preprocessed.0.is_longer": told["is_longer"],
        "req0.audio_clap.features": seen.reshape(1, 1, -1),
    }
    return made


def crops() -> list[int]:
    """What the extractor drew with that seed."""
    draw = np.random.RandomState(7)
    frames = RATE // HOP + 1
    total = int(RATE * 2.5) // HOP + 1
    thirds = np.array_split(list(range(total - frames + 1)), 3)
    return [int(draw.choice(third)) for third in thirds]


TELLS: dict[str, Callable[[Made, Any], None]] = {
    "in the item": lambda made, told: made.row["body"][made.key].__setitem__(
        0,
        {
            "path": made.row["body"][made.key][0],
            "frames" if len(told) == FRAMES and made.key == "videos" else "crops": told,
        },
    ),
    "beside the body": lambda made, told: made.row.update(frame_indices=[told], crops=[told]),
    "in the request's facts": lambda made, told: made.facts["requests"][0].update(
        {"frames" if made.key == "videos" else "crops": {made.key: [told]}}
    ),
    "in a table by request": lambda made, told: made.facts.update(
        {
            "sampled_frames" if made.key == "videos" else "clap_crops": {
                f"req0.{made.theirs}": [told]
            }
        }
    ),
    "in a table by name": lambda made, told: made.facts.update(
        {"windows" if made.key == "videos" else "crops": {"one": told}}
    ),
    "as a tensor": lambda made, told: made.tensors.update(
        {
            f"req0.{made.theirs}.{'frame' if made.key == 'videos' else 'crop'}_indices": torch.tensor(
                [told]
            )
        }
    ),
    "not at all": lambda made, told: None,
}


@pytest.mark.parametrize("where", TELLS)
def test_listed_frames_of_a_video_are_taken(where: str, video: Made) -> None:
    TELLS[where](video, LISTED)
    report = video.verify()
    assert report.failed is None, report.failed
    assert {"preprocessed", "features"} <= {check.stage for check in report.checks}
    assert report.unread == []


@pytest.mark.parametrize("where", TELLS)
def test_listed_crops_of_a_long_sound_are_taken(where: str, sound: Made) -> None:
    TELLS[where](sound, crops())
    report = sound.verify()
    assert report.failed is None, report.failed
    assert report.unread == []


def test_frames_that_are_pictures_are_the_window(video: Made) -> None:
    from PIL import Image

    with av.open(str(video.folder / "inputs" / "clip.mkv")) as container:
        shown = [frame.to_image() for frame in container.decode(video=0)]
    names = [f"{i}.png" for i in LISTED]
    for name, i in zip(names, LISTED, strict=True):
        assert isinstance(shown[i], Image.Image)
        shown[i].save(video.folder / "inputs" / name)
    video.row["body"]["videos"] = [names]
    report = video.verify()
    assert report.failed is None, report.failed


def test_another_window_is_found_to_differ(video: Made) -> None:
    video.facts["requests"][0]["frames"] = [[0, 1, 2]]
    report = video.verify()
    assert report.failed is not None and report.failed.stage == "preprocessed"
