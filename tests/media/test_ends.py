"""What a file holds is read, whatever its header says of it; a file that is cut off is refused."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings, strategies as st
from PIL import Image

from omnimix.errors import MediaError
from omnimix.media.audio import AudioOpener
from omnimix.media.video import VideoOpener
from omnimix.types import Media

RATE = 16_000
_TIME = np.arange(2 * RATE) / RATE
_NOISE = np.random.default_rng(0).normal(size=len(_TIME)) * 0.02
TONE = (0.4 * np.sin(2 * np.pi * 440 * _TIME) + _NOISE).astype(np.float32)


class Pipe:
    """Where a writer cannot go back."""

    def __init__(self) -> None:
        self.content = b""

    def write(self, data: bytes) -> int:
        self.content += bytes(data)
        return len(data)


def encoded(format: str, subtype: str | None = None, samples: np.ndarray = TONE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=format, subtype=subtype)
    return file.getvalue()


def ffmpeg(
    format: str,
    codec: str,
    step: int = 1024,
    pipe: bool = True,
    samples: np.ndarray = TONE,
    **options: str,
) -> bytes:
    file = Pipe() if pipe else io.BytesIO()
    with av.open(file, "w", format=format, options=options) as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.layout = "mono"
        kind = stream.codec_context.codec.audio_formats[0].name
        for start in range(0, len(samples), step):
            piece = samples[None, start : start + step]
            if not kind.startswith("flt"):
                piece = (piece * 32767).astype(np.int16 if "16" in kind else np.int32)
                piece = piece << 16 if "32" in kind else piece
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(piece), format=kind, layout="mono"
            )
            frame.sample_rate, frame.pts = RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.content if isinstance(file, Pipe) else file.getvalue()


def patched(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


def wav(whole: int, data: int, content: bytes | None = None) -> bytes:
    content = encoded("WAV", "PCM_16") if content is None else content
    at = content.index(b"data") + 4
    return patched(patched(content, 4, struct.pack("<I", whole)), at, struct.pack("<I", data))


def flac(total: int) -> bytes:
    content = encoded("FLAC")
    return patched(content, 21, bytes([content[21] & 0xF0]) + struct.pack(">I", total))


def heard(content: bytes) -> np.ndarray:
    sound = AudioOpener().open(Media.audio(content))
    assert sound.rate in (RATE, 48_000)  # Opus
    return sound.mono()


_PCM, _MP3 = encoded("WAV", "PCM_16"), ffmpeg("mp3", "libmp3lame", pipe=False)
_NO_XING = ffmpeg("mp3", "libmp3lame", write_xing="0")
_AIFF, _AU, _OGG, _GSM = encoded("AIFF"), encoded("AU"), encoded("OGG"), encoded("WAV", "GSM610")
WHOLE = {
    "FLAC without a length": flac(0),
    "FLAC with too long a length": flac(100_000),
    "FLAC with too short a length": flac(9000),
    "FLAC from a pipe": ffmpeg("flac", "flac"),
    "WAV of zeros": wav(0, 0),
    "WAV of ones": wav(2**32 - 1, 2**32 - 1),
    "WAV of sox": wav(0x7FFFF024, 0x7FFFF000),
    "WAV of a service": wav(2**31 - 1, 2**31 - 37),
    "WAV from a pipe": ffmpeg("wav", "pcm_s16le"),
    "WAV, whole size too large": wav(len(_PCM) + 100, len(_PCM) - 44),
    "WAV, whole size too small": wav(100, len(_PCM) - 44),
    "WAV, header counted": wav(len(_PCM), len(_PCM)),
    "WAV, notes behind the samples": wav(len(_PCM) + 8, len(_PCM) - 44) + b"LIST\4\0\0\0INFO",
    "RF64 from a pipe": ffmpeg("wav", "pcm_s16le", rf64="always"),
    "RF64": encoded("RF64"),
    "AIFF from a pipe": patched(_AIFF, _AIFF.index(b"SSND") + 4, struct.pack(">I", 0x7FFFFF00)),
    "AU from a pipe": patched(_AU, 8, b"\xff" * 4),
    "MP3 without a Xing frame": _NO_XING,
    "MP3 without a tag": ffmpeg("mp3", "libmp3lame", write_xing="0", id3v2_version="0"),
    "MP3 behind noise": b"\0" * 3000 + _NO_XING,
    "MP3 with a note behind it": _MP3 + b"TAG" + b"x" * 125,
    "GSM": _GSM,
    "GSM of zeros": wav(0, 0, _GSM),
    "G.721": encoded("WAV", "G721_32"),
    "G.721 in AU": encoded("AU", "G721_32"),
    "G.722 from a pipe": ffmpeg("wav", "adpcm_g722"),
    "IMA ADPCM": encoded("WAV", "IMA_ADPCM"),
    "MS ADPCM": encoded("WAV", "MS_ADPCM"),
    "NMS ADPCM": encoded("WAV", "NMS_ADPCM_32"),
    "mu-law": encoded("WAV", "ULAW"),
    "Opus": encoded("OGG", "OPUS"),
    "AAC from a pipe": ffmpeg("adts", "aac"),
    "M4A in fragments": ffmpeg("mp4", "aac", movflags="frag_keyframe+empty_moov"),
    "Matroska from a pipe": ffmpeg("matroska", "aac"),
}
JOINED = {
    "FLAC": encoded("FLAC") * 2,
    "FLAC without lengths": flac(0) * 2,
    "OGG": _OGG * 2,
    "OGG of two codecs": _OGG + encoded("OGG", "OPUS"),
    "MP3": _MP3 * 2,
    "MP3 with notes": _MP3 + b"TAG" + b"x" * 125 + _MP3,
    "MP3 without Xing frames": _NO_XING * 2,
    "MP3, the first with one": _MP3 + _NO_XING,
    "Opus": encoded("OGG", "OPUS") * 2,
    "AAC": ffmpeg("adts", "aac") * 2,
}
CUT = {
    "FLAC": encoded("FLAC")[:-100],
    "FLAC without a length": flac(0)[:9000],
    "WAV": _PCM[:30_001],
    "RF64": encoded("RF64")[:30_000],
    "WAV, a header alone": _PCM[:44],
    "AIFF": _AIFF[:30_000],
    "AU": _AU[:30_000],
    "OGG": _OGG[: len(_OGG) // 2],
    "OGG by a byte": _OGG[:-1],
    "MP3": _MP3[: len(_MP3) // 2],
    "M4A": ffmpeg("mp4", "aac", pipe=False)[:5000],
    "M4A in fragments": ffmpeg("mp4", "aac", movflags="frag_keyframe+empty_moov")[:-9000],
    "Matroska": ffmpeg("matroska", "aac", pipe=False)[:-3000],
    "FLV": ffmpeg("flv", "aac")[:-3000],
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_sound_is_as_long_as_what_it_holds(name: str) -> None:
    samples = heard(WHOLE[name])
    assert len(TONE) <= len(samples) <= len(TONE) + 2400
    assert np.abs(samples).max() == pytest.approx(np.abs(TONE).max(), abs=0.06)
    spectrum = np.abs(np.fft.rfft(samples))
    assert spectrum.argmax() / len(samples) * RATE == pytest.approx(440, abs=2)


@pytest.mark.parametrize("name", JOINED)
def test_joined_sounds_are_heard_one_after_another(name: str) -> None:
    samples = heard(JOINED[name])
    assert 2 * len(TONE) <= len(samples) <= 2 * len(TONE) + 4000
    for half in (samples[:RATE], samples[-RATE:]):
        assert np.abs(half).max() == pytest.approx(np.abs(TONE).max(), abs=0.1)


def test_joined_sounds_of_two_kinds_are_refused() -> None:
    wide = encoded("MP3", samples=np.stack([TONE, TONE], axis=1))
    for content in (_MP3 + wide, wide + _MP3, _OGG + encoded("OGG", samples=wide_tone())):
        with pytest.raises(MediaError, match="different rates or channels"):
            heard(content)


def wide_tone() -> np.ndarray:
    return np.stack([TONE, TONE], axis=1)


@pytest.mark.parametrize("name", CUT)
def test_a_sound_that_is_cut_off_is_refused(name: str) -> None:
    with pytest.raises(MediaError, match=r"cut off|damaged|no sound that can be opened"):
        heard(CUT[name])


@pytest.mark.parametrize("content", [flac(0), _NO_XING, wav(0, 0), ffmpeg("adts", "aac")])
def test_limits_hold_while_a_sound_is_decoded(content: bytes) -> None:
    with pytest.raises(MediaError, match="at most 1 are taken"):
        AudioOpener(max_seconds=1).open(Media.audio(content))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_what_a_wav_states_never_changes_what_is_heard(size: int) -> None:
    """The samples as they are, fewer where its own words end them sooner, or a sentence."""
    try:
        samples = heard(wav(size, size))
    except MediaError as error:
        assert len(_PCM) < size < 0x7FFF_0000 or "no samples" in str(error) or size < 4
    else:
        np.testing.assert_allclose(samples, TONE[: len(samples)], atol=2**-14)


def shade(i: int) -> Image.Image:
    return Image.new("RGB", (64, 48), (10 + 4 * i,) * 3)


def film(
    format: str,
    codec: str,
    stamps: Sequence[float],
    base: Fraction = Fraction(1, 1000),
    pipe: bool = False,
    **options: str,
) -> bytes:
    file = Pipe() if pipe else io.BytesIO()
    with av.open(file, "w", format=format, options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.bit_rate = 2_000_000
        stream.codec_context.time_base = base
        for i, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_image(shade(i)).reformat(format="yuv420p")
            frame.pts, frame.time_base = round(stamp / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.content if isinstance(file, Pipe) else file.getvalue()


def trimmed(content: bytes, first: int, length: int) -> bytes:
    """An MP4 with an edit list: shown from a tick of the media on, for so many thousandths of a second."""
    at = content.index(b"elst")
    return patched(content, at + 12, struct.pack(">ii", length, first))


def shown(content: bytes) -> list[tuple[float, int]]:
    """By the decoder: when and which."""
    with av.open(io.BytesIO(content)) as container:
        frames = [(float(f.time or 0), number(f.to_image())) for f in container.decode(video=0)]
    return [(time - frames[0][0], which) for time, which in frames]


def number(frame: Image.Image) -> int:
    return round((frame.getpixel((32, 24))[0] - 10) / 4)


def seen(content: bytes, **words: object) -> list[int]:
    return [number(frame) for frame in VideoOpener(**words).open(Media.video(content))]


EVEN = [i / 25 for i in range(40)]
VARYING = [i / 10 for i in range(10)] + [1 + i for i in range(10)]
GAPS = [0, 0.04, 0.2, 0.24, 0.4, 0.6, 0.64, 1.4]
LATE = [5000 + time for time in EVEN]
_FILM = film("mp4", "mpeg4", EVEN, use_editlist="1")
FILMS = {
    "even": _FILM,
    "trimmed at the end": trimmed(_FILM, 0, 600),
    "trimmed by a frame": trimmed(_FILM, 0, 1560),
    "trimmed at the start": trimmed(_FILM, 200, 1000),
    "one frame left": trimmed(_FILM, 0, 40),
    "varying, MP4": film("mp4", "mpeg4", VARYING),
    "varying, Matroska": film("matroska", "mpeg4", VARYING),
    "varying, WebM": film("webm", "libvpx", VARYING),
    "varying, FLV": film("flv", "flv1", VARYING),
    "varying, ASF": film("asf", "msmpeg4v3", VARYING),
    "varying, transport stream": film("mpegts", "mpeg4", VARYING),
    "dropped frames, AVI": film("avi", "mpeg4", GAPS, Fraction(1, 25)),
    "late, Matroska": film("matroska", "mpeg4", LATE),
    "late, transport stream": film("mpegts", "mpeg4", LATE),
    "Matroska from a pipe": film("matroska", "mpeg4", EVEN, pipe=True),
    "MP4 in fragments": film("mp4", "mpeg4", EVEN, pipe=True, movflags="frag_keyframe+empty_moov"),
    "no container": film("h264", "libx264", EVEN, Fraction(1, 25)),
}


@pytest.mark.parametrize("name", FILMS)
def test_frames_are_those_that_are_shown(name: str) -> None:
    held = [which for _, which in shown(FILMS[name])]
    wanted = [held[round(at)] for at in np.linspace(0, len(held) - 1, 5)]
    assert np.abs(np.array(seen(FILMS[name], num_frames=5)) - wanted).max() <= 1


@given(st.integers(0, 1400), st.integers(40, 1600))
@settings(max_examples=25, deadline=None)
def test_any_edit_list_is_what_the_decoder_makes_of_it(first: int, length: int) -> None:
    content = trimmed(_FILM, first, length)
    held = [which for _, which in shown(content)]
    if held:
        wanted = [held[round(at)] for at in np.linspace(0, len(held) - 1, 4)]
        assert np.abs(np.array(seen(content, num_frames=4)) - wanted).max() <= 1
    else:
        with pytest.raises(MediaError):
            seen(content, num_frames=4)


@pytest.mark.parametrize("name", sorted(FILMS.keys() - {"no container"}))
@pytest.mark.parametrize("fps", [1.0, 2.5])
def test_a_rate_goes_by_time_stamps(name: str, fps: float) -> None:
    held = shown(FILMS[name])
    count = int(held[-1][0] * fps + 1e-6) + 1
    wanted = [
        [which for time, which in held if time <= i / fps + 1e-6][-1] for i in range(min(count, 32))
    ]
    found = seen(FILMS[name], num_frames=32, sampling="rate", fps=fps)
    assert len(found) == len(wanted) and np.abs(np.array(found) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("content", "keep"),
    [
        (film("mp4", "mpeg4", EVEN, pipe=True, movflags="frag_keyframe+empty_moov"), 0.7),
        (_FILM, 0.5),
        (film("matroska", "mpeg4", EVEN), 0.99),
        (film("webm", "libvpx", EVEN), 0.6),
        (film("avi", "mpeg4", EVEN, Fraction(1, 25)), 0.5),
        (film("flv", "flv1", EVEN), 0.8),
        (film("ogg", "libvpx", EVEN, Fraction(1, 25)), 0.7),
        (film("mov", "mpeg4", EVEN), 0.3),
        (film("mp4", "libx264", EVEN), 0.95),
        (film("flv", "flv1", EVEN, pipe=True), 0.3),
    ],
)
def test_a_video_that_is_cut_off_is_refused(content: bytes, keep: float) -> None:
    with pytest.raises(MediaError, match=r"cut off|no video that can"):
        seen(content[: int(len(content) * keep)])


def test_a_picture_in_motion_needs_its_end() -> None:
    file = io.BytesIO()
    shade(0).save(file, "GIF", save_all=True, append_images=[shade(i) for i in range(1, 9)])
    assert seen(file.getvalue(), num_frames=3) == [0, 4, 8]
    with pytest.raises(MediaError, match=r"cut off|no video that can"):
        seen(file.getvalue()[:-40], num_frames=3)
