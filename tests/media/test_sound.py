"""Sounds: whatever comes in becomes samples or one clear sentence; steps equal the published extractors."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from transformers import ClapFeatureExtractor, WhisperFeatureExtractor

from omnimix.errors import MediaError
from omnimix.media.audio import AudioOpener, Sound
from omnimix.media.opening import needed
from omnimix.media.sound_steps import ClapMel, ImageBindSound, LogMel, resampled, sinc
from omnimix.media.tiles import Tiles
from omnimix.types import Media

RATE = 16_000


def tone(seconds: float = 1.0, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """A chord with a little noise, `[channels, samples]`."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(size=(channels, len(time))) * 0.02
    return (
        0.3 * np.sin(2 * np.pi * 440 * time) + 0.2 * np.sin(2 * np.pi * 97 * time) + noise
    ).astype(np.float32)


def encoded(format: str, samples: np.ndarray, rate: int = RATE, **words: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples.T, rate, format=format, **words)
    return file.getvalue()


def m4a(samples: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=rate)
        stream.layout = "mono"
        for start in range(0, samples.shape[1], 1024):
            piece = np.ascontiguousarray(samples[:1, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def heard(data: object, **words: float) -> Sound:
    return AudioOpener(**words).open(Media.audio(data))


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
def test_files_of_every_format(format: str, tmp_path: Path) -> None:
    wave = tone(channels=2)
    content = encoded(format, wave)
    path = tmp_path / "sound.txt"  # the content decides
    path.write_bytes(content)
    for data in (content, str(path), path, {"path": str(path)}, {"path": None, "bytes": content}):
        sound = heard(data)
        assert sound.rate == RATE and sound.channels.shape[0] == 2
        assert sound.channels.dtype == np.float32
        assert sound.seconds == pytest.approx(1.0, abs=0.1)
        length = min(sound.channels.shape[1], wave.shape[1])
        loud = np.abs(np.fft.rfft(sound.mono()[:length])).argmax() / length * RATE
        assert loud == pytest.approx(440, abs=2)
    if format in ("WAV", "FLAC"):
        np.testing.assert_allclose(heard(content).channels, wave, atol=2**-14)


def test_what_soundfile_does_not_know_is_read_by_ffmpeg() -> None:
    sound = heard(m4a(tone(2.0)))
    assert sound.rate == RATE and sound.seconds == pytest.approx(2.0, abs=0.2)
    spectrum = np.abs(np.fft.rfft(sound.mono()))
    assert spectrum.argmax() / len(sound.mono()) * RATE == pytest.approx(440, abs=2)
    with pytest.raises(MediaError, match="at most 1 are taken"):
        heard(m4a(tone(2.0)), max_seconds=1)


def test_samples_with_their_rate() -> None:
    wave = tone(0.1, channels=2)
    for data in (
        (wave, RATE),
        {"array": wave, "sampling_rate": RATE},
        {"array": wave.tolist(), "sampling_rate": RATE, "path": "gone.wav"},
    ):
        np.testing.assert_allclose(heard(data).channels, wave, atol=1e-6)
    whole = (wave * 32767).astype(np.int16)
    np.testing.assert_allclose(heard((whole, RATE)).channels, wave, atol=1e-4)
    np.testing.assert_allclose(heard((wave, RATE)).mono(), wave.mean(axis=0), atol=1e-6)
    assert heard((wave[0], RATE)).channels.shape == (1, len(wave[0]))


WAV = encoded("WAV", tone(0.5))
BROKEN = {
    "empty": (b"", "the file is empty"),
    "noise": (bytes(range(256)) * 9, "no sound that can be opened"),
    "a text": (b"This is no sound at all.\n" * 9, "no sound that can be opened"),
    "a header alone": (WAV[:30], "cut off"),
    "half a WAV": (WAV[: len(WAV) // 2], "cut off"),
    "half a FLAC": (encoded("FLAC", tone())[:9000], "damaged|cut off"),
    "half an M4A": (m4a(tone())[:4000], "cut off"),
    "no samples": (encoded("WAV", tone(0)), "no samples"),
    "a playlist": (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/hosts\n", "can be opened"),
    "an address": ("https://example.org/a.wav", "never fetches"),
    "no such file": ("gone.wav", "cannot read the sound"),
    "nothing": (None, "cannot be made of NoneType"),
    "samples alone": (tone()[0], "cannot be made of ndarray"),
    "no rate": ((tone(), None), "need their rate"),
    "a silly rate": ((tone(), 0), "need their rate"),
    "three dimensions": ((tone()[None], RATE), "is no sound"),
    "samples first": ((tone().T, RATE), "is no sound"),
    "letters": ((np.array(["a", "b"]), RATE), "Give floats"),
    "not finite": ((np.array([0.0, np.nan], dtype=np.float32), RATE), "no numbers"),
    "too long": ((np.zeros(RATE * 4, dtype=np.float32), RATE), "at most 3 are taken"),
    "a long file": (encoded("FLAC", tone(4)), "at most 3 are taken"),
    "too large": (encoded("WAV", tone(2.9, 44_100)), "more than 200000 bytes"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_refused(name: str) -> None:
    data, message = BROKEN[name]
    opener = AudioOpener(max_seconds=3, max_bytes=200_000)
    with pytest.raises(MediaError, match=message) as caught:
        opener.open(Media.audio(data, label="the sound"))
    assert caught.value.where == "the sound"


def test_a_picture_with_the_name_of_a_sound(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "picture.wav"
    Image.new("RGB", (9, 9)).save(path, format="PNG")
    with pytest.raises(MediaError, match=r"holds no sound|no sound that can be opened"):
        heard(path)


def test_a_missing_library_is_named() -> None:
    with pytest.raises(MediaError, match=r"package not_there.*omnimix\[media\]"):
        needed("not_there", "sounds")


@pytest.mark.parametrize(("rate", "wanted"), [(22_050, 16_000), (16_000, 48_000), (8000, 8000)])
def test_another_rate(rate: int, wanted: int) -> None:
    wave = tone(0.501, rate)
    for found in (
        resampled(wave[0], rate, wanted),
        sinc(torch.from_numpy(wave), rate, wanted)[0].numpy(),
    ):
        assert len(found) == -(-wave.shape[1] * wanted // rate) and found.dtype == np.float32
        expected = tone(0.501, wanted)[0]
        middle = slice(len(found) // 4, len(found) // 2)
        if rate != wanted:  # the noise differs, the tones do not
            assert np.corrcoef(found[middle], expected[: len(found)][middle])[0, 1] > 0.98


@pytest.mark.parametrize("seconds", [0.3, 30.0, 31.0])
def test_log_mel_equals_whispers_extractor(seconds: float) -> None:
    wave = tone(seconds)
    wanted = WhisperFeatureExtractor()(wave[0], sampling_rate=RATE, return_tensors="pt")
    found = LogMel()(Tiles.holding(Sound(wave, RATE))).tensor()
    torch.testing.assert_close(found, wanted["input_features"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("seconds", [0.7, 4.0, 10.0, 10.005, 11.3, 25.0])
@pytest.mark.parametrize("fusion", [True, False])
def test_clap_mel_equals_claps_extractor(seconds: float, fusion: bool) -> None:
    wave = tone(seconds, 48_000)
    extractor = ClapFeatureExtractor(
        frequency_min=50, truncation="fusion" if fusion else "rand_trunc"
    )
    before = np.random.get_state()
    np.random.seed(5)
    wanted = extractor(wave[0], sampling_rate=48_000, return_tensors="pt")
    np.random.set_state(before)
    found = ClapMel(fusion=fusion, seed=5)(Tiles.holding(Sound(wave, 48_000))).tensor()
    assert found.shape == (1, 4 if fusion else 1, 1001, 64)
    torch.testing.assert_close(found, wanted["input_features"].float(), atol=1e-3, rtol=0)


def test_imagebind_hears_clips_from_beginning_to_end() -> None:
    wave = tone(5.0)
    step = ImageBindSound()
    before = wave.copy()
    whole = step(Tiles.holding(Sound(wave, RATE))).tensor()
    assert np.array_equal(wave, before)  # the quirk in place stays inside
    last = step(Tiles.holding(Sound(wave[:, 3 * RATE :], RATE))).tensor()
    torch.testing.assert_close(whole[:, 2], last[:, 0], atol=1e-2, rtol=0)
    short = step(Tiles.holding(Sound(wave[:, : RATE // 2], RATE))).tensor()
    silence = torch.full((1, 3, 1, 128, 204 - 48), 4.268 / 9.138)
    torch.testing.assert_close(short[..., 48:], silence)
    with pytest.raises(MediaError, match="less than one frame of 25 ms"):
        step(Tiles.holding(Sound(wave[:, :300], RATE)))
