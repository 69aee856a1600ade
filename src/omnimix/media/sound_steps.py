"""Steps on sounds: what Whisper, CLAP and ImageBind are shown of one.

Each brings the sound to its own rate first. The rules are those of the published preparations of Whisper
(arXiv 2212.04356), CLAP (2211.06687) and ImageBind (2305.05665).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from omnimix import _transformers
from omnimix.errors import MediaError, RecipeError
from omnimix.media.audio import Sound
from omnimix.media.opening import chance, needed
from omnimix.media.tiles import RawStep

Whole = Annotated[int, Gt(0)]


class SoundStep(RawStep):
    """A step on a sound."""

    def of(self, raw: Any) -> Float[Tensor, "1 ..."]:
        if not isinstance(raw, Sound):
            raise RecipeError(
                f"the step {self.kind} works on sounds, got {type(raw).__name__.lower()}",
                hint="use it in a modality that opens audio",
            )
        return self.hear(raw)

    def hear(self, sound: Sound) -> Float[Tensor, "1 ..."]:
        """The tensor of a sound."""
        raise NotImplementedError


def resampled(
    samples: Float[np.ndarray, " before"], rate: int, wanted: int
) -> Float[np.ndarray, " after"]:
    """At another rate, by soxr at high quality, as long as librosa makes it (rounded up)."""
    if rate == wanted:
        return samples
    soxr = needed("soxr", "sounds of another rate")
    found: np.ndarray = soxr.resample(samples, rate, wanted, quality="HQ")
    length = math.ceil(len(samples) * wanted / rate)
    found = np.pad(found[:length], (0, max(0, length - len(found))))
    return found.astype(np.float32, copy=False)


class LogMel(SoundStep):
    """Whisper's spectrogram: log10 of Mel bands, at most 8 below the loudest, scaled; `[1, feature_size, frames]`.

    Attributes:
        sampling_rate: of the model in Hz.
        feature_size: Mel bands.
        chunk_length: seconds; a shorter sound is filled with silence, a longer one cut.
        n_fft: samples of a frame.
        hop_length: samples from one frame to the next.
    """

    kind: Literal["log_mel"] = "log_mel"
    sampling_rate: Whole = 16_000
    feature_size: Whole = 80
    chunk_length: Whole = 30
    n_fft: Whole = 400
    hop_length: Whole = 160

    def hear(self, sound: Sound) -> Float[Tensor, "1 bins frames"]:
        length = self.chunk_length * self.sampling_rate
        samples = resampled(sound.mono(), sound.rate, self.sampling_rate)[:length]
        wave = functional.pad(torch.from_numpy(samples), (0, length - len(samples)))
        window = torch.hann_window(self.n_fft)
        spectrum = torch.stft(wave, self.n_fft, self.hop_length, window=window, return_complex=True)
        bands = _bands(
            self.n_fft // 2 + 1, self.feature_size, 0.0, 8000.0, self.sampling_rate, "slaney"
        )
        mel = bands.T @ spectrum[:, :-1].abs().square()
        logs = mel.clamp(min=1e-10).log10()
        return ((logs.clamp(min=float(logs.max()) - 8) + 4) / 4)[None]


class ClapMel(SoundStep):
    """CLAP's spectrogram in dB, `[1, channels, frames, feature_size]`.

    A shorter sound is repeated whole as often as it fits and filled with silence. With `fusion` there are
    four channels: four times the same, or, of a longer sound, the whole squeezed and three parts of it,
    which are drawn with `seed` and the item's own `draw`, or stated by the sound's `crops`. Without, a longer one
    gives one part.

    Attributes:
        sampling_rate: of the model in Hz.
        feature_size: Mel bands.
        max_length_s: seconds that it looks at.
        fft_window_size: samples of a frame.
        hop_length: samples from one frame to the next.
        frequency_min: lower end of the bands in Hz.
        frequency_max: upper end of the bands in Hz.
        fusion: four channels or one.
        seed: of the parts of a longer sound.
    """

    kind: Literal["clap_mel"] = "clap_mel"
    sampling_rate: Whole = 48_000
    feature_size: Whole = 64
    max_length_s: Whole = 10
    fft_window_size: Whole = 1024
    hop_length: Whole = 480
    frequency_min: float = 50.0
    frequency_max: float = 14_000.0
    fusion: bool = True
    seed: int = 0

    @property
    def random(self) -> bool:
        return True

    def hear(self, sound: Sound) -> Float[Tensor, "1 channels frames bins"]:
        samples = resampled(sound.mono(), sound.rate, self.sampling_rate)
        most = self.max_length_s * self.sampling_rate
        draw = chance(self.seed, sound.draw)
        if len(samples) <= most:
            samples = np.tile(samples, most // len(samples))
            samples = np.pad(samples, (0, most - len(samples)))
        elif not self.fusion:
            beginnings = np.arange(len(samples) - most + 1)
            (start,) = self._starts([beginnings], draw, sound.crops)
            samples = samples[start : start + most]
        mel = self.decibels(samples)
        if not self.fusion:
            return mel[None, None]
        frames = most // self.hop_length + 1
        if len(mel) <= frames:
            return mel.expand(4, -1, -1)[None]
        thirds = np.array_split(np.arange(len(mel) - frames + 1), 3)
        starts = self._starts(thirds, draw, sound.crops)
        whole = functional.interpolate(
            mel[None, None], size=[frames, self.feature_size], mode="bilinear", align_corners=False
        )[0, 0]
        return torch.stack([whole, *(mel[start : start + frames] for start in starts)])[None]

    def _starts(
        self,
        ranges: Sequence[np.ndarray],
        draw: np.random.RandomState,
        stated: tuple[int, ...] | None,
    ) -> list[int]:
        """Where the parts of a longer sound begin: as stated, else one of each range by chance.

        Frames of the spectrogram with `fusion`, samples at the step's rate without.

        Raises:
            MediaError: stated beginnings that are too many, too few, or behind the last possible one.
        """
        if stated is None:
            return [int(draw.choice(one)) if len(one) else 0 for one in ranges]
        last = max(int(one[-1]) for one in ranges if len(one))
        if len(stated) != len(ranges) or max(stated) > last:
            raise MediaError(
                f"the sound states the crops {', '.join(map(str, stated))}",
                hint=f"there are {len(ranges)}, each between 0 and {last}",
            )
        return list(stated)

    def decibels(self, samples: np.ndarray) -> Float[Tensor, "frames bins"]:
        """The whole spectrogram of samples at the step's own rate."""
        kind = None if self.fusion else "slaney"
        bands = _bands(
            self.fft_window_size // 2 + 1,
            self.feature_size,
            self.frequency_min,
            self.frequency_max,
            self.sampling_rate,
            kind,
        )
        # In double precision: dB of near silence would show the rounding otherwise.
        wave = torch.from_numpy(samples.astype(np.float64))
        window = torch.hann_window(self.fft_window_size, dtype=torch.float64)
        spectrum = torch.stft(
            wave, self.fft_window_size, self.hop_length, window=window, return_complex=True
        )
        mel = bands.double().T @ spectrum.abs().square()
        return (10 * mel.clamp(min=1e-10).log10()).T.float()


