"""multi_token's preprocessing and features against the published code's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from omnimix.encoders.base import Encoder
from omnimix.encoders.imagebind import ImageBind, Trunk
from omnimix.encoders.sounds import Whisper
from omnimix.encoders.texts import TextEncoder
from omnimix.encoders.transformers import TransformersVision
from omnimix.media.audio import AudioOpener
from omnimix.media.document import DocumentOpener
from omnimix.media.files import looking_in
from omnimix.media.image import ImageOpener
from omnimix.media.opening import MediaOpener
from omnimix.media.several import OneKind, Several
from omnimix.media.sound_steps import ImageBindSound, LogMel
from omnimix.media.steps import ResizeCrop
from omnimix.media.tensor_steps import Normalize
from omnimix.media.text_steps import NOTHING, Tokenize
from omnimix.media.tiles import Step
from omnimix.types import Media
from tests.cases import golden

CLIP = Normalize(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))


def body(folder: Path, request: int) -> dict:
    return json.loads((folder / "inputs/request.json").read_text())["requests"][request]["body"]


def prepared(opener: MediaOpener, data: object, *steps: Step) -> Tensor:
    tiles = opener.tiles(opener.open(Media(opener.kind, data)))
    for step in steps:
        tiles = step(tiles)
    return tiles.tensor()


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("request_index", [0, 1])
def test_speech(request_index: int) -> None:
    folder, facts, expected = golden("multi_token/audio_document_mix")
    given = body(folder, request_index)["speech_audios"][0]
    data = (
        {**given, "path": str(folder / "inputs" / given["path"])}
        if isinstance(given, dict)
        else str(folder / "inputs" / given)
    )
    sound = AudioOpener().open(Media.audio(data))
    name = f"req{request_index}.audio_whisper"
    tail = facts["whisper_constant_tail"][f"{name}.preprocessed"]
    frames = tail["stored_frames"]
    (key,) = [key for key in expected if key.startswith(f"{name}.preprocessed")]
    mel = LogMel()(AudioOpener().tiles(sound)).tensor()
    assert mel.shape == (1, 80, tail["total_frames"])
    close(mel[..., :frames], expected[key].reshape(1, 80, frames))
    rest = mel[..., frames:]
    close(rest, torch.full_like(rest, tail["value_of_all_later_frames"][0]))


@pytest.mark.parametrize("request_index", [0, 1])
def test_documents(request_index: int) -> None:
    folder, _, expected = golden("multi_token/audio_document_mix")
    backbone = folder / "backbones/thenlper/gte-large"
    step = Tokenize(path="tokenizer.json")
    ids = expected[f"req{request_index}.document_gte.preprocessed.input_ids"]
    mask = expected[f"req{request_index}.document_gte.preprocessed.attention_mask"]
    for given, row, seen in zip(body(folder, request_index)["documents"], ids, mask, strict=True):
        with looking_in([backbone]):
            found = prepared(DocumentOpener(), given, step)
        assert found.shape[1] % 64 == 0
        assert torch.equal(found[found != NOTHING], row[seen == 1])


def test_imagebind() -> None:
    folder, _, expected = golden("multi_token/imagebind_three_kinds")
    picture, sound = (str(folder / "inputs" / path) for path in body(folder, 0)["imagebinds"])
    clips = prepared(AudioOpener(), sound, ImageBindSound())
    assert clips.shape == (1, 3, 1, 128, 204)
    close(clips[:, :2], expected["req0.imagebind.preprocessed.1.audio_clips_0_1"])
    pixels = prepared(ImageOpener(), picture, ResizeCrop(size=224), CLIP)
    close(pixels[..., 64:160, 64:160], expected["req0.imagebind.preprocessed.0.vision_center96"])


@pytest.mark.parametrize("request_index", [0, 1, 2])
def test_pictures(request_index: int) -> None:
    folder, _, expected = golden("multi_token/vision_lora")
    wanted = expected[f"req{request_index}.vision_clip.preprocessed"]
    for path, row in zip(body(folder, request_index)["images"], wanted, strict=True):
        step = ResizeCrop(size=56, rounding="floor")
        close(prepared(ImageOpener(), str(folder / "inputs" / path), step, CLIP)[0], row)


def loaded(
    encoder: Encoder, weights: dict[str, Tensor], before: str = "", after: str = ""
) -> Encoder:
    """The encoder with weights of a published backbone, whose names differ by what stands in front."""
    own = encoder.state_dict()
    theirs = {f"{after}{key.removeprefix(before)}": value.float() for key, value in weights.items()}
    encoder.load_state_dict({key: theirs[key] for key in own})
    return encoder.eval()


def features(encoder: Encoder, tiles: Tensor) -> Tensor:
    with torch.inference_mode():
        return encoder(tiles)


def test_whisper_features() -> None:
    folder, _, expected = golden("multi_token/audio_document_mix")
    backbone = folder / "backbones/openai/whisper-small"
    words = json.loads((backbone / "config.json").read_text())
    encoder = loaded(
        Whisper(config=plain(words)).build(), load_file(backbone / "model.safetensors")
    )
    for request in (0, 1):
        given = body(folder, request)["speech_audios"][0]
        path = given["path"] if isinstance(given, dict) else given
        tiles = prepared(AudioOpener(), str(folder / "inputs" / path), LogMel())
        found = features(encoder, tiles)
        close(found, expected[f"req{request}.audio_whisper.features"].reshape(found.shape))


def test_document_features() -> None:
    folder, _, expected = golden("multi_token/audio_document_mix")
    backbone = folder / "backbones/thenlper/gte-large"
    words = json.loads((backbone / "config.json").read_text())
    weights = load_file(backbone / "model.safetensors")
    encoder = loaded(TextEncoder(config=plain(words)).build(), weights, after="tower.")
    step = Tokenize(path="tokenizer.json")
    for request in (0, 1):
        rows = expected[f"req{request}.document_gte.features"]
        for given, row in zip(body(folder, request)["documents"], rows, strict=True):
            with looking_in([backbone]):
                tiles = prepared(DocumentOpener(), given, step)
            close(features(encoder, tiles).flatten(), row.flatten())


def test_pooled_and_patch_features() -> None:
    for case, pooled in (("vision_lora", False), ("audio_document_mix", True)):
        folder, facts, expected = golden(f"multi_token/{case}")
        backbone = folder / "backbones/openai/clip-vit-large-patch14-336"
        words = json.loads((backbone / "config.json").read_text())["vision_config"]
        weights = torch.load(backbone / "pytorch_model.bin", weights_only=True, mmap=True)
        spec = TransformersVision(config=plain(words), layer=None if pooled else -2, pooled=pooled)
        encoder = loaded(spec.build(), weights, before="vision_model.", after="tower.")
        side = facts["dims"]["openai/clip-vit-large-patch14-336"]["image"]
        step = ResizeCrop(size=side, rounding="floor")
        rows = expected["req0.vision_clip.features"]
        for path, row in zip(body(folder, 0)["images"], rows, strict=True):
            found = features(
                encoder, prepared(ImageOpener(), str(folder / "inputs" / path), step, CLIP)
            )
            close(found if pooled else found[:, 1:], row.reshape(1, -1, row.shape[-1]))


def test_imagebind_features() -> None:
    folder, facts, expected = golden("multi_token/imagebind_three_kinds")
    weights = torch.load(
        folder / "backbones/imagebind/imagebind_huge.pth", weights_only=True, mmap=True
    )
    dims = facts["dims"]["imagebind"]
    spec = ImageBind(
        **{
            kind: Trunk(
                width=dims[f"{kind}_embed_dim"],
                blocks=dims[f"{kind}_blocks"],
                heads=dims[f"{kind}_heads"],
            )
            for kind in ("vision", "audio", "text")
        },
        width=dims["out_embed_dim"],
        vocabulary=dims["text_vocabulary"],
    )
    encoder = loaded(spec.build(), weights)
    opener = Several(
        kinds={
            "audio": OneKind(opens=AudioOpener(), steps=(ImageBindSound(),)),
            "image": OneKind(opens=ImageOpener(), steps=(ResizeCrop(size=224), CLIP)),
        }
    )
    for request in (0, 1):
        rows = expected[f"req{request}.imagebind.features"]
        for path, row in zip(body(folder, request)["imagebinds"], rows, strict=True):
            tiles = prepared(opener, str(folder / "inputs" / path))
            close(features(encoder, tiles)[0], row)


def plain(words: dict) -> dict:
    """A configuration's own words, without notes about the file."""
    notes = ("architectures", "torch_dtype", "transformers_version")
    return {key: value for key, value in words.items() if key not in notes}