@cache
def _bands(
    frequencies: int, bins: int, lowest: float, highest: float, rate: int, kind: str | None
) -> Float[Tensor, "frequencies bins"]:
    """Mel filters: Slaney's, of equal area, or the plain ones of HTK."""
    found = _transformers.mel_filters(frequencies, bins, lowest, highest, rate, kind)
    return torch.from_numpy(found)


class ImageBindSound(SoundStep):
    """ImageBind's clips of a sound, `[1, clips, 1, bins, frames]`: Kaldi filter banks of 2 seconds each.

    Two quirks of the original are kept: the first channel alone is heard, and the mean is taken off a clip in
    place, so that a clip which overlaps an earlier one sees samples that were moved already.

    Attributes:
        sampling_rate: of the model in Hz.
        num_mel_bins: Mel bands.
        clips: how many, spread evenly from beginning to end.
        seconds: of a clip.
        frames: a clip gives so many; missing ones are 0 before scaling.
        mean: taken off.
        std: divided by.
    """

    kind: Literal["imagebind_sound"] = "imagebind_sound"
    sampling_rate: Whole = 16_000
    num_mel_bins: Whole = 128
    clips: Whole = 3
    seconds: Whole = 2
    frames: Whole = 204
    mean: float = -4.268
    std: Annotated[float, Gt(0)] = 9.138

    def hear(self, sound: Sound) -> Float[Tensor, "1 clips 1 bins frames"]:
        wave = sinc(torch.from_numpy(sound.channels), sound.rate, self.sampling_rate).clone()
        if wave.shape[1] < _WINDOW * self.sampling_rate // 1000:
            raise MediaError(
                f"the sound has {wave.shape[1]} samples, less than one frame of {_WINDOW} ms",
                hint="give a longer one",
            )
        done = []
        for start, end in self._places(wave.shape[1] / self.sampling_rate):
            clip = wave[:, int(start * self.sampling_rate) : int(end * self.sampling_rate)]
            clip -= clip.mean()  # changes `wave`
            bank = kaldi(clip[0], self.sampling_rate, self.num_mel_bins).T[:, : self.frames]
            bank = functional.pad(bank, (0, self.frames - bank.shape[1]))
            done.append((bank - self.mean) / self.std)
        return torch.stack(done)[None, :, None]

    def _places(self, duration: float) -> list[tuple[Fraction, Fraction]]:
        """Where the clips begin and end, in seconds."""
        last = Fraction(max(duration - self.seconds, 0))
        apart = last / max(self.clips - 1, 1)
        return [(apart * i, apart * i + self.seconds) for i in range(self.clips)]


_WINDOW = 25  # ms
_SHIFT = 10  # ms
_EMPHASIS = 0.97
_LOWEST = 20.0  # Hz


def kaldi(wave: Float[Tensor, " samples"], rate: int, bins: int) -> Float[Tensor, "frames bins"]:
    """Log Mel filter banks as Kaldi makes them: Hann window, no dither, whole frames only."""
    size, shift = _WINDOW * rate // 1000, _SHIFT * rate // 1000
    frames = wave.unfold(0, size, shift)
    frames = frames - frames.mean(dim=1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    frames = (frames - _EMPHASIS * before) * torch.hann_window(size, periodic=False)
    padded = 1 << (size - 1).bit_length()
    power = torch.fft.rfft(frames, n=padded).abs().square()
    energies = power @ _triangles(bins, padded, rate).T
    logs: Tensor = energies.clamp(min=torch.finfo(torch.float32).eps).log()
    return logs


@cache
def _triangles(bins: int, padded: int, rate: int) -> Float[Tensor, "bins frequencies"]:
    """Triangles that are even on Kaldi's Mel scale; the last frequency belongs to none."""

    def mel(hertz: Tensor) -> Tensor:
        found: Tensor = 1127.0 * (1.0 + hertz / 700.0).log()
        return found

    low, high = mel(torch.tensor(_LOWEST)), mel(torch.tensor(rate / 2))
    delta = (high - low) / (bins + 1)
    left = low + torch.arange(bins)[:, None] * delta
    places = mel(rate / padded * torch.arange(padded // 2))[None]
    up = (places - left) / delta
    down = (left + 2 * delta - places) / delta
    return functional.pad(torch.minimum(up, down).clamp(min=0), (0, 1))


_ZEROS = 6  # zero crossings of the sinc on each side
_ROLLOFF = 0.99


def sinc(
    wave: Float[Tensor, "channels before"], rate: int, wanted: int
) -> Float[Tensor, "channels after"]:
    """At another rate by windowed sinc interpolation, as torchaudio resamples for ImageBind."""
    if rate == wanted:
        return wave
    common = math.gcd(rate, wanted)
    old, new = rate // common, wanted // common
    edge = min(old, new) * _ROLLOFF
    reach = math.ceil(_ZEROS * old / edge)
    points = torch.arange(-reach, reach + old, dtype=torch.float64) / old
    shifts = torch.arange(0, -new, -1, dtype=torch.float64)[:, None] / new
    times = ((shifts + points) * edge).clamp(-_ZEROS, _ZEROS)
    window = (times * math.pi / _ZEROS / 2).cos().square()
    kernel = (torch.sinc(times) * window * (edge / old)).float()[:, None]
    padded = functional.pad(wave, (reach, reach + old))[:, None]
    found = functional.conv1d(padded, kernel, stride=old).transpose(1, 2).flatten(1)
    return found[:, : math.ceil(new * wave.shape[1] / old)]
